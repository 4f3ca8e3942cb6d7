"""The page of an explanation: the verdicts first and no more than was measured, all of it text, nothing fetched."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from report.browser import Visits, check_page
from report.explanations import FakeExplanation, write_fake_explanation
from report.folders import EVIL
from report.parsed import Parsed
from stillroom.errors import BadInput
from stillroom.report.blocks import Values
from stillroom.report.explain.maps import BYTES, FEWEST, MOST, read_maps, shown
from stillroom.report.explain.page import content, headline, read_explanation, write_explanation
from stillroom.report.explain.plots import turnover
from stillroom.report.html import POLICY
from stillroom.report.run.page import write_report
from stillroom.schema.explanation import Explanation

Found = dict[str, Any]


def edit(folder: Path, change: Callable[[Found], object]) -> Path:
    """Change ``explain.json``."""
    path = folder / "explain.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    change(found)
    path.write_text(json.dumps(found), encoding="utf-8")
    return folder


def edit_maps(folder: Path, change: Callable[[dict[str, np.ndarray[Any, Any]]], object]) -> Path:
    """Change the arrays."""
    path = folder / "explain-maps.npz"
    with np.load(path) as file:
        held = {name: file[name] for name in file.files}
    change(held)
    np.savez(path, **held)
    return folder


def _evil(found: Found) -> None:
    for run in found["runs"]:
        run.update(run=EVIL, name=EVIL, tap=EVIL)
        run["speed"]["layer"] = EVIL
    found["teacher"]["name"] = EVIL
    found["images"]["mask"] = EVIL
    found["sensitivity"][0].update(what=EVIL, value=EVIL)
    found["cka"][0].update(one_taps=[EVIL] * 4, other_taps=[EVIL] * 4)
    found["attributions"] = {"method": EVIL, "library": EVIL}


SEEDS = (0, 1, 2)
ALONE = FakeExplanation(
    compared=False, teacher=False, moves=False, compared_networks=False, attributions=False, floats=True, epochs=(0, 4)
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Explanations by what they are, with their pages; tests read them."""
    home = tmp_path_factory.mktemp("explanations")
    fakes = {
        "usual": FakeExplanation(seeds=SEEDS, images=30),
        "one seed": FakeExplanation(moves=False),
        "alone": ALONE,
        "evil": FakeExplanation(),
    }
    made = {name: write_fake_explanation(home / name, fake) for name, fake in fakes.items()}
    edit(made["evil"], _evil)
    for folder in made.values():
        assert write_explanation(folder) == folder / "explain.html"
    return made


@pytest.fixture(scope="module")
def pages(folders: dict[str, Path]) -> dict[str, Parsed]:
    return {name: Parsed((at / "explain.html").read_text(encoding="utf-8")) for name, at in folders.items()}


def page_of(folder: Path) -> Values:
    found = read_explanation(folder)
    return content(found, read_maps(folder, found))


NAMES = ("usual", "one seed", "alone", "evil")


@pytest.mark.parametrize("name", NAMES)
def test_every_page_is_whole_and_fetches_nothing(pages: dict[str, Parsed], name: str) -> None:
    page = pages[name]
    assert page.open == []
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    named = {str(value) for _, attrs in page.elements for key, value in attrs.items() if key == "aria-labelledby"}
    links = {str(attrs["href"]) for tag, attrs in page.elements if tag == "a"}
    assert {link.removeprefix("#") for link in links} | named <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert (levels[0], levels.count(1)) == (1, 1)
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for tag, attrs in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        assert str(attrs.get("src", "data:")).startswith("data:")
        assert str(attrs.get("href", "#")).startswith("#")
        assert not any(key.startswith("on") for key in attrs)
    assert [attrs["content"] for _, attrs in page.elements if attrs.get("http-equiv")] == [POLICY]
    for wrong in ("NaN", "nan", "None", "Infinity", "undefined"):
        assert wrong not in page.words


def test_what_others_wrote_stays_text(pages: dict[str, Parsed]) -> None:
    page = pages["evil"]
    assert page.text.count(EVIL) > 6
    assert len(page.scripts) == len(pages["one seed"].scripts)
    assert not any(attrs.get("src") == "x" for _, attrs in page.elements)
    assert "49" not in page.text.replace("test image 49", "")


def test_the_verdicts_come_first(pages: dict[str, Parsed], folders: dict[str, Path]) -> None:
    words = pages["usual"].words
    found = read_explanation(folders["usual"])
    assert found.hypotheses[0].verdict == "supported", "of this fake"
    reported_first = [
        "Distillation made this student learn more concepts on the subject and fewer on the background",
        "Intervals are over 30 images and 3 seeds.",
        "The three hypotheses, measure by measure",
        "Where the information is",
        "Concepts over the training",
        "Concepts that were born and died",
        "Do other choices give the same verdicts?",
        "How often they give the same answer",
        "How alike their layers are",
        "How it was found",
    ]
    places = [words.index(text) for text in reported_first]
    assert places == sorted(places)
    assert [claim.verdict for claim in page_of(folders["usual"]).claims] == [one.verdict for one in found.hypotheses]
    assert "1 left out: a network does not respond to them" in words
    assert "by a box in the centre" in words


def test_nothing_is_claimed_where_nothing_was_compared(pages: dict[str, Parsed]) -> None:
    words = pages["alone"].words
    assert "At the end, " in words
    assert "this page shows what the student has learned, not what distillation changed" in words
    for claim in ("Distillation made", "Supported", "Refuted", "Undecided", "From labels", "hypotheses"):
        assert claim not in words
    for absent in ("Top-1", "CKA of", "Attribution", "Teacher"):
        assert absent not in words


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        (
            ("supported", "refuted", "undecided"),
            "Distillation made this student learn more concepts on the subject and fewer on the background. It did "
            "not make it learn its concepts sooner and all at once: the measures show the opposite. Whether "
            "it made it keep more of what it once learned is undecided.",
        ),
        (
            ("undecided", None, "refuted"),
            "Distillation did not make this student keep more of what it once learned: the measures show the "
            "opposite. Whether it made it learn more concepts on the subject and fewer on the background is "
            "undecided. Whether it made it learn its concepts sooner and all at once was not measured.",
        ),
        (
            ("undecided", "undecided", "supported"),
            "Distillation made this student keep more of what it once learned. Whether it made it learn more concepts "
            "on the subject and fewer on the background, or learn its concepts sooner and all at once is undecided.",
        ),
    ],
)
def test_the_headline_says_each_verdict(folders: dict[str, Path], verdicts: tuple[str | None, ...], words: str) -> None:
    alone = read_explanation(folders["one seed"])
    assert headline(alone).startswith("One seed decides nothing")
    found = read_explanation(folders["usual"])
    few = found.images.model_copy(update={"published": 3})
    assert headline(found.model_copy(update={"images": few})).startswith("Not decided")
    hypotheses = tuple(
        one.model_copy(update={"verdict": verdict, "measures": ()})
        for one, verdict in zip(found.hypotheses, verdicts, strict=True)
    )
    assert headline(found.model_copy(update={"hypotheses": hypotheses})) == words


def test_what_was_not_measured_is_said_to_be(pages: dict[str, Parsed], folders: dict[str, Path]) -> None:
    claim = page_of(folders["one seed"]).claims[1]
    assert (claim.verdict, claim.word, claim.details[0][0]) == ("unmeasured", "Not measured", "Not measured")
    speed = page_of(folders["one seed"]).claims[1]
    assert [(row.word, row.interval, row.difference) for row in speed.rows] == [("Not measured", None, "–")] * 2
    assert "One seed: the intervals are over images alone" in pages["one seed"].words


def test_other_choices_are_held_against_the_verdict(folders: dict[str, Path]) -> None:
    found = read_explanation(folders["usual"])
    rows = page_of(folders["usual"]).choices
    assert len(rows) == 1 + len(found.sensitivity)
    assert not any(cell.differs for cell in rows[0].cells)
    for row, other in zip(rows[1:], found.sensitivity, strict=True):
        for cell, one, usual in zip(row.cells, other.hypotheses, found.hypotheses, strict=True):
            assert cell.verdict == (one.verdict or "unmeasured")
            assert cell.differs == (one.verdict != usual.verdict)
    assert any(cell.differs for row in rows for cell in row.cells), "the fake's thresholds differ enough to show one"
    assert rows[3].what == "A stop at −3 nats"


def test_the_images_that_changed_most_come_first(folders: dict[str, Path]) -> None:
    folder = folders["usual"]
    found = read_explanation(folder)
    maps, pictures = read_maps(folder, found), page_of(folder).gallery
    assert (len(pictures.cards), pictures.of) == (MOST, 30)
    differ = [maps.concepts[seed][-1] ^ maps.concepts[3 + seed][-1] for seed in SEEDS]
    total = np.mean([each.sum((1, 2)) for each in differ], axis=0)
    by_row = dict(zip(found.images.rows, total.tolist(), strict=True))
    changes = [by_row[card.row] for card in pictures.cards]
    assert changes == sorted(total.tolist(), reverse=True)[:MOST]
    for card, change in zip(pictures.cards, changes, strict=True):
        assert sum(map(float, re.findall(r"[\d.]+(?= (?:gained|lost))", card.change))) == pytest.approx(change, abs=0.2)


def test_what_is_drawn_is_what_was_found(folders: dict[str, Path]) -> None:
    folder = folders["usual"]
    found = read_explanation(folder)
    maps, pictures = read_maps(folder, found), page_of(folder).gallery
    held = pictures.held
    chosen = [found.images.rows.index(card.row) for card in pictures.cards]
    assert (held["grid"], held["epochs"], len(held["distilled"]), len(held["labels"])) == (8, [0, 2, 5, 10], 3, 3)
    step = (held["high"] - held["low"]) / 255
    assert step < 0.02
    for key, places in (("distilled", (0, 1, 2)), ("labels", (3, 4, 5))):
        for packed, place in zip(held[key], places, strict=True):
            shades = np.frombuffer(base64.b64decode(packed["entropy"]), dtype=np.uint8).reshape(4, MOST, 8, 8)
            entropy = np.clip(maps.entropy[place][:, chosen], held["low"], held["high"])
            assert np.abs(held["low"] + step * shades - entropy).max() <= step / 2 + 1e-4
            bits = np.unpackbits(np.frombuffer(base64.b64decode(packed["concepts"]), dtype=np.uint8))
            assert np.array_equal(bits.reshape(4, MOST, 8, 8).astype(bool), maps.concepts[place][:, chosen])


def test_the_numbers_of_the_maps_are_theirs(folders: dict[str, Path]) -> None:
    folder = folders["usual"]
    found = read_explanation(folder)
    maps, pictures = read_maps(folder, found), page_of(folder).gallery
    held = pictures.numbers
    assert len(held.rows) == 3 * MOST
    image = found.images.rows.index(pictures.cards[0].row)
    mask = maps.foreground[image]
    teacher, ours, theirs = held.rows[:3]
    assert [row[0].rpartition(": ")[2] for row in held.rows[:3]] == ["Teacher", "Distilled", "From labels"]
    for row, places in ((ours, (0, 1, 2)), (theirs, (3, 4, 5))):
        first, last = (np.mean([maps.concepts[place][end][image][mask].sum() for place in places]) for end in (0, -1))
        assert row[1:3] == [f"{first:.1f}", f"{last:.1f}"]
        kept = np.mean([maps.entropy[place][-1][image][~mask].mean() for place in places])
        assert float(row[6].replace("−", "-")) == pytest.approx(kept, abs=0.006)
    assert maps.teacher is not None
    assert (teacher[1], teacher[2]) == ("–", f"{maps.teacher[1][image][mask].sum():.1f}")


def with_grid(found: Explanation, grid: int) -> Explanation:
    return found.model_copy(update={"search": found.search.model_copy(update={"grid": grid})})


def test_a_page_stays_of_a_few_megabytes(folders: dict[str, Path]) -> None:
    found = read_explanation(folders["usual"])
    assert shown(found, 200) == MOST
    assert shown(with_grid(found, 16), 200) == MOST
    large = with_grid(found, 96)
    held = large.search.grid**2 * len(found.epochs) * len(found.runs) * 4 / 3
    assert FEWEST < shown(large, 200) < MOST
    assert shown(large, 200) * held <= BYTES
    assert shown(with_grid(found, 224), 200) == FEWEST
    assert (folders["usual"] / "explain.html").stat().st_size < 6e6


def test_births_and_deaths_add_up(folders: dict[str, Path]) -> None:
    folder = folders["usual"]
    found = read_explanation(folder)
    maps = read_maps(folder, found)
    born, died = turnover([maps.concepts[0]], maps.foreground)
    counts = [one.n_fg for one in found.runs[0].checkpoints]
    assert (born - died).tolist() == pytest.approx(np.diff(counts).tolist(), abs=1e-4)
    charts = page_of(folder).changes
    assert [chart.title for chart in charts] == ["On the subject", "On the background"]
    assert len(charts[0].figure["data"]) == 4


def test_class_names_are_those_of_the_run(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    folder = write_fake_explanation(tmp_path / "named", FakeExplanation())
    assert {card.label for card in page_of(folder).gallery.cards} == {"class 0", "class 1", "class 2"}
    metadata = {"class_names": json.dumps(["cat", "<b>", "newt"])}
    save_file({"labels": np.zeros(1)}, folder / "predictions.safetensors", metadata)
    assert {card.label for card in page_of(folder).gallery.cards} == {"cat", "<b>", "newt"}
    (folder / "predictions.safetensors").write_bytes(b"damaged")
    assert page_of(folder).gallery.cards[0].label.startswith("class ")


def test_the_same_explanation_gives_the_same_bytes(folders: dict[str, Path], tmp_path: Path) -> None:
    again = write_explanation(folders["usual"], tmp_path / "again.html")
    assert again.read_bytes() == (folders["usual"] / "explain.html").read_bytes()


def test_a_runs_page_links_to_it_where_it_lies_compared_networks(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs["labels"], tmp_path / "run"))

    def links(page: Path) -> list[str | None]:
        elements = Parsed(page.read_text(encoding="utf-8")).elements
        return [attrs["href"] for tag, attrs in elements if tag == "a" and not str(attrs["href"]).startswith("#")]

    assert links(write_report([folder])) == []
    (folder / "explain.html").write_text("", encoding="utf-8")
    assert links(write_report([folder])) == ["explain.html"]
    assert links(write_report([folder], tmp_path / "elsewhere.html")) == []


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda at: (at / "explain.json").unlink(), "a run with explain.json"),
        (lambda at: (at / "explain.json").write_text("{"), "a JSON object"),
        (lambda at: edit(at, lambda found: found.update(schema=2)), "schema"),
        (
            lambda at: edit(at, lambda found: found["runs"][3].update(role="explained")),
            "one baseline for each run that is explained, or none",
        ),
        (lambda at: edit(at, lambda found: found["runs"][0]["checkpoints"].pop()), "the same checkpoints"),
        (
            lambda at: edit(at, lambda found: found["hypotheses"][0].update(verdict="so so")),
            "unknown value 'so so'",
        ),
        (lambda at: edit(at, lambda found: found["hypotheses"][0].update(hypothesis=4)), "hypothesis: got 4"),
        (lambda at: edit(at, lambda found: found["cka"][0].update(values=[[1]])), "a number for each tap"),
        (lambda at: edit(at, lambda found: found["agreement"][0].update(other=9)), "the place of a run, 0 to 3"),
        (lambda at: (at / "explain-maps.npz").unlink(), "a run with explain-maps.npz"),
        (lambda at: (at / "explain-maps.npz").write_bytes(b"PK"), "a whole file of maps"),
        (lambda at: edit_maps(at, lambda held: held.pop("concepts-1")), "concepts-1 as true or false"),
        (lambda at: edit_maps(at, lambda held: held.update(foreground=held["foreground"][:2])), "foreground as true"),
        (lambda at: edit_maps(at, lambda held: held["entropy-0"].fill(np.inf)), "entropy-0 that is finite"),
        (lambda at: edit_maps(at, lambda held: held.update(images=held["images"][:1])), "6 images"),
    ],
)
def test_damage_is_reported_in_one_line(tmp_path: Path, damage: Callable[[Path], object], expected: str) -> None:
    folder = write_fake_explanation(tmp_path / "run", FakeExplanation(seeds=(0, 1)))
    damage(folder)
    with pytest.raises(BadInput) as error:
        write_explanation(folder)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert not (folder / "explain.html").exists()


@pytest.mark.browser
def test_a_page_is_quiet_asks_for_nothing_and_fits(visit: Visits, folders: dict[str, Path]) -> None:
    check_page(visit(folders["evil"] / "explain.html"), accessible="body")
    with visit.anew(folders["alone"] / "explain.html", width=420) as watched:
        watched.page.wait_for_function("() => document.querySelector('[data-found=distilled]').title !== ''")
        watched.assert_fits()
        watched.assert_quiet()


@pytest.mark.browser
def test_the_slider_moves_the_maps_and_nothing_leaves_the_page(visit: Visits, folders: dict[str, Path]) -> None:
    with visit.anew(folders["usual"] / "explain.html") as watched:
        page = watched.page
        label = page.locator("#when-text")
        page.wait_for_function("() => document.querySelector('[data-found=distilled]').title !== ''")

        def drawn(side: str = "distilled") -> str:
            # Drawing waits for the next frame.
            page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            return page.evaluate(f"document.querySelector('canvas[data-side={side}]').toDataURL()")

        assert label.text_content() == "Epoch 10, after 4 of 4 checkpoints"
        last, teacher = drawn(), drawn("teacher")
        assert len(last) > 1000
        page.locator("#when").focus()
        page.keyboard.press("ArrowLeft")
        assert label.text_content() == "Epoch 5, after 3 of 4 checkpoints"
        earlier = drawn()
        assert earlier != last
        assert drawn("teacher") == teacher, "the teacher is trained, whatever the slider says"
        page.keyboard.press("Home")
        assert label.text_content() == "Epoch 0 (start), after 1 of 4 checkpoints"
        first = drawn()
        assert len({first, earlier, last}) == 3
        page.locator("button[data-value='1']").click()
        assert drawn() != first, "another seed"
        page.locator("button[data-value='0']").click()
        for look in ("concepts", "attribution"):
            page.locator(f"button[data-value={look}]").click()
            assert drawn() != first
            assert page.locator(f"[data-panel=look][data-value={look}]").is_visible()
        page.locator("button[data-value=entropy]").click()
        page.locator("#beneath").uncheck()
        assert drawn() != first
        assert page.locator(".sheet:visible").count() == 8
        page.locator("#more").click()
        assert page.locator(".sheet:visible").count() == MOST
        page.locator("#play").click()
        page.wait_for_function("() => document.getElementById('when-text').textContent.startsWith('Epoch 10')")
        assert page.locator("#play").text_content() == "▶ Play"
        watched.assert_quiet()

"""The depth × fidelity map on the page: what it shows, when it is hinted at, and how a damaged file is reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from report.browser import Visits, check_page
from report.folders import EVIL, Fake, write_run
from report.parsed import Parsed
from report.studies import FakeStudy, write_study
from stillroom.errors import BadInput
from stillroom.report.depth import depth_map
from stillroom.report.run.data import read_run
from stillroom.report.run.page import write_report
from stillroom.report.study.page import rewrite_run_page, write_run_pages

EPOCHS = (0.0, 2.0, 12.0)
# Of each tap: identity, diagonal, full.
TAPS = {
    "layer1": (0.14, 0.28, -0.10),
    "layer3": (0.70, 0.80, 0.99),
    "features": (0.92, 0.94, 0.99),
    "logits": (0.9,) * 3,
}


def correlation(value: float | None) -> dict[str, float | None]:
    return {"value": value, "low": None, "high": None} if value is None else interval(value)


def interval(value: float) -> dict[str, float | None]:
    return {"value": value, "low": max(value - 0.05, -1.0), "high": min(value + 0.04, 1.0)}


def prediction(value: float | None, ratio: float | None, checkpoints: int) -> dict[str, Any]:
    less = None if value is None else 0.9 * value
    return {
        "pooled": correlation(value),
        "within": correlation(less),
        "by_checkpoint": [less] * checkpoints,
        "ratio": ratio,
    }


def fidelity(
    taps: dict[str, tuple[float | None, ...]] | None = None, epochs: tuple[float, ...] = EPOCHS
) -> dict[str, Any]:
    """What `stillroom fidelity` writes, of made-up numbers."""
    names = taps or TAPS
    rows = []
    for place, (name, values) in enumerate(names.items()):
        members = [
            {
                "weighing": weighing,
                "loss": f"{weighing} loss",
                "gap": prediction(value, None if weighing == "identity" else 0.5, len(epochs)),
                "student": prediction(None if value is None else 0.5 * value, None, len(epochs)),
            }
            for weighing, value in zip(("identity", "diagonal", "full", "exact"), (*values, 1.0), strict=True)
        ]
        rows.append(
            {
                "teacher": name,
                "student": "blocks.0" if name == "layer1" else name,
                "depth": (place + 1) / len(names),
                "kind": "map",
                "shape": [16, 8, 8],
                "drawn_classes": 4 if name == "layer1" else 0,
                "explained": [] if name == "logits" else [0.2] * len(epochs),
                "divergence": [12.5] * len(epochs),
                "members": members,
            }
        )
    return {
        "schema": 1,
        "recipe_hash": "c0" * 32,
        "temperature": 4.0,
        "images": 512,
        "fitted_on": 1024,
        "ridge": 0.001,
        "resamples": 500,
        "checkpoints": [{"epoch": epoch, "divergence": 9.0} for epoch in epochs],
        "taps": rows,
    }


def write_map(run: Path, content: Any = None) -> Path:
    """Put a map into a run's folder, and return the folder."""
    text = content if isinstance(content, str) else json.dumps(content or fidelity())
    (run / "fidelity.json").write_text(text, encoding="utf-8")
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", Fake(each=20, examples=2))


def page_of(run: Path) -> Parsed:
    return Parsed(write_report([run]).read_text(encoding="utf-8"))


def test_both_maps_and_all_numbers_are_on_the_page(run: Path) -> None:
    page = page_of(write_map(run))
    assert page.open == []
    words = page.words
    for text in (
        "Fidelity: how well each loss at each layer ranks images",
        "The gap’s own divergence",
        "The student’s divergence",
        "1 at every tap",
    ):
        assert text in words
    # Two maps and the table: the pooled number of each, and the one within a checkpoint beside it.
    assert words.count("−0.10") >= 2
    assert "0.94 0.85" in words or "0.940.85" in words
    assert "512 test images, evenly spread" in words
    assert "epochs 0, 2 and 12" in words
    assert "At layer1 the Fisher diagonal is of 4 drawn classes" in words
    assert "stillroom fidelity RUN" not in words
    titles = [attrs.get("title") or "" for tag, attrs in page.elements if tag == "td"]
    assert any(title.startswith("full loss at layer1: −0.10, 95% −0.15 to −0.06; within") for title in titles)
    heads = [attrs.get("title") for tag, attrs in page.elements if tag == "th"]
    assert "teacher’s layer1, student’s blocks.0" in heads


def test_the_sentences_say_what_the_numbers_do(run: Path) -> None:
    found = read_run(write_map(run)).fidelity
    assert found is not None
    lead, deepest, lost, student = depth_map(found).sentences
    assert lead.startswith("The gap between student and teacher")
    assert "at features, the deepest tap before the logits" in deepest
    assert "reaches 0.92, weighed by the Fisher diagonal 0.94, by the full Fisher 0.99;" in deepest
    assert deepest.endswith("of the trained student alone 0.83, 0.85, 0.89.")
    assert lost.startswith("At layer1 (−0.10) the full Fisher predicts almost nothing")
    assert "by exact loss at layer1 (0.50), worst by full loss at layer1 (−0.05)" in student


def test_where_all_is_kept_that_is_said_and_nothing_of_what_is_lost(run: Path) -> None:
    close = dict.fromkeys(("layer1", "layer2", "logits"), (0.8, 0.9, 0.97))
    found = read_run(write_map(run, fidelity(close))).fidelity
    assert found is not None
    sentences = " ".join(depth_map(found).sentences)
    assert "At every tap the full Fisher predicts nearly all of it" in sentences
    assert "next to nothing" not in sentences


def test_one_checkpoint_has_one_number_a_cell(run: Path) -> None:
    found = read_run(write_map(run, fidelity(epochs=(12.0,)))).fidelity
    assert found is not None
    shown = depth_map(found)
    assert not shown.has_small
    assert {one.small for map_ in shown.maps for _, _, cells in map_.lines for one in cells} == {""}
    assert "the trained student alone" in shown.notes[0]


def test_logits_alone_and_numbers_that_are_not_there(run: Path) -> None:
    page = page_of(write_map(run, fidelity({"logits": (None, None, 0.3)})))
    assert "no taps in common but the logits" in page.words
    for wrong in ("None", "NaN"):
        assert wrong not in page.text


def keep_checkpoints(run: Path, count: int) -> None:
    (run / "checkpoints").mkdir()
    for epoch in range(count):
        (run / "checkpoints" / f"epoch-{epoch:04d}.safetensors").write_bytes(b"")


def test_a_run_that_could_have_a_map_says_which_command_makes_it(run: Path) -> None:
    assert "stillroom fidelity" not in page_of(run).words
    keep_checkpoints(run, 3)
    page = page_of(run)
    assert "This run kept 3 checkpoints of its student" in page.words
    assert "stillroom fidelity RUN" in page.words
    assert ("a", {"href": "#depth"}) in page.elements


@pytest.mark.parametrize(
    "change",
    [("teacher:", "teacher: {learns: true}\nother:"), ("source: parquet", "source: python")],
    ids=["peer", "python"],
)
def test_a_run_that_cannot_have_one_does_not(run: Path, change: tuple[str, str]) -> None:
    keep_checkpoints(run, 3)
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace(*change), encoding="utf-8")
    assert "stillroom fidelity" not in page_of(run).words


def test_names_of_taps_stay_text(tmp_path: Path) -> None:
    plain = write_map(write_run(tmp_path / "plain", Fake(each=20, examples=2)))
    evil = write_map(write_run(tmp_path / "evil", Fake(each=20, examples=2)), fidelity({EVIL: (0.1, 0.2, 0.1)}))
    page = page_of(evil)
    assert EVIL in page.text
    assert len(page.scripts) == len(page_of(plain).scripts)
    assert not any(attrs.get("src") == "x" for _, attrs in page.elements)


def test_made_again_a_page_of_a_study_stays_the_studys(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", FakeStudy(whole_runs=True, methods=("labels", "kl"), seeds=(0,)))
    write_run_pages(study)
    run = next(path.parent for path in sorted(study.rglob("summary.json")))
    before = (run / "report.html").read_text(encoding="utf-8")
    written = json.loads((run / "summary.json").read_text(encoding="utf-8"))["recipe_hash"]
    write_map(run, fidelity() | {"recipe_hash": written})
    assert rewrite_run_page(run) == run / "report.html"
    after = (run / "report.html").read_text(encoding="utf-8")
    assert "← Study" in before
    assert "← Study" in after
    assert "Fidelity: how well each loss at each layer ranks images" in after
    assert len(after) < 1_000_000, "plotly is the study's"


def without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content.pop(key)


DAMAGED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another schema": (lambda c: c.update(schema=2), "schema"),
    "another run's": (lambda c: c.update(recipe_hash="d0"), "it was made from another run"),
    "no taps": (without("taps"), "taps: missing"),
    "no checkpoints": (without("checkpoints"), "checkpoints: missing"),
    "taps that are none": (lambda c: c.update(taps=[1]), "taps.0: got 1"),
    "a member less": (lambda c: c["taps"][1]["members"].pop(), "taps.1.members: got"),
    "no correlation": (
        lambda c: c["taps"][0]["members"][2]["gap"]["pooled"].update(value=1.5),
        "taps.0.members.2.gap.pooled.value: got 1.5",
    ),
    "a divergence less": (lambda c: c["taps"][0]["divergence"].pop(), "taps.0.divergence: got '2 numbers'"),
    "a checkpoint less": (lambda c: c["taps"][0]["members"][0]["gap"].pop("by_checkpoint"), "by_checkpoint: missing"),
    "a last one that is none": (
        lambda c: c["taps"][0]["members"][0]["student"]["by_checkpoint"].__setitem__(-1, "x"),
        "student.by_checkpoint.2: got 'x'",
    ),
    "a depth beyond the end": (lambda c: c["taps"][0].update(depth=1.1), "taps.0.depth"),
    "a name that is none": (lambda c: c["taps"][0].update(teacher=3), "taps.0.teacher: got 3"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_reported_in_one_line(run: Path, name: str) -> None:
    damage, expected = DAMAGED[name]
    content = fidelity()
    damage(content)
    with pytest.raises(BadInput) as caught:
        write_report([write_map(run, content)])
    assert expected in str(caught.value)
    assert "fidelity.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1e999}', "\x00"])
def test_what_is_no_object_is_reported_in_one_line(run: Path, text: str) -> None:
    (run / "fidelity.json").write_text(text)
    with pytest.raises(BadInput, match=r"fidelity\.json"):
        write_report([run])


@pytest.mark.browser
def test_the_page_is_quiet_and_fits_a_desk_and_a_phone(visit: Visits, run: Path) -> None:
    many = {f"blocks.{place}.with_a_long_name": (0.1, 0.5, 0.9) for place in range(12)} | {"logits": (0.9, 0.9, 0.9)}
    check_page(visit(write_report([write_map(run, fidelity(many))])), accessible="#depth")

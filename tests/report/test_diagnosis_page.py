"""The page of a diagnosis: the verdict first, problems before the rest, all of it text, nothing fetched."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from report.browser import Visits, Watched, check_page
from report.folders import EVIL
from report.parsed import Parsed
from stillroom.diagnose.diagnosis import Diagnosis
from stillroom.errors import BadInput
from stillroom.report.diagnosis import page_of, write_diagnosis_page
from stillroom.report.html import POLICY
from stillroom.schema.diagnosis import Finding, Plot, Remedy, read_diagnosis

LINE = Plot("line", "Training loss", (1.0, 2.0, 3.0), (2.0, 1.0, 0.5), "epoch", "loss", 1.5)
BARS = Plot("bars", "Change by class", ("cat", "dog"), (-12.0, 3.0), "", "points", -5.0)
COUNTS = Plot("histogram", "Confidence", (0.0, 0.5, 1.0), (3, 900), "confidence", "images", 0.4)
FINDINGS = [
    Finding("over_fitting", "ok", "Not overfitted.", {"ratio": 1.25}, "Problem: 4 times.", None, "A book."),
    Finding(
        "miscalibrated", "warning", "Off: ECE 0.07.", {"ece": 0.07}, "Warning: .05.", Remedy("Divide."), "", (COUNTS,)
    ),
    Finding(
        "diverged",
        "problem",
        "The loss blew up: 90 times.",
        {"rise": 90.0, "finite": False, "by_layer": {"conv1": 3}, "none": None},
        "Problem: 3 times.",
        Remedy("Lower the rate.", {"training.optimizer.lr": 0.01}),
        "A reason.",
        (LINE, BARS),
    ),
    Finding("rescaling_gone", "skipped", "The run did not record it."),
    Finding("head_mismatch", "skipped", "The run did not record it."),
]


def verified(name: str, regained: float, verdict: str = "better", **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "checks": ["diverged"],
        "overrides": {},
        "score": {"name": name, "mean": 80 + regained, "low": 79.0, "high": 99.0, "seeds": 3},
        "regained": regained,
        "low": regained - 1,
        "high": regained + 1,
        "holm_p": 0.004,
        "verdict": verdict,
        "share_of_loss": regained / 10,
        "relative_steps": 1.0,
        **changes,
    }


VERIFICATION: dict[str, Any] = {
    "study": "remedies",
    "seeds": [0, 1, 2],
    "measure": {"name": "top1", "title": "top-1", "unit": "%", "digits": 2, "higher_is_better": True},
    "unchanged": {"name": "unchanged", "mean": 80.0, "low": 79.0, "high": 81.0, "seeds": 3},
    "labels": {**verified("labels", 2.0), "checks": []},
    "remedies": [
        verified("remedy-diverged", 8.0),
        verified("remedy-short", -1.0, "undecided", relative_steps=2.0, seeds_to_decide=7),
        verified("all-remedies", 10.0),
    ],
    "best": "all-remedies",
    "lost": 10.0,
    "conflicts": ["training.optimizer.lr: diverged wants 0.01, slow 0.3; the first is taken"],
    "not_verified": [{"check": "miscalibrated", "why": "its remedy is nothing that a recipe can say"}],
    "equal": False,
    "inequalities": ["budget: remedy-short has 20 epochs, the others 10"],
    "missing": ["all-remedies, seed 2: failed: not finite"],
}
EVIL_FINDING = Finding(
    EVIL,
    "problem",
    EVIL,
    {EVIL: [EVIL], "deep": {EVIL: {EVIL: 1}}},
    EVIL,
    Remedy(EVIL, {f"losses.{EVIL}.weight": EVIL}),
    EVIL,
    (
        Plot("bars", EVIL, (EVIL, "#ffffff"), (1.0, 2.0), EVIL, EVIL),
        Plot("line", EVIL, (1, 2, 3), (1, 2, 3), EVIL, EVIL),
    ),
)


def write_diagnosis(
    folder: Path, target: str, findings: list[Finding], verification: dict[str, Any] | None = None
) -> Path:
    """Write a diagnosis and its page; return the page."""
    Diagnosis.of(target, findings, verification).write(folder)
    return write_diagnosis_page(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Diagnoses by what they are, with their pages."""
    home = tmp_path_factory.mktemp("diagnoses")
    evil_verification = {
        **VERIFICATION,
        "remedies": [{**verified(EVIL, 8.0), "checks": [EVIL]}],
        "conflicts": [EVIL],
        "not_verified": [{"check": EVIL, "why": EVIL}],
        "inequalities": [EVIL],
        "missing": [EVIL],
    }
    made: dict[str, tuple[str, list[Finding], dict[str, Any] | None]] = {
        "usual": ("runs/kl", FINDINGS, VERIFICATION),
        "ok": ("runs/kl", FINDINGS[:1], None),
        "nothing": ("recipe.yaml", [], None),
        "evil": (EVIL, [EVIL_FINDING, Finding(EVIL, "skipped", EVIL), Finding(EVIL, "ok", EVIL)], evil_verification),
    }
    return {name: write_diagnosis(home / name, *parts).parent for name, parts in made.items()}


@pytest.fixture(scope="module")
def pages(folders: dict[str, Path]) -> dict[str, Parsed]:
    return {name: Parsed((at / "diagnosis.html").read_text(encoding="utf-8")) for name, at in folders.items()}


NAMES = ("usual", "ok", "nothing", "evil")


@pytest.mark.parametrize("name", NAMES)
def test_every_page_is_whole(pages: dict[str, Parsed], name: str) -> None:
    page = pages[name]
    assert page.open == []
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    named = {
        str(value)
        for _, attrs in page.elements
        for key, value in attrs.items()
        if key in ("data-copy", "aria-labelledby")
    }
    links = {str(attrs["href"]).removeprefix("#") for tag, attrs in page.elements if tag == "a"}
    assert links | named <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(attrs.get("aria-label") for _, attrs in page.elements if "data-plot" in attrs)
    for wrong in ("NaN", "nan%", "None", "Infinity", "undefined", "�"):
        assert wrong not in page.text


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_fetched(pages: dict[str, Parsed], name: str) -> None:
    for tag, attrs in pages[name].elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        assert str(attrs.get("src", "data:")).startswith("data:")
        assert str(attrs.get("href", "#")).startswith("#")
        assert not any(key.startswith("on") for key in attrs)
    assert [attrs["content"] for _, attrs in pages[name].elements if attrs.get("http-equiv")] == [POLICY]


def test_what_others_wrote_stays_text(pages: dict[str, Parsed]) -> None:
    page = pages["evil"]
    assert page.text.count(EVIL) > 10
    assert len(page.scripts) == len(pages["usual"].scripts)
    assert not any(attrs.get("src") == "x" for _, attrs in page.elements)
    assert "<" not in page.scripts[0], "the figures' JSON holds no tag, not even as text"
    assert "49" not in page.text


def test_the_verdict_comes_first_and_problems_before_the_rest(pages: dict[str, Parsed]) -> None:
    words = pages["usual"].words
    order = [
        "1 thing costs this student accuracy.",
        "Do this first: Lower the rate.",
        "stillroom distill runs/kl/recipe.yaml training.optimizer.lr=0.01",
        "What the remedies brought",
        "The loss blew up: 90 times.",
        "Off: ECE 0.07.",
        "Not overfitted.",
        "The run did not record it.",
    ]
    places = [words.index(text) for text in order]
    assert places == sorted(places)
    assert words.count("The run did not record it.") == 1, "a reason that several share is shown once"
    assert words.count("training.optimizer.lr=0.01") == 1, "a command is shown once"


def test_a_page_without_a_problem_says_so(pages: dict[str, Parsed]) -> None:
    assert "Nothing is wrong with this run, as far as 1 check can tell." in pages["ok"].words
    assert "No check could judge anything." in pages["nothing"].words


def test_what_a_remedy_regained_is_shown_with_interval_share_and_price(pages: dict[str, Parsed]) -> None:
    words = pages["usual"].words
    assert "All remedies together recovered most: +10.00 points [9.00 to 11.00]" in words
    assert all(text in words for text in ("+8.00", "7.00 to 9.00", "better, Holm p 0.004"))
    assert "80%" in words
    assert "2.0× the steps" in words
    assert "not decided, Holm p 0.004; about 7 seeds would settle it" in words
    assert "has another budget" in words
    assert "Conflict in all-remedies: training.optimizer.lr" in words
    assert "Miscalibrated: not verified" in words
    assert "Not equal: budget: remedy-short has 20 epochs" in words
    assert "Missing: all-remedies, seed 2: failed" in words


def test_a_student_that_is_better_off_without_is_shown_as_such(tmp_path: Path) -> None:
    verification = {**VERIFICATION, "labels": {**verified("labels", 12.0), "checks": []}, "best": "labels"}
    page = write_diagnosis(tmp_path, "runs/kl", FINDINGS, verification).read_text(encoding="utf-8")
    assert "it is better without this teacher" in page
    headline = Diagnosis.of("runs/kl", FINDINGS, verification).headline
    assert "The same student from labels alone is better still." in headline


@pytest.mark.parametrize(
    ("verdicts", "first"),
    [
        ({"remedy-diverged": "undecided", "remedy-short": "undecided"}, "Diverged."),
        ({"remedy-diverged": "worse", "remedy-short": "undecided"}, "Short."),
        ({"remedy-diverged": "undecided", "remedy-short": "better"}, "Short."),
        ({"remedy-diverged": "worse", "remedy-short": "worse"}, None),
    ],
)
def test_what_remedies_regained_decides_what_to_do_first(verdicts: dict[str, str], first: str | None) -> None:
    found = [Finding(check, "problem", "It is.", remedy=Remedy(f"{check.title()}.")) for check in ("diverged", "short")]
    remedies = [
        verified(name, 3.0, verdict, checks=[name.removeprefix("remedy-")]) for name, verdict in verdicts.items()
    ]
    diagnosis = Diagnosis.of("runs/kl", found, {**VERIFICATION, "remedies": remedies, "best": "remedy-diverged"})
    assert diagnosis.do_first == first


@pytest.mark.parametrize(
    ("what", "checks", "lead"),
    [
        ("runs/x", ["diverged", "over_fitting"], "2 things cost this student accuracy."),
        ("recipe.yaml", ["head_mismatch"], "1 thing will cost this student accuracy."),
        ("runs/x", ["miscalibrated"], "Nothing was found that costs this student accuracy, but its probabilities"),
        ("runs/x", ["diverged", "miscalibrated"], "1 thing costs this student accuracy; its probabilities cannot be"),
    ],
)
def test_the_lead_counts_what_costs_accuracy(what: str, checks: list[str], lead: str) -> None:
    diagnosis = Diagnosis.of(what, [Finding(check, "problem", "It is.") for check in checks])
    assert diagnosis.lead.startswith(lead)


def test_a_study_is_spoken_of_as_one(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("name: x\n")
    run = tmp_path / "runs" / "all" / "kl" / "seed-0"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("teacher: null\n")
    evidence = {"run": "runs/all/kl/seed-0"}
    found = Finding("under_training", "problem", "Short.", evidence, "", Remedy("Longer.", {"training.epochs": 9}))
    diagnosis = Diagnosis.of(str(tmp_path), [found, Finding("unequal", "problem", "No.")])
    assert diagnosis.lead == "2 things are wrong with this study."
    # It has no teacher to distil from.
    assert diagnosis.command == f"stillroom train {run}/recipe.yaml training.epochs=9"


def test_a_command_can_be_pasted_whatever_it_holds() -> None:
    remedy = Remedy("Labels.", {"losses": [{"name": "cross_entropy"}]})
    diagnosis = Diagnosis.of("my runs/a.yaml", [Finding("better_without", "problem", "Worse.", remedy=remedy)])
    assert diagnosis.command == "stillroom distill 'my runs/a.yaml' 'losses=[{\"name\": \"cross_entropy\"}]'"


def test_numbers_that_json_has_none_for_become_nothing() -> None:
    import numpy as np

    evidence = {"nan": float("nan"), "numpy": np.float32(0.5), "set": {1}, "path": Path("x")}
    (finding,) = Diagnosis.of("runs/x", [Finding("a", "problem", "b", evidence)]).as_dict()["findings"]
    assert finding["evidence"] == {"nan": None, "numpy": 0.5, "set": [1], "path": "x"}
    json.dumps(finding, allow_nan=False)


def test_the_same_diagnosis_gives_the_same_bytes(folders: dict[str, Path], tmp_path: Path) -> None:
    again = write_diagnosis_page(folders["usual"], tmp_path / "again.html")
    assert again.read_bytes() == (folders["usual"] / "diagnosis.html").read_bytes()


def test_each_kind_of_plot_shows_its_threshold(folders: dict[str, Path]) -> None:
    page = page_of(read_diagnosis(folders["usual"]))
    shapes = {chart.title: chart.figure["layout"]["shapes"][0] for chart in page.charts}
    assert (shapes["Training loss"]["y0"], shapes["Training loss"]["xref"]) == (1.5, "paper")
    assert (shapes["Change by class"]["x0"], shapes["Confidence"]["x0"]) == (-5.0, 0.4)


def _edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(path: Path) -> object:
        found = json.loads(path.read_text(encoding="utf-8"))
        change(found)
        return path.write_text(json.dumps(found), encoding="utf-8")

    return damage


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda path: path.unlink(), "a folder with diagnosis.json"),
        (lambda path: path.write_text("{"), "a JSON object"),
        (_edited(lambda found: found.update(schema=2)), "schema"),
        (_edited(lambda found: found["findings"][0].update(verdict="dead")), "verdict"),
        (_edited(lambda found: found["findings"][0]["plots"][0].update(kind="pie")), "kind"),
        (_edited(lambda found: found["findings"][0]["plots"][0].update(x=[1])), "a list of 3"),
        (_edited(lambda found: found["findings"][0]["plots"][0].update(x=["a", "b", "c"])), "finite numbers"),
        (_edited(lambda found: found["verification"]["remedies"][0].update(verdict="so so")), "remedies.0.verdict"),
    ],
)
def test_damage_is_one_line_of_error(tmp_path: Path, damage: Callable[[Path], object], text: str) -> None:
    folder = write_diagnosis(tmp_path, "runs/kl", FINDINGS, VERIFICATION).parent
    damage(folder / "diagnosis.json")
    (folder / "checksums.sha256").unlink()  # by hand, not by accident
    with pytest.raises(BadInput) as error:
        write_diagnosis_page(folder)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.browser
@pytest.mark.parametrize("name", ["usual", "evil"])
def test_a_page_is_quiet_asks_for_nothing_and_fits(visit: Visits, folders: dict[str, Path], name: str) -> None:
    def see_all(watched: Watched) -> None:
        watched.unfold()
        watched.scroll_through()

    check_page(visit(folders[name] / "diagnosis.html"), see_all, accessible="body" if name == "usual" else "")


@pytest.mark.browser
def test_a_command_is_copied(visit: Visits, folders: dict[str, Path]) -> None:
    watched = visit.on_desk(folders["usual"] / "diagnosis.html")
    button = watched.page.locator("[data-copy]").first
    button.click()
    watched.page.wait_for_function(
        "() => ['Copied', 'Press Ctrl+C'].includes(document.querySelector('[data-copy]').textContent)"
    )
    watched.assert_quiet()

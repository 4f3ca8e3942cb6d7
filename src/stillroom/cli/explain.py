"""``stillroom explain``: what distillation changed inside the student.

N_fg and N_bg count visual concepts on foreground and background, λ is the foreground's share. D_mean and D_std are mean
and spread, over images, of the weight distance at which an image had most of them. ρ is the share that stayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from stillroom.cli.app import UNDERSTAND, AsJson, app, print_json, resumable

if TYPE_CHECKING:
    from rich.table import Table

    from stillroom.schema.explanation import ConceptCounts, HypothesisTest

_SYMBOLS = {"n_fg": "N_fg", "n_bg": "N_bg", "ratio": "λ", "d_mean": "D_mean", "d_std": "D_std", "rho": "ρ"}


@app.command(rich_help_panel=UNDERSTAND)
def explain(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of finished runs with checkpoints, one a seed; or one folder of seed-N, as a study's method "
            "has.",
            metavar="RUN...",
        ),
    ],
    baseline: Annotated[
        list[Path] | None,
        typer.Option(
            "--baseline",
            help="The same student from labels, once for each RUN, in their order; or a folder of seed-N.",
            metavar="RUN",
        ),
    ] = None,
    tap: Annotated[
        str | None, typer.Option("--tap", help="Where features are read (`stillroom taps`); default: the last stage.")
    ] = None,
    images: Annotated[int, typer.Option("--images", help="Test images, or texts, evenly spread.")] = 50,
    grid: Annotated[
        int | None,
        typer.Option("--grid", help="Cells along a side; default: 16, or one a pixel where images are smaller."),
    ] = None,
    weight: Annotated[
        float | None, typer.Option("--weight", help="λ of the search; default: 6 for ResNets, 7 for others.")
    ] = None,
    mask: Annotated[
        str,
        typer.Option(
            "--mask",
            help="Foreground mask: the data's `masks`, a `centre` box, `positive` pixels, or a .npy file of the test "
            "split's masks [N, H, W] or boxes [N, 4] (top, left, bottom, right); auto: masks, else centre. Of texts "
            "the words that matter: FILE.txt of key words, FILE.jsonl of a list of words for each test text, or "
            "FILE.npy, [texts, tokens].",
        ),
    ] = "auto",
    passes: Annotated[
        int | None, typer.Option("--passes", help="Most network passes an image and checkpoint; default: 600.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the noise and of the intervals.")] = 0,
    attribute: Annotated[
        bool, typer.Option("--attributions", help="Also Captum's integrated gradients, for comparison (extra captum).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Explain what distillation changed in the student: which visual concepts it learned, how early, how steadily.

    At each checkpoint, noise shows which pixels of an image the student's last stage uses and which it discards
    (pixel-wise entropy, Cheng et al. 2020). Pixels used well beyond the background's mean are visual concepts. Their
    counts on foreground and background, when most of them appear, and how many stay, test three hypotheses against the
    same student trained from labels: supported, refuted or undecided, with 95% intervals over images and seeds.

    Of texts, what is kept of each word is shown and compared with the teacher (`explain-words.json`); where `--mask`
    says which words matter, concepts are counted among words. `--grid`, `--weight`, `--passes` and `--attributions`
    are for images.

    Writes `explain.html`, `explain.json` and `explain-maps.npz` into the first RUN. If it is stopped, the same command
    continues. It needs checkpoints and the weight distance of the probed layer, recorded while training: `stillroom
    distill … training.checkpoints=[0,1,2,5,10] training.record_weight_distance=[layer3.0.conv1]`.

    Example: `stillroom explain runs/kl --baseline runs/labels`, or of a study, with its seeds:
    `stillroom explain studies/x/runs/all/kl --baseline studies/x/runs/all/labels`
    """
    from stillroom.cli.terminal import ProgressBar
    from stillroom.explain.explanation import explain as find
    from stillroom.explain.runs import is_of_texts, runs_in
    from stillroom.report.explain.page import write_explanation
    from stillroom.schema.explanation import EXPLANATION

    runs = runs_in(runs)
    if runs and is_of_texts(runs[0]):
        of_images: dict[str, object] = {
            "--grid": grid,
            "--weight": weight,
            "--passes": passes,
            "--attributions": attribute or None,
        }
        _explain_words(runs, baseline or [], tap, images, None if mask == "auto" else mask, of_images, as_json)
        return
    with resumable():
        explanation = find(
            runs,
            baseline or [],
            tap=tap,
            images=images,
            grid=grid,
            weight=weight,
            mask=mask,
            passes=passes,
            seed=seed,
            attribute=attribute,
            observer=ProgressBar(),
        )
    page = write_explanation(runs[0])
    if as_json:
        print_json(
            {"run": str(runs[0]), "explain": str(runs[0] / EXPLANATION), "page": str(page), **explanation.as_dict()}
        )
        return
    stdout = Console(highlight=False)
    left = len(explanation.images.excluded)
    title = f"visual concepts, means of {len(explanation.images.rows)} images" + (f" ({left} left out)" if left else "")
    # A baseline often has the run's name: it is made of the same recipe.
    named = [
        (f"{run.name}{'' if run.role == 'explained' else ', from labels'}, seed {run.seed}", run.checkpoints)
        for run in explanation.runs
    ]
    teacher = None if explanation.teacher is None else (f"teacher {explanation.teacher.name}", explanation.teacher)
    stdout.print(_counts(title, named, teacher))
    _print_hypotheses(stdout, explanation.hypotheses, len(explanation.explained))
    stdout.print(f"written: {escape(str(page))}", soft_wrap=True)


def _explain_words(
    runs: list[Path],
    baselines: list[Path],
    tap: str | None,
    texts: int,
    mask: str | None,
    of_images: dict[str, object],
    as_json: bool,
) -> None:
    from stillroom.cli.terminal import ProgressBar, table
    from stillroom.errors import BadInput
    from stillroom.explain.words import explain_words
    from stillroom.report.explain.words import headline, network_title, write_word_explanation
    from stillroom.schema.explanation import EXPLANATION_WORDS, MeanOverTexts

    for option, value in of_images.items():
        if value is not None:
            raise BadInput(option, value, "a run on images; texts are explained by their words")
    with resumable():
        found = explain_words(runs, baselines, tap=tap, texts=texts, mask=mask, observer=ProgressBar())
    page = write_word_explanation(runs[0])
    if as_json:
        written = {"run": str(runs[0]), "explain": str(runs[0] / EXPLANATION_WORDS), "page": str(page)}
        print_json({**written, **found.as_dict()})
        return

    def number(mean: MeanOverTexts | None) -> str:
        return "–" if mean is None else f"{mean.mean:.2f} ({mean.low:.2f} … {mean.high:.2f})"

    rows = []
    for each in found.networks:
        for place, one in enumerate(each.checkpoints):
            name = network_title(each) if place == 0 else ""
            rows.append([name, f"{one.epoch:g}", number(one.with_teacher), number(one.with_end)])
    stdout = Console(highlight=False)
    title = f"rank correlation of what is kept of words, means of {len(found.texts)} texts"
    stdout.print(table(title, ["", "epoch", "with the teacher", "with the end"], rows))
    if found.rationales is not None:
        named = [(network_title(each), each.concepts) for each in found.networks]
        teacher = None if found.teacher_concepts is None else ("teacher", found.teacher_concepts)
        title = f"concepts, {found.rationales.words:.0%} of the words matter by {found.rationales.file}"
        stdout.print(_counts(title, named, teacher))
    _print_hypotheses(stdout, found.hypotheses, len([each for each in found.networks if each.role == "explained"]))
    stdout.print(headline(found), soft_wrap=True)
    stdout.print(f"written: {escape(str(page))}", soft_wrap=True)


def _counts(
    title: str, networks: Sequence[tuple[str, Sequence[ConceptCounts]]], teacher: tuple[str, ConceptCounts] | None
) -> Table:
    from stillroom.cli.terminal import table

    rows = []
    for name, checkpoints in networks:
        for place, one in enumerate(checkpoints):
            shown = [name if place == 0 else "", f"{one.epoch:g}"]
            rows.append([*shown, *map(_number, (one.n_fg, one.n_bg, one.ratio))])
    if teacher is not None:
        rows.append([teacher[0], "–", *map(_number, (teacher[1].n_fg, teacher[1].n_bg, teacher[1].ratio))])
    return table(title, ["", "epoch", "N_fg", "N_bg", "λ"], rows)


def _print_hypotheses(stdout: Console, hypotheses: Sequence[HypothesisTest], seeds: int) -> None:
    from stillroom.cli.terminal import table

    rows = []
    for one in hypotheses:
        for measure in one.measures:
            name = f"{one.hypothesis}. {_SYMBOLS[measure.measure]} {measure.expected}"
            values = map(_number, (measure.distilled, measure.labels, measure.difference))
            span = f"{_number(measure.low)} … {_number(measure.high)}"
            rows.append([name, *values, span, measure.verdict or "–"])
    if not rows:
        return
    columns = ["", "distilled", "labels", "difference", "95% interval", "verdict"]
    stdout.print(table("what distillation changed", columns, rows))
    for one in hypotheses:
        verdict = one.verdict or "not measured, as no weight distance was recorded"
        stdout.print(f"{one.hypothesis}. {one.claim}: {verdict}", soft_wrap=True)
    if seeds == 1:
        stdout.print("One seed: these intervals are over samples alone, not over seeds.")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"

"""What `stillroom list` prints: the names that a recipe can use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stillroom.errors import BadInput
from stillroom.losses.base import FAMILIES, Loss, LossConfig
from stillroom.losses.feature_base import FeatureLoss
from stillroom.losses.registry import losses
from stillroom.models.config import names
from stillroom.tasks import TASKS
from stillroom.train.config import OptimizerConfig, ScheduleConfig

_DATA = (
    {"name": "digits", "what": "1,797 handwritten digits of 8×8 pixels, embedded: the default"},
    {
        "name": "synthetic",
        "what": "vectors with known class relations and known difficulty of each sample, generated from a seed",
    },
    {"name": "shapes", "what": "images of shapes with exact masks, on backgrounds that may reveal the class"},
    {
        "name": "parquet",
        "what": "train.parquet, test.parquet or shards; a folder of save_to_disk; or hf:NAME",
    },
    {"name": "idx", "what": "a folder of idx files, gzipped or not: train-images-idx3-ubyte.gz and its like"},
    {"name": "folders", "what": "a folder of image files, one folder for each class: train/cat/1.png, test/cat/2.png"},
    {
        "name": "csv",
        "what": "a CSV file of image paths and labels, or a folder with train.csv and test.csv",
    },
)


def listing() -> dict[str, list[dict[str, str]]]:
    """Models, losses with their papers, data sources, optimizers and schedules.

    >>> [entry["name"] for entry in listing()["optimizers"]]
    ['sgd', 'adamw']
    """
    return {
        "models": [{"name": name, "what": what} for name, what in names()],
        "losses": [
            {
                "name": name,
                "what": _what(kind),
                "family": kind.family,
                "requires": _required(kind),
                "per sample": "yes" if kind.per_sample else "no",
                "cacheable": _cacheable(kind),
                "task": ", ".join(kind.tasks),
                "paper": str(kind.citation) if kind.citation else "–",
            }
            for name, kind in losses().items()
        ],
        "data": [dict(entry) for entry in _DATA],
        "optimizers": _choices(OptimizerConfig),
        "schedules": _choices(ScheduleConfig),
    }


def _what(kind: type[Loss[Any]]) -> str:
    """A loss in a line, with what else it is called."""
    line = (kind.Config.__doc__ or "").splitlines()[0]
    return f"{line} Also called {', '.join(kind.other_names)}." if kind.other_names else line


def _required(kind: type[Loss[Any]]) -> str:
    """What a loss requires, in words: ``teacher, labels``; taps are chosen at set-up, so features go by the option."""
    requires = kind.requires
    parts = {"teacher": requires.teacher, "labels": requires.labels or not requires.teacher, "index": requires.index}
    parts["attention"] = kind.reads_attention
    parts["features"] = (
        not kind.reads_attention and kind.family in ("features", "gradients") and "taps" in kind.Config.model_fields
    )
    return ", ".join(name for name, needed in parts.items() if needed)


def _cacheable(kind: type[Loss[Any]]) -> str:
    """What of the teacher a cache holds for a loss; ``no`` of one that reads no teacher."""
    if not kind.requires.teacher:
        return "no"
    features = issubclass(kind, FeatureLoss) or kind.reads_attention
    return "logits" + (", features" if features else ", gradients" if kind.requires.input_gradient else "")


def select_losses(entries: Sequence[dict[str, str]], **wanted: str | None) -> list[dict[str, str]]:
    """The entries of :func:`listing` with some words in their columns.

    Args:
        entries: of ``losses``.
        wanted: column → one of the words that it holds, ``paper`` → a part of it, in any case; None: all.

    Raises:
        BadInput: no entry has it.

    >>> rows = listing()["losses"]
    >>> [row["name"] for row in select_losses(rows, requires="index", paper="contrastive")]
    ['crd']
    """
    found = list(entries)
    for column, word in wanted.items():
        if word is None:
            continue
        option = f"--{column.replace('_', '-')}"
        if column == "paper":
            chosen = [entry for entry in found if word.lower() in entry["paper"].lower()]
            if not any(word.lower() in entry["paper"].lower() for entry in entries):
                raise BadInput(option, word, "a part of a paper's title, or of its arXiv number")
        else:
            key = column.replace("_", " ")
            known = sorted({each for entry in entries for each in entry[key].split(", ")})
            if word not in known:
                raise BadInput.unknown(option, word, known)
            chosen = [entry for entry in found if word in entry[key].split(", ")]
        found = chosen
    return found


def narrow_loss(entry: dict[str, str]) -> dict[str, str]:
    """An entry of ``losses`` in three columns, for a terminal."""
    properties = (entry["family"], entry["requires"], f"per sample: {entry['per sample']}")
    return {
        "name": entry["name"],
        "family, requires": "\n".join((*properties, f"cacheable: {entry['cacheable']}", f"task: {entry['task']}")),
        "what, paper": f"{entry['what']}\n{entry['paper']}",
    }


def loss_index() -> str:
    """Every loss with its options and paper, and every paper with its losses, as Markdown for ``docs/losses.md``."""
    lines = [
        "# Losses",
        "",
        "`stillroom list losses` prints this; `--family`, `--requires`, `--per-sample`, `--cacheable`, `--task`, "
        "`--paper` select. Each is a recipe entry (`losses: [{name: dkd, beta: 2}]`), a class (`sr.DKD(beta=2)`) and a "
        "pure function (`from stillroom.losses.functional import dkd`). By paper: [below](#by-paper). Coming from "
        "another library: [torchdistill](migrate/torchdistill.md), [mdistiller](migrate/mdistiller.md), "
        "[RepDistiller](migrate/repdistiller.md). What each costs: [losses-cost](results/losses-cost.md).",
    ]
    for family in FAMILIES:
        kinds = {name: kind for name, kind in losses().items() if kind.family == family}
        if not kinds:
            continue
        head = ["| name | what, paper | options and their defaults | requires | more |", "|---|---|---|---|---|"]
        lines += ["", f"## {family.capitalize()}", "", *head]
        for name, kind in kinds.items():
            options = ", ".join(f"`{key}`" + _default(value) for key, value in _options(kind).items()) or "–"
            what = _what(kind)
            tasks = "all" if kind.tasks == TASKS else ", ".join(kind.tasks)
            paper = f" {kind.citation}" if kind.citation else ""
            more = f"per sample: {'yes' if kind.per_sample else 'no'}; cacheable: {_cacheable(kind)}; tasks: {tasks}"
            lines.append(f"| `{name}` | {what}{paper} | {options} | {_required(kind)} | {more} |")
    lines += [
        "",
        "## By paper",
        "",
        "The recipe entries hold every option with its default. Losses that read no labels usually stand with "
        "`{name: cross_entropy}`.",
        "",
        "| paper | name | recipe |",
        "|---|---|---|",
    ]
    papers = sorted((str(kind.citation), place, name) for place, (name, kind) in enumerate(losses().items()))
    for paper, _, name in papers:
        if losses()[name].citation is not None:
            lines.append(f"| {paper} | `{name}` | `{_entry(name, _options(losses()[name]))}` |")
    return "\n".join(lines) + "\n"


def _options(kind: type[Loss[Any]]) -> dict[str, Any]:
    """A loss's own options with their defaults."""
    fields = kind.Config.model_fields
    return {key: field.default for key, field in fields.items() if key not in LossConfig.model_fields}


def _entry(name: str, options: dict[str, Any]) -> str:
    """A recipe's entry in one line of YAML; options that are none by default are left out."""
    written = {"name": name, **{key: value for key, value in options.items() if value is not None}}

    def word(value: Any) -> str:
        if isinstance(value, tuple):
            return f"[{', '.join(map(word, value))}]"
        return f"{value:g}" if isinstance(value, float) else str(value).lower()

    return "{" + ", ".join(f"{key}: {word(value)}" for key, value in written.items()) + "}"


def _default(value: object) -> str:
    """An option's default in words."""
    return f" ({value:g})" if isinstance(value, int | float) and not isinstance(value, bool) else f" ({value})"


def _choices(config: type[OptimizerConfig] | type[ScheduleConfig]) -> list[dict[str, str]]:
    schema = config.model_json_schema()["properties"]["name"]
    # What a run in Python was given is none that a recipe can choose.
    return [{"name": name, "what": _WHAT[name]} for name in schema["enum"] if name != "custom"]


_WHAT = {
    "sgd": "stochastic gradient descent with (Nesterov) momentum",
    "adamw": "Adam with decoupled weight decay",
    "one_cycle": "cosine up to the peak over the warm-up, cosine down to almost nothing",
    "cosine": "cosine from the peak to nothing, after a linear warm-up if asked",
    "multi_step": "drops by gamma at each milestone, after a linear warm-up if asked",
    "constant": "the peak throughout, after a linear warm-up if asked",
}

"""What `stillroom list` prints: the names that a recipe can use."""

from __future__ import annotations

from typing import Any

from stillroom.losses.base import FAMILIES, Loss, LossConfig
from stillroom.losses.registry import losses
from stillroom.models.config import names
from stillroom.train.config import OptimizerConfig, ScheduleConfig

_DATA = (
    {"name": "digits", "what": "1,797 handwritten digits of 8×8 pixels, embedded: the default"},
    {
        "name": "synthetic",
        "what": "vectors with known class relations and known difficulty of each sample, generated from a seed",
    },
    {"name": "shapes", "what": "images of shapes with exact masks, on backgrounds that may reveal the class"},
    {"name": "parquet", "what": "a folder in Hugging Face layout: train.parquet, test.parquet or shards of them"},
    {"name": "idx", "what": "a folder of idx files, gzipped or not: train-images-idx3-ubyte.gz and its like"},
    {"name": "folders", "what": "a folder of image files, one folder for each class: train/cat/1.png, test/cat/2.png"},
)


def listing() -> dict[str, list[dict[str, str]]]:
    """Models, losses with their citations, data sources, optimizers and schedules.

    >>> [entry["name"] for entry in listing()["optimizers"]]
    ['sgd', 'adamw']
    """
    return {
        "models": [{"name": name, "what": what} for name, what in names()],
        "losses": [
            {
                "name": name,
                "what": (kind.Config.__doc__ or "").splitlines()[0],
                "family": kind.family,
                "requires": _required(kind),
                "per sample": "yes" if kind.per_sample else "no",
                "citation": str(kind.citation) if kind.citation else "–",
            }
            for name, kind in losses().items()
        ],
        "data": [dict(entry) for entry in _DATA],
        "optimizers": _choices(OptimizerConfig),
        "schedules": _choices(ScheduleConfig),
    }


def _required(kind: type[Loss[Any]]) -> str:
    """What a loss requires, in words: ``teacher, labels``; taps are chosen at set-up, so features go by the option."""
    requires = kind.requires
    parts = {"teacher": requires.teacher, "labels": requires.labels or not requires.teacher, "index": requires.index}
    parts["features"] = kind.family in ("features", "gradients") and "taps" in kind.Config.model_fields
    return ", ".join(name for name, needed in parts.items() if needed)


def loss_index() -> str:
    """Every loss with its options and paper as Markdown, for ``docs/losses.md``."""
    lines = [
        "# Losses",
        "",
        "`stillroom list losses` prints this; `--family`, `--requires` select. Each is a recipe entry "
        "(`losses: [{name: dkd, beta: 2}]`), a class (`sr.DKD(beta=2)`) and a pure function "
        "(`from stillroom.losses.functional import dkd`).",
    ]
    for family in FAMILIES:
        kinds = {name: kind for name, kind in losses().items() if kind.family == family}
        if not kinds:
            continue
        head = ["| name | what | options | requires | per sample | paper |", "|---|---|---|---|---|---|"]
        lines += ["", f"## {family.capitalize()}", "", *head]
        for name, kind in kinds.items():
            own = [key for key in kind.Config.model_fields if key not in LossConfig.model_fields]
            defaults = {key: kind.Config.model_fields[key].default for key in own}
            options = ", ".join(f"`{key}`" + _default(value) for key, value in defaults.items()) or "–"
            what = (kind.Config.__doc__ or "").splitlines()[0]
            per_sample = "yes" if kind.per_sample else "no"
            lines.append(
                f"| `{name}` | {what} | {options} | {_required(kind)} | {per_sample} | {kind.citation or '–'} |"
            )
    return "\n".join(lines) + "\n"


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

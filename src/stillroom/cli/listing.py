"""What `stillroom list` prints: the names that a recipe can use."""

from __future__ import annotations

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
                "requires": "teacher" if kind.requires.teacher else "labels",
                "citation": f"{kind.citation.title} (arXiv {kind.citation.arxiv})" if kind.citation else "–",
            }
            for name, kind in losses().items()
        ],
        "data": [dict(entry) for entry in _DATA],
        "optimizers": _choices(OptimizerConfig),
        "schedules": _choices(ScheduleConfig),
    }


def _choices(config: type[OptimizerConfig] | type[ScheduleConfig]) -> list[dict[str, str]]:
    schema = config.model_json_schema()["properties"]["name"]
    return [{"name": name, "what": _WHAT[name]} for name in schema["enum"]]


_WHAT = {
    "sgd": "stochastic gradient descent with (Nesterov) momentum",
    "adamw": "Adam with decoupled weight decay",
    "one_cycle": "cosine up to the peak over the warm-up, cosine down to almost nothing",
    "cosine": "cosine from the peak to nothing, after a linear warm-up if asked",
    "multi_step": "drops by gamma at each milestone, after a linear warm-up if asked",
    "constant": "the peak throughout, after a linear warm-up if asked",
}

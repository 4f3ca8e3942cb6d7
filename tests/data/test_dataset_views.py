"""Datasets with random transforms of their own: views by (seed, view, index), or a teacher that runs live."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import stillroom as sr
from stillroom.data.config import AugmentationConfig
from stillroom.data.dataset import DatasetViews, from_dataset
from stillroom.data.images import ImageSet
from stillroom.data.loader import BatchLoader
from stillroom.errors import BadInput

COUNT, SIDE = 48, 6


class Transformed(Dataset[Any]):
    """Draws from all three global generators at each reading, or from one of its own."""

    def __init__(self, own: bool = False, changes: bool = True) -> None:
        colours = torch.rand(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        self.images, self.own, self.changes = colours, np.random.default_rng(1) if own else None, changes

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        if self.changes:
            noise = self.own.random() if self.own is not None else np.random.rand()
            image = image + 0.3 * noise + 0.1 * torch.rand(3, 1, 1)
            image = image.flip(-1) if random.random() < 0.5 else image
        return image, index % 3


def views_of(dataset: Dataset[Any]) -> ImageSet:
    return from_dataset(dataset, name="mine", field="train", views=True)


def test_a_view_is_the_same_in_any_order_and_leaves_the_generators_alone() -> None:
    data, config = views_of(Transformed()), AugmentationConfig(of_dataset=True, seed=5)
    assert isinstance(data.images, DatasetViews)
    assert "make the views" in data.notes[0]
    loader, order = BatchLoader(data, config, torch.device("cpu")), np.random.default_rng(0).permutation(COUNT)
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    before = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    whole, other = (next(loader.batches([(np.arange(COUNT), view)])).images for view in (1, 2))
    parts = [batch.images for batch in loader.batches([(order[:5], 1), (order[5:], 1)])]
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == before
    assert torch.equal(torch.cat(parts), whole[torch.from_numpy(order)])
    assert bool((whole != other).flatten(1).any(1).all())
    assert views_of(Transformed()).fingerprint == data.fingerprint
    part = data.subset(np.array([7, 3]))
    (batch,) = BatchLoader(part, config, torch.device("cpu")).batches([(np.array([0, 1]), 1)])
    assert torch.equal(batch.images, whole[[7, 3]])


def test_transforms_that_take_a_seed_are_seeded() -> None:
    """As those of albumentations, whose generator no global seed reaches."""

    class Noise:
        def set_random_seed(self, seed: int) -> None:
            self.draws = np.random.default_rng(seed)

    dataset = Transformed(own=True)
    noise = dataset.transform = Noise()  # type: ignore[attr-defined]
    noise.set_random_seed(0)
    type(dataset).__getitem__, kept = (
        lambda self, k: (self.images[k] + noise.draws.random(), k % 3),
        dataset.__getitem__,
    )
    try:
        data = views_of(dataset)
    finally:
        type(dataset).__getitem__ = kept.__func__
    assert isinstance(data.images, DatasetViews)
    assert data.images.repeats


def test_test_images_may_not_change() -> None:
    with pytest.raises(BadInput, match="the same image and label each time"):
        from_dataset(Transformed())


class Net(nn.Module):
    """Gives its logits in some form."""

    def __init__(self, form: str, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.form, self.body, self.head = form, nn.Linear(3 * SIDE * SIDE, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        hidden = self.body(x.flatten(1)).relu()
        logits = self.head(hidden)
        return {"tuple": (logits, hidden), "dict": {"logits": logits, "hidden": hidden}, "tensor": logits}[self.form]


def distil(out: Path, dataset: Any, cache: bool | str, forms: tuple[str, str] = ("tensor", "tensor")) -> Any:
    return sr.distill(
        Net(forms[0], 0),
        Net(forms[1], 1),
        dataset,
        Transformed(changes=False),
        losses=[sr.CrossEntropy(), sr.KL(temperature=2)],
        training={"epochs": 4, "log_every": 1},
        augmentation={"views": 2},
        batch_size=16,
        cache={"enabled": cache, "dtype": "float32"},
        out=out,
        progress=False,
    )


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_cache_on_is_cache_off_for_a_datasets_own_transforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    distil(tmp_path / "off", Transformed(), False)
    # The same with models that give a tuple and a dict.
    run = distil(tmp_path / "on", Transformed(), True, ("tuple", "dict"))
    for off, on in zip(lines(tmp_path / "off"), lines(tmp_path / "on"), strict=True):
        assert on.keys() == off.keys()
        assert [on[key] for key in on if key != "split"] == pytest.approx(
            [off[key] for key in on if key != "split"], 1e-4
        )
    assert run.predict(torch.rand(2, 3, SIDE, SIDE)).shape == (2, 3)
    assert "of_dataset: true" in (tmp_path / "on" / "recipe.yaml").read_text()


def test_one_that_answers_anew_each_time_is_taught_live(tmp_path: Path) -> None:
    data = views_of(Transformed(own=True))
    assert "the teacher runs live" in data.notes[0]
    assert data.fingerprint == views_of(Transformed(own=True)).fingerprint
    with pytest.raises(BadInput, match=r"cache\.enabled.*false or auto"):
        distil(tmp_path / "on", Transformed(own=True), True)
    distil(tmp_path / "auto", Transformed(own=True), "auto")
    assert "enabled: false" in (tmp_path / "auto" / "recipe.yaml").read_text()

"""CKA, agreement and attributions, against what is worked out otherwise."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stillroom.data.images import ImageSet
from stillroom.errors import BadInput
from stillroom.explain.similarity import (
    CKA_IMAGES,
    agreement,
    attributions,
    captum_version,
    gram_matrices,
    linear_cka,
    tap_names,
)
from stillroom.models.config import ModelConfig
from stillroom.models.prepared import PreparedModel
from stillroom.models.registry import build


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def hsic_of_all_fours(k: Tensor, m: Tensor) -> float:
    """The unbiased estimator as it is defined: a mean over all fours of different images."""
    fours = list(permutations(range(len(k)), 4))
    return sum(float(k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])) for i, j, q, r in fours) / len(fours)


def test_cka_is_that_of_all_fours_of_images() -> None:
    x, y = normal(6, 4).double(), normal(6, 9, seed=1).double()
    y[:, :4] += 2 * x
    k, m = (each - each.mean(0) for each in (x, y))
    k, m = k @ k.T, m @ m.T
    expected = hsic_of_all_fours(k, m) / (hsic_of_all_fours(k, k) * hsic_of_all_fours(m, m)) ** 0.5
    assert linear_cka(x, y) == pytest.approx(expected, rel=1e-9)


def test_unrelated_layers_of_many_features_are_not_called_alike() -> None:
    x, y = normal(40, 5000), normal(40, 5000, seed=1)
    k, m = (each - each.mean(0) for each in (x, y))
    biased = float(((k @ k.T) * (m @ m.T)).sum() / ((k @ k.T).norm() * (m @ m.T).norm()))
    assert biased > 0.9
    assert abs(linear_cka(x, y)) < 0.2


def test_a_layer_that_says_nothing_has_no_cka() -> None:
    assert linear_cka(torch.ones(8, 3), normal(8, 3)) != linear_cka(torch.ones(8, 3), normal(8, 3))  # NaN
    with pytest.raises(BadInput, match="as many rows in both"):
        linear_cka(normal(8, 3), normal(7, 3))


def test_the_tap_names_a_network_are_asked_about_images_evenly_spread() -> None:
    model = build(ModelConfig(name="resnet8", options={"width": 4}), num_classes=3, in_channels=1, image_size=16).eval()
    images = torch.randint(0, 256, (CKA_IMAGES + 60, 1, 16, 16), dtype=torch.uint8)
    data = ImageSet(images, torch.zeros(len(images), dtype=torch.int64), ("a", "b", "c"), "")
    prepared = PreparedModel(model, None, True, "")
    names = tap_names(prepared, data)
    grams = gram_matrices(prepared, names, data)
    assert names == ("layer1", "layer2", "layer3", "features", "logits")
    assert [tuple(gram.shape) for gram in grams] == [(CKA_IMAGES, CKA_IMAGES)] * 5


def left(folder: Path, guesses: list[int], labels: list[int], teacher: list[int] | None = None) -> Path:
    folder.mkdir()
    tensors = {"student_logits": torch.eye(3)[guesses], "labels": torch.tensor(labels)}
    if teacher is not None:
        tensors["teacher_logits"] = torch.eye(3)[teacher]
    save_file(tensors, folder / "predictions.safetensors")
    return folder


def test_agreement_is_counted_over_the_answers(tmp_path: Path) -> None:
    one = left(tmp_path / "one", [0, 1, 2, 2], [0, 1, 1, 0], teacher=[0, 2, 2, 0])
    other = left(tmp_path / "other", [0, 1, 0, 2], [0, 1, 1, 0])
    assert agreement(one, other) == (0.75, 0.5, 4)
    assert agreement(one, None) == (0.5, 0.25, 4)
    # Without a teacher, with other images, without answers: nothing is claimed.
    assert agreement(other, None) is None
    assert agreement(one, left(tmp_path / "else", [0, 1, 0, 2], [0, 1, 1, 1])) is None
    assert agreement(one, tmp_path / "none") is None


def test_attributions_of_a_linear_network_are_its_weights_times_the_image() -> None:
    pytest.importorskip("captum")
    assert captum_version()
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False))
    images, labels = normal(3, 1, 4, 4), torch.tensor([0, 1, 1])
    images[2] = 0
    found = attributions(PreparedModel(net, None, False, ""), images, labels, 2)
    for image, label, cells in zip(images[:2], labels.tolist(), found, strict=False):
        moved = (image[0] * net[1].weight[label].reshape(4, 4)).abs().detach()
        expected = moved.reshape(2, 2, 2, 2).sum((1, 3))
        assert torch.allclose(cells, expected / expected.sum(), atol=1e-5)
    assert torch.equal(found[2], torch.full((2, 2), 0.25))


def test_attributions_without_captum_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("stillroom.explain.similarity.version", missing)
    with pytest.raises(BadInput, match=r"stillroom\[captum\]"):
        captum_version()

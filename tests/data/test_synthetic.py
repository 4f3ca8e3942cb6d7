"""The task that is made: its geometry, its labels, what is known of it, and that it is the same anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillroom.cli import run
from stillroom.data.augmentation import check_augmentable
from stillroom.data.config import AugmentationConfig, DataConfig, SyntheticConfig
from stillroom.data.images import ImageSet, Truth
from stillroom.data.sources import load, load_split, parse_data_argument
from stillroom.data.synthetic import SyntheticTask, label_samples, make_task, read_synthetic, superclass_numbers
from stillroom.errors import BadInput
from stillroom.recipe import parse_recipe

SMALL = {"dimension": 20, "classes": 6, "superclasses": 3, "train": 300, "test": 120}


def small(**changes: Any) -> SyntheticConfig:
    return SyntheticConfig(**{**SMALL, **changes})


def data(**changes: Any) -> DataConfig:
    return DataConfig(source="synthetic", synthetic=small(**changes))


def truth_of(images: ImageSet) -> Truth:
    assert images.truth is not None
    return images.truth


# The task


@pytest.mark.parametrize("similarity", [0.0, 0.5, 0.7, 1.0])
def test_relations_are_as_stated(similarity: float) -> None:
    config = SyntheticConfig(similarity=similarity)
    relations, group = make_task(config).relations, superclass_numbers(config)
    expected = np.where(group[:, None] == group, similarity**2, 0.0)
    np.fill_diagonal(expected, 1.0)
    assert np.abs(relations - expected).max() < 1e-12
    assert not np.signbit(relations).any()


def test_the_directions_are_orthonormal() -> None:
    """At s = 1 and s = 0 the class vectors are the two kinds of directions themselves."""
    config = SyntheticConfig(dimension=60)
    shared, own = (make_task(config.model_copy(update={"similarity": s})).class_vectors for s in (1.0, 0.0))
    directions = np.concatenate([shared[::5], own])
    assert np.abs(directions @ directions.T - np.eye(60)).max() < 1e-12
    mixed = make_task(config).class_vectors
    assert np.allclose(mixed, 0.7 * shared + np.sqrt(1 - 0.49) * own)


def test_in_few_dimensions_the_vectors_are_orthogonal_as_far_as_there_is_room() -> None:
    task = make_task(SyntheticConfig(dimension=13, classes=24, superclasses=3, similarity=0.0))
    own = task.class_vectors
    for first in (0, 10):
        block = own[first : first + 10]
        assert np.abs(block @ block.T - np.eye(len(block))).max() < 1e-12
    assert np.allclose(np.linalg.norm(own, axis=1), 1)
    shared = make_task(SyntheticConfig(dimension=13, classes=24, superclasses=3, similarity=1.0)).class_vectors
    assert np.abs(own @ shared.T).max() < 1e-12
    assert 0.1 < np.abs(task.relations - np.eye(24)).max() <= 1, "what is known of it is what it is, not what was meant"


@pytest.mark.parametrize(("classes", "superclasses"), [(50, 10), (7, 3), (5, 5), (4, 1)])
def test_classes_are_shared_out_evenly_and_in_order(classes: int, superclasses: int) -> None:
    numbers = superclass_numbers(SyntheticConfig(classes=classes, superclasses=superclasses))
    counts = np.bincount(numbers, minlength=superclasses)
    assert len(numbers) == classes
    assert counts.max() - counts.min() <= 1
    assert sorted(numbers.tolist()) == numbers.tolist()


def test_scores_by_hand() -> None:
    task = SyntheticTask(
        np.array([[1.0, 0.0], [0.6, 0.8]]), frequencies=np.array([0.5, 2.0]), phases=np.array([0.0, 1.0])
    )
    scores = task.scores(np.array([[1.0, 2.0]]))
    first = 1.0 + np.sin(0.5) + np.sin(3.0)
    second = 2.2 + np.sin(1.1) + np.sin(5.4)
    assert scores == pytest.approx(np.array([[first, second]]), abs=1e-6)


def test_margins_by_hand() -> None:
    scores = np.array([[3.0, 1.0, 2.5], [0.0, 0.0, -1.0], [3.0, 1.0, 2.5]])
    noise = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.75]])
    labels, margin = label_samples(scores, noise)
    assert labels.tolist() == [0, 0, 2]
    assert margin.tolist() == [0.5, 0.0, -0.5]
    assert label_samples(scores)[1].tolist() == [0.5, 0.0, 0.5]


def test_one_or_two_waves_bend_a_score_and_more_break_its_order() -> None:
    x = torch.randn(2000, 500, generator=torch.Generator().manual_seed(0)).double().numpy()
    agree = []
    for waves in (0, 1, 2, 4, 8, 16):
        task = make_task(SyntheticConfig(waves=waves))
        agree.append(100 * float((task.scores(x).argmax(1) == (x @ task.class_vectors.T).argmax(1)).mean()))
    assert agree[:3] == [100, 100, 100]
    assert agree[3:] == pytest.approx([87, 56, 40], abs=4)


# Its samples


def test_a_split_is_vectors_with_all_that_is_known_of_them() -> None:
    pair = load(data())
    for images, count in ((pair.train, 300), (pair.test, 120)):
        assert images.images.shape == (count, 20, 1, 1)
        assert (images.name, images.channels, images.image_size, images.is_pixels) == ("synthetic", 20, 1, False)
        assert images.class_names == ("s0.0", "s0.1", "s1.0", "s1.1", "s2.0", "s2.1")
        assert images.superclasses == ("s0", "s0", "s1", "s1", "s2", "s2")
        assert truth_of(images).margin.shape == (count,)
        assert torch.equal(truth_of(images).relations, torch.from_numpy(make_task(small()).relations))


@pytest.mark.parametrize("similarity", [0.0, 0.7, 1.0])
def test_the_label_is_the_largest_score_and_the_margin_its_lead(similarity: float) -> None:
    config = small(noise=0.0, similarity=similarity)
    images = read_synthetic(config, "train")
    scores = torch.from_numpy(make_task(config).scores(images.images[:].flatten(1).double().numpy()))
    largest = scores.topk(2).values
    assert torch.allclose(scores.gather(1, images.labels[:, None])[:, 0], largest[:, 0])
    assert torch.allclose(truth_of(images).margin.double(), largest[:, 0] - largest[:, 1], atol=1e-6)


def test_of_classes_that_cannot_be_distinguished_the_first_is_the_label() -> None:
    # More classes than a matrix product takes in one go, whatever the machine.
    images = read_synthetic(SyntheticConfig(dimension=30, classes=59, superclasses=3, similarity=1, noise=0), "test")
    assert set(images.labels.tolist()) == {0, 20, 40}
    assert torch.equal(truth_of(images).margin, torch.zeros(len(images)))


def test_noise_moves_the_labels_whose_margin_is_small() -> None:
    quiet, noisy = (read_synthetic(small(train=5000, noise=noise), "train") for noise in (0.0, 0.2))
    assert torch.equal(quiet.images[:], noisy.images[:])
    moved = noisy.labels != quiet.labels
    assert 0.03 < float(moved.float().mean()) < 0.3
    assert torch.equal(truth_of(noisy).margin < 0, moved)
    assert torch.equal(truth_of(noisy).margin[~moved], truth_of(quiet).margin[~moved])
    assert float(truth_of(quiet).margin[moved].quantile(0.9)) < float(truth_of(quiet).margin.median())


def test_samples_are_standard_normal_and_no_two_alike() -> None:
    pair = load(data(train=4000, test=4000))
    for images in (pair.train, pair.test):
        x = images.images[:].flatten(1).double()
        assert torch.allclose(x.T @ x / len(x), torch.eye(20, dtype=torch.float64), atol=0.1)
        assert abs(float(x.mean())) < 0.02
        # Normal in its tails, too: shares beyond 1, 2 and 3 standard deviations.
        shares = [float((x.abs() > edge).double().mean()) for edge in (1, 2, 3)]
        assert shares == pytest.approx([0.3173, 0.0455, 0.0027], rel=0.15)
    together = torch.cat([pair.train.images[:], pair.test.images[:]]).flatten(1)
    assert len(together.unique(dim=0)) == 8000
    counts = torch.bincount(pair.train.labels).double()
    assert float(counts.min()) > 0.7 * float(counts.mean())


# The same anywhere


def test_the_same_options_give_the_same_bytes_in_any_process_and_on_any_machine() -> None:
    pair = load(data())
    assert pair.train.fingerprint == "ffcbbb576d11aa311a04e60dbd3569236b1f5da611774a0f70df2cd1b692ad77"
    assert pair.test.fingerprint == "aac29bfdb3dc4d6817837ea29a83d66e52f956b3edf6414511195500e23ea316"
    margins = truth_of(pair.train).margin[:4].tolist()
    assert margins == pytest.approx([1.469182, 6.688220, 0.040473, -0.164772], abs=1e-6)


def test_samples_do_not_depend_on_how_many_there_are_nor_on_what_was_read_before() -> None:
    # More numbers than are made at a time, so that the pieces differ.
    many, few = (read_synthetic(SyntheticConfig(test=count), "test") for count in (4300, 40))
    assert torch.equal(many.images[:40], few.images[:])
    assert torch.equal(many.labels[:40], few.labels)
    assert torch.equal(truth_of(many).margin[:40], truth_of(few).margin)
    read_synthetic(small(), "train")
    assert load_split(data(), "test").fingerprint == load(data(train=2)).test.fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"dimension": 21},
        {"classes": 7},
        {"superclasses": 2},
        {"similarity": 0.2},
        {"waves": 8},
        {"noise": 1},
        {"seed": 1},
    ],
)
def test_each_option_changes_the_data(changes: dict[str, Any]) -> None:
    assert load(data(**changes)).train.fingerprint != load(data()).train.fingerprint


def test_similarity_moves_no_sample() -> None:
    near, far = (read_synthetic(small(similarity=s), "train") for s in (0.9, 0.0))
    assert torch.equal(near.images[:], far.images[:])
    assert not torch.equal(near.labels, far.labels)


# Parts of it


def test_parts_keep_what_is_known_of_their_samples() -> None:
    whole = load(data()).train
    for part in (
        whole.subset(np.array([7, 2, 30])),
        whole.balanced_subset(50),
        whole.balanced_subset(100).subset(np.array([3, 1])).balanced_subset(1),
    ):
        rows = [int((whole.images[:] == image).flatten(1).all(1).nonzero()) for image in part.images[:]]
        assert torch.equal(truth_of(part).margin, truth_of(whole).margin[rows])
        assert torch.equal(truth_of(part).relations, truth_of(whole).relations)
        assert part.superclasses == whole.superclasses
    assert truth_of(whole.subset(np.array([7, 2]))).margin.tolist() == [
        float(truth_of(whole).margin[i]) for i in (7, 2)
    ]


def test_limits_and_a_holdout_keep_it_too() -> None:
    config = data().model_copy(update={"train_limit": 100, "holdout": 0.25})
    whole, pair = load(config.model_copy(update={"holdout": None})).train, load(config)
    assert (len(pair.train), len(pair.test)) == (75, 25)
    for part in (pair.train, pair.test):
        assert part.subset_info is not None
        assert torch.equal(truth_of(part).margin, truth_of(whole).margin[torch.from_numpy(part.subset_info.rows)])
        assert part.superclasses == whole.superclasses


def test_a_truth_of_another_set_is_refused() -> None:
    images, margin = torch.zeros(3, 2), torch.zeros(3)
    relations = torch.eye(2, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0])
    ImageSet(images, labels, ("a", "b"), "x", truth=Truth(relations, margin))
    for truth, field in (
        (Truth(torch.eye(3, dtype=torch.float64), margin), "relations"),
        (Truth(relations, margin[:2]), "margin"),
        (Truth(relations.float(), margin), "relations"),
    ):
        with pytest.raises(BadInput, match=rf"data\.truth\.{field}: got .*float"):
            ImageSet(images, labels, ("a", "b"), "x", truth=truth)


# Its options


def refused(content: dict[str, Any], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        parse_recipe({"data": content, "student": {"name": "mlp"}})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"classes": 1}, r"data\.synthetic\.classes: got 1; expected greater than or equal to 2"),
        ({"similarity": 1.5}, r"data\.synthetic\.similarity: got 1\.5; expected less than or equal to 1"),
        ({"noise": -1}, r"data\.synthetic\.noise: got -1"),
        ({"waves": True}, r"data\.synthetic\.waves: got True; expected a number"),
        ({"simlarity": 0.5}, r"data\.synthetic\.simlarity: unknown field 'simlarity'; did you mean 'similarity'"),
        ({"classes": 5}, r"data\.synthetic: got .* at most as many superclasses as classes, 5, not 10"),
        ({"dimension": 10}, r"data\.synthetic: got .* a dimension above the number of superclasses, 10, not 10"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], match: str) -> None:
    refused({"source": "synthetic", "synthetic": options}, match)


@pytest.mark.parametrize("source", ["auto", "digits", "python"])
def test_the_options_are_refused_beside_other_sources(source: str) -> None:
    refused({"source": source, "synthetic": {}}, f"no synthetic with source: {source}; set source: synthetic")


def test_what_it_cannot_follow_is_refused() -> None:
    refused({"source": "synthetic", "path": "x"}, "no path with source: synthetic, which is made")
    refused({"source": "synthetic", "image_size": 8}, "no image_size with source: synthetic")
    with pytest.raises(BadInput, match=r"data\.test_split: got 'dev'; .* test, train"):
        load(data().model_copy(update={"test_split": "dev"}))
    with pytest.raises(BadInput, match=r"a sample of .synthetic. is .*not an image"):
        check_augmentable(load(data()).train, AugmentationConfig(flip=True))


def test_data_that_cannot_be_held_are_refused_before_they_are_made() -> None:
    with pytest.raises(BadInput, match=r"data\.synthetic\.train: got '1000000000000 samples .* fit into memory"):
        read_synthetic(small(train=10**12), "train")
    with pytest.raises(BadInput, match="fit into memory"):
        read_synthetic(small(dimension=10**11, test=2), "test")


def test_a_resolved_recipe_holds_every_number_and_others_stay_what_they_were() -> None:
    recipe = parse_recipe({"data": {"source": "synthetic"}, "student": {"name": "mlp"}})
    written = recipe.model_dump(mode="json")["data"]
    assert written["synthetic"] == SyntheticConfig().model_dump()
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe
    assert "synthetic" not in DataConfig().model_dump()
    assert "synthetic:" not in parse_recipe({"student": {"name": "mlp"}}).to_yaml()
    assert parse_data_argument("synthetic") == DataConfig(source="synthetic")


# A run on it


def test_a_student_learns_it_from_a_teacher_like_any_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    shared = {
        "data": {"source": "synthetic", "synthetic": {**SMALL, "waves": 0}, "batch_size": 30},
        "student": {"name": "mlp", "options": {"hidden": [16]}},
        "training": {"epochs": 4},
    }
    teacher = {"name": "mlp", "options": {"hidden": [16]}, "weights": str(tmp_path / "t" / "student.safetensors")}
    (tmp_path / "t.yaml").write_text(json.dumps(shared))
    taught = {**shared, "teacher": teacher, "losses": [{"name": "kl"}, {"name": "feature_mse", "weight": 0.1}]}
    (tmp_path / "s.yaml").write_text(json.dumps(taught))
    assert run(["train", str(tmp_path / "t.yaml"), "--out", str(tmp_path / "t")]) == 0
    assert run(["distill", str(tmp_path / "s.yaml"), "data.holdout=0.2", "--out", str(tmp_path / "s")]) == 0
    assert run(["report", str(tmp_path / "s")]) == 0
    summary = json.loads((tmp_path / "s" / "summary.json").read_text())
    assert summary["data"] == {
        **summary["data"], "name": "synthetic", "train": 240, "test": 60, "shape": [20, 1, 1], "pixels": False
    }  # fmt: skip
    assert summary["top1"] > 50
    assert summary["distilled"]
    assert "s2.1" in (tmp_path / "s" / "report.html").read_text()

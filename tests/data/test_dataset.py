"""Python datasets of every kind of item, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from stillroom.data.dataset import from_dataset
from stillroom.errors import BadInput

LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]


class Mapped(Dataset[Any]):
    """A map-style dataset that does not raise IndexError at its end, as many do not."""

    def __init__(self, images: list[Any], labels: list[Any], classes: Any = None) -> None:
        self.images, self.labels = images, labels
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> tuple[Any, Any]:
        return self.images[position % len(self)], self.labels[position % len(self)]


class Streamed(IterableDataset[Any]):
    def __init__(self, pairs: list[Any]) -> None:
        self.pairs = pairs

    def __iter__(self) -> Iterator[Any]:
        return iter(self.pairs)


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """As torchvision's ToTensor does it."""
    return torch.from_numpy(array).permute(2, 0, 1).contiguous().to(torch.float32).div(255)


RGB = {
    "pillow": Image.fromarray,
    "uint8 tensor": lambda array: torch.from_numpy(array).permute(2, 0, 1),
    "numpy": lambda array: array,
}
GREY = {
    "pillow": Image.fromarray,
    "uint8 tensor": torch.from_numpy,
    "numpy": lambda array: array,
    "numpy with channel": lambda array: array[..., None],
}


@pytest.mark.parametrize("kind", RGB)
def test_rgb_items_of_every_kind_become_the_same_pixels(kind: str, colours: np.ndarray) -> None:
    images = from_dataset(Mapped([RGB[kind](each) for each in colours], LABELS), name="mine")
    assert images.images.dtype == torch.uint8
    assert torch.equal(images.images, torch.from_numpy(colours).permute(0, 3, 1, 2))
    assert (images.labels.tolist(), images.class_names, images.name) == (LABELS, ("0", "1", "2"), "mine")


@pytest.mark.parametrize("kind", GREY)
def test_grey_items_of_every_kind_become_the_same_pixels(kind: str, greys: np.ndarray) -> None:
    images = from_dataset(Mapped([GREY[kind](each) for each in greys], LABELS))
    assert torch.equal(images.images, torch.from_numpy(greys)[:, None])


@pytest.mark.parametrize("whole", [False, True], ids=["items", "tensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 5, 4), (7,), (5, 4), (2, 3, 5, 4), (4, 6, 6)])
def test_floats_are_kept_as_they_are(shape: tuple[int, ...], dtype: torch.dtype, whole: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    # Some are k/255, as ToTensor makes them.
    for values in (torch.randn(12, *shape, generator=draw), torch.randint(0, 256, (12, *shape), generator=draw) / 255):
        given = values.to(dtype)
        dataset: Any = TensorDataset(given, torch.tensor(LABELS)) if whole else Mapped(list(given), LABELS)
        images = from_dataset(dataset)
        assert not images.is_pixels
        assert images.images.dtype == dtype
        assert torch.equal(images.images, given)


def test_float_arrays_are_kept_as_they_are(colours: np.ndarray) -> None:
    items = [each / 255 for each in colours]
    images = from_dataset(Mapped(items, LABELS)).images
    assert images.dtype == torch.float64
    assert np.array_equal(images.numpy(), np.stack(items))


@pytest.mark.parametrize("mode", ["RGBA", "CMYK"])
def test_pictures_of_four_channels_keep_them(mode: str) -> None:
    draw = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 4), dtype=np.uint8)
    images = from_dataset([(Image.fromarray(each, mode), 0) for each in draw])
    assert torch.equal(images.images, torch.from_numpy(draw).permute(0, 3, 1, 2))


def test_a_picture_with_alpha_among_rgb_becomes_rgb(colours: np.ndarray) -> None:
    pictures = [Image.fromarray(colours[0]), Image.fromarray(colours[1]).convert("RGBA")]
    images = from_dataset([(each, 0) for each in pictures])
    assert torch.equal(images.images, torch.from_numpy(colours[:2]).permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    "make", [Streamed, list, iter, lambda pairs: Mapped([a for a, _ in pairs], [b for _, b in pairs])]
)
def test_any_way_of_going_through_them(make: Any, colours: np.ndarray) -> None:
    images = from_dataset(make([(each, label) for each, label in zip(colours, LABELS, strict=True)]))
    assert torch.equal(images.images, torch.from_numpy(colours).permute(0, 3, 1, 2))
    assert images.labels.tolist() == LABELS


@pytest.mark.parametrize("number", [int, np.int32, np.uint8, torch.tensor, np.array, lambda n: np.array([n])])
def test_class_numbers_of_every_kind(number: Any, colours: np.ndarray) -> None:
    assert from_dataset(Mapped(list(colours), [number(label) for label in LABELS])).labels.tolist() == LABELS


def test_lists_are_pairs_too(colours: np.ndarray) -> None:
    assert len(from_dataset([[each, 0] for each in colours])) == 12


def test_grey_pictures_among_rgb_become_rgb(colours: np.ndarray, greys: np.ndarray) -> None:
    images = from_dataset([(Image.fromarray(greys[0]), 0), (Image.fromarray(colours[0]), 1)])
    assert torch.equal(images.images[0], torch.from_numpy(greys[0]).expand(3, 5, 4))
    assert torch.equal(images.images[1], torch.from_numpy(colours[0]).permute(2, 0, 1))


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["cat", "dog", "emu"], ("cat", "dog", "emu")),
        (("cat", "dog", "emu", "fox"), ("cat", "dog", "emu", "fox")),
        (["cat", "dog"], ("0", "1", "2")),
        ([1, 2, 3], ("0", "1", "2")),
        ("cde", ("0", "1", "2")),
    ],
)
def test_classes_name_the_classes_where_they_fit(colours: np.ndarray, classes: Any, expected: tuple[str, ...]) -> None:
    assert from_dataset(Mapped(list(colours), LABELS, classes)).class_names == expected


def test_a_subset_has_the_classes_of_the_whole(colours: np.ndarray) -> None:
    whole = Mapped(list(colours), LABELS, ["cat", "dog", "emu"])
    part = from_dataset(Subset(Subset(whole, [3, 1, 0]), [0, 2]))
    assert part.class_names == ("cat", "dog", "emu")
    assert torch.equal(part.images, torch.from_numpy(colours[[3, 0]]).permute(0, 3, 1, 2))


@pytest.mark.parametrize("kind", ["pixels", "grey", "ToTensor", "floats"])
def test_a_tensor_dataset_equals_the_same_item_by_item(kind: str, colours: np.ndarray, greys: np.ndarray) -> None:
    images = {
        "pixels": torch.from_numpy(colours).permute(0, 3, 1, 2).contiguous(),
        "grey": torch.from_numpy(greys),
        "ToTensor": torch.stack([to_tensor(each) for each in colours]),
        "floats": torch.randn(12, 7).double(),
    }[kind]
    dataset = TensorDataset(images, torch.tensor(LABELS, dtype=torch.int32))
    fast, slow = from_dataset(dataset), from_dataset([dataset[position] for position in range(12)])
    assert fast.fingerprint == slow.fingerprint
    assert fast.is_pixels == (kind in ("pixels", "grey"))


# What is refused.


def refused(dataset: Any, match: str) -> None:
    with pytest.raises(BadInput, match=match) as raised:
        from_dataset(dataset, field="train")
    assert raised.value.field == "train"


@pytest.mark.parametrize(
    "empty",
    [[], Streamed([]), Mapped([], []), TensorDataset(torch.zeros(0, 3, 2, 2), torch.zeros(0, dtype=torch.int64))],
)
def test_an_empty_dataset(empty: Any) -> None:
    refused(empty, "at least 1 sample")


@pytest.mark.parametrize(
    "item", [torch.zeros(3, 2, 2), {"picture": 0, "label": 0}, (torch.zeros(3, 2, 2),), None, (1, 2, 3)]
)
def test_items_that_are_no_pairs(item: Any, colours: np.ndarray) -> None:
    refused([(colours[0], 0), item], r"items that are pairs \(image, label\).*\(item 1\)")


@pytest.mark.parametrize(
    "label",
    [1.0, "cat", True, np.bool_(True), torch.tensor(1.0), torch.tensor(True), torch.tensor([0, 1]), -1, 1 << 70],
)
def test_labels_that_are_no_class_numbers(label: Any, colours: np.ndarray) -> None:
    refused([(colours[0], 0), (colours[1], label)], r"a class number, a whole number from 0(, or .*)? \(item 1\)")


@pytest.mark.parametrize(
    "other",
    [
        np.zeros((5, 5, 3), np.uint8),
        np.zeros((5, 4), np.uint8),
        torch.zeros(3, 5, 4),
        Image.new("RGB", (5, 4)),
    ],
)
def test_items_of_another_shape_or_type(other: Any, colours: np.ndarray) -> None:
    refused([(colours[0], 0), (colours[1], 1), (other, 1)], "samples of one size, but sample 0 is .* and sample 2 is")


def test_sizes_that_differ_are_both_named() -> None:
    refused(
        [(Image.new("RGB", (4, 5)), 0), (Image.new("RGB", (6, 7)), 0)],
        r"sample 0 is 5×4 pixels \(height × width\) and sample 1 is 7×6 pixels",
    )


@pytest.mark.parametrize(
    "image",
    [
        "a path",
        np.zeros((5, 4, 3), np.int64),
        np.zeros(7, np.uint8),
        np.zeros((1, 5, 4, 3), np.uint8),
        torch.zeros(3, 5, 4, dtype=torch.int64),
        torch.zeros(7, dtype=torch.uint8),
    ],
)
def test_images_of_no_known_kind(image: Any) -> None:
    refused([(image, 0)], r"an image: a Pillow image, .*\(item 0\)")


def test_channels_in_the_wrong_place() -> None:
    refused([(np.zeros((3, 32, 32), np.uint8), 0)], r"\[H, W, C\], as it is a numpy array")
    refused([(torch.zeros(32, 32, 3, dtype=torch.uint8), 0)], r"\[C, H, W\], as it is a tensor")
    refused(
        TensorDataset(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)), r"\[C, H, W\]"
    )


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ((torch.zeros(2, 3, 4, 4),), "two tensors"),
        ((torch.zeros(2, 3), torch.zeros(2)), "labels that are class numbers"),
        ((torch.zeros(2, 3), torch.full((2, 10), 3)), "labels that are class numbers"),
        ((torch.zeros(2, 3), torch.tensor([True, False])), "labels that are class numbers"),
        ((torch.zeros(2, 3), torch.tensor([0, -5])), r"got -5; expected class numbers from 0 \(item 1\)"),
        ((torch.zeros(2, 3, dtype=torch.int32), torch.tensor([0, 1])), "an image"),
    ],
)
def test_tensor_datasets_of_the_wrong_kind(tensors: tuple[torch.Tensor, ...], match: str) -> None:
    refused(TensorDataset(*tensors), match)


def test_of_a_loader_its_dataset_is_taken(colours: np.ndarray) -> None:
    dataset = Mapped(list(colours), LABELS)
    made, expected = from_dataset(DataLoader(dataset, batch_size=2)), from_dataset(dataset)
    assert made.fingerprint == expected.fingerprint
    assert "DataLoader" in made.notes[0]


def test_items_may_be_dicts(colours: np.ndarray) -> None:
    expected = from_dataset(Mapped(list(colours), LABELS))
    for image, label in (("image", "label"), ("pixel_values", "labels"), ("img", "label")):
        items = [{image: x, label: y, "id": 3} for x, y in zip(colours, LABELS, strict=True)]
        assert from_dataset(items).fingerprint == expected.fingerprint
    refused([{"picture": colours[0], "label": 1}], "dict with picture, label.*dicts with image and label")


def test_a_dictionary_of_splits_is_no_dataset(colours: np.ndarray) -> None:
    refused({"train": Mapped(list(colours), LABELS)}, "such as one of its splits")
    refused(3, "a dataset of pairs")


@pytest.mark.parametrize("known_length", [True, False])
def test_more_than_fits_into_memory(known_length: bool, colours: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(each, 0) for each in colours]
    monkeypatch.setattr("stillroom.data.reading.machine_memory", lambda: 500)
    refused(pairs if known_length else Streamed(pairs), "data that fit into memory")


def test_a_dataset_too_large_is_refused_at_its_first_item(colours: np.ndarray) -> None:
    class Huge(Mapped):
        seen = 0

        def __len__(self) -> int:
            return 10**12

        def __getitem__(self, position: int) -> tuple[Any, Any]:
            self.seen += 1
            return colours[0], 0

    dataset = Huge([], [])
    refused(dataset, "data that fit into memory")
    assert dataset.seen <= 2  # whether it is of texts, and how large


def test_an_error_of_the_dataset_itself_is_not_hidden() -> None:
    class Broken(Mapped):
        def __getitem__(self, position: int) -> tuple[Any, Any]:
            raise ZeroDivisionError("theirs")

    with pytest.raises(ZeroDivisionError, match="theirs"):
        from_dataset(Broken([0], [0]))


# Images that change, and numbers that are not what they seem.


class Flipped(Mapped):
    """Mirrors an image with some probability each time it is read, from an item on."""

    def __init__(self, count: int, probability: float, begin: int = 0) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
        super().__init__(list(pixels), [0, 1] * (count // 2))
        self.draws, self.probability, self.begin = np.random.default_rng(1), probability, begin

    def __getitem__(self, position: int) -> tuple[Any, Any]:
        image, label = super().__getitem__(position)
        flips = position >= self.begin and self.draws.random() < self.probability
        return (np.ascontiguousarray(image[:, ::-1]) if flips else image), label


@pytest.mark.parametrize(("probability", "begin"), [(0.5, 0), (0.5, 8), (0.5, 1000), (0.05, 0)])
def test_random_changes_are_found_wherever_they_begin(probability: float, begin: int) -> None:
    refused(Flipped(2000, probability, begin), "the same image and label each time .* set augmentation")


def test_rare_flips_are_missed_no_more_often_than_stated() -> None:
    def is_found(seed: int) -> bool:
        dataset = Flipped(400, 0.02)
        dataset.draws = np.random.default_rng(seed)
        try:
            from_dataset(dataset)
        except BadInput:
            return True
        return False

    # q = 2 · .02 · .98 = .0392: missed with probability (1 − q)^256 = 3.6e-5 each.
    assert all(is_found(seed) for seed in range(20))


@pytest.mark.parametrize("stable", [True, False])
def test_a_stream_is_read_again_from_its_start(stable: bool) -> None:
    source = Flipped(400, 0.0 if stable else 0.05)

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return (source[position] for position in range(400))

    if stable:
        assert from_dataset(Stream()).notes == ()
    else:
        refused(Stream(), "the same image and label each time")


def test_labels_that_change_are_found() -> None:
    draws = np.random.default_rng(0)

    class Relabelled(Mapped):
        def __getitem__(self, position: int) -> tuple[Any, Any]:
            return super().__getitem__(position)[0], int(draws.integers(3))

    refused(Relabelled([np.zeros((2, 2, 3), np.uint8)] * 40, [0] * 40), "the same image and label")


def test_what_can_be_read_only_once_is_noted() -> None:
    pairs = [(np.full((2, 2, 3), value, np.uint8), value % 2) for value in range(4)]
    (line,) = from_dataset(pair for pair in pairs).notes
    assert "a generator is read once: random transforms" in line
    assert from_dataset(pairs).notes == ()


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
@pytest.mark.parametrize("position", [0, 30])
def test_numbers_that_are_not_finite_are_named_as_such(value: float, word: str, position: int) -> None:
    floats = torch.rand(40, 3, 4, 4)
    floats[position, 1, 2, 3] = value
    for dataset in (TensorDataset(floats, torch.arange(40) % 2), Mapped(list(floats), [0, 1] * 20)):
        refused(dataset, rf"got '{word}'; expected finite numbers \(item {position}\)")


@pytest.mark.parametrize(
    ("factor", "shift", "noted"), [(255.0, 0.0, True), (1.0, 0.0, False), (255.0, -128.0, False), (4.0, -2.0, False)]
)
def test_floats_that_were_not_scaled_are_noted(factor: float, shift: float, noted: bool) -> None:
    floats = torch.rand(40, 3, 4, 4) * factor + shift
    notes = from_dataset(TensorDataset(floats, torch.arange(40) % 2)).notes
    assert len(notes) == noted
    assert all("divide by 255" in line for line in notes)

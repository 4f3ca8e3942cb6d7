"""scikit-learn's digits, the embedded data: 1,797 grey images of 8×8 pixels."""

from __future__ import annotations

import numpy as np
import torch

from stillroom.data.folders import missing_split
from stillroom.data.images import ImageSet, numbered, rank_in_class
from stillroom.randomness import permutation

SPLITS = ("test", "train")
_TEST_SIZE = 500


def read_digits(split: str, field: str = "split") -> ImageSet:
    """A split of the digits: 1,297 images in ``train``, 500 in ``test``, each class in its share.

    Pixels are round(255·v/16) of the original values v = 0 … 16.

    Args:
        split: ``train`` or ``test``.
        field: the field that an error names.

    Raises:
        BadInput: there is no such split.

    >>> read_digits("train")
    ImageSet('digits': 1297 images of 1×8×8, uint8, 10 classes)
    """
    if split not in SPLITS:
        raise missing_split(field, split, SPLITS)
    from sklearn.datasets import load_digits  # about a second to import

    bunch = load_digits()
    images = np.round(bunch.images * 255 / 16).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    # Each sample's place within its class, as a fraction of the class: the first 500 hold every class in its share.
    order = permutation(len(labels), 0, "subset")
    shuffled = labels[order]
    place = (rank_in_class(shuffled) + 0.5) / np.bincount(shuffled)[shuffled]
    in_test = np.zeros(len(labels), dtype=bool)
    in_test[order[np.argsort(place, kind="stable")[:_TEST_SIZE]]] = True
    chosen = torch.from_numpy(in_test if split == "test" else ~in_test)
    targets = torch.from_numpy(labels)
    return ImageSet(torch.from_numpy(images)[chosen], targets[chosen], numbered(targets), "digits")

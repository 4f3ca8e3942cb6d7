"""Concepts and what they tell, against values worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from stillroom.errors import BadInput
from stillroom.explain import (
    above_zero,
    centre_box,
    concept_counts,
    concepts,
    from_boxes,
    learning_speed,
    on_grid,
    pixel_entropy,
    stability,
)
from stillroom.explain.grid import check_masks
from stillroom.explain.metrics import concept_statistics, match_position

LEFT = torch.tensor([[[True, False], [True, False]]])


def mask(*rows: str) -> Tensor:
    return torch.tensor([[cell == "#" for cell in row] for row in rows])


# Concepts


def test_each_image_counts_alike_in_the_background_mean() -> None:
    """One image with three background cells of −1, one with a single one of −3: the mean is −2, not −1.5."""
    entropy = torch.tensor([[[-9.0, -1.0], [-1.0, -1.0]], [[-2.15, -2.25], [-9.0, -3.0]], [[-9.0, -9.0], [-9.0, -9.0]]])
    inside = torch.tensor(
        [[[True, False], [False, False]], [[True, True], [True, False]], [[True, True], [True, True]]]
    )
    assert concepts(entropy, inside)[1].tolist() == [[False, True], [True, True]]
    assert concept_statistics(entropy[None], inside, None, threshold=0.2).background.tolist() == [-2.0]


def test_the_background_mean_is_over_all_images() -> None:
    entropy = torch.tensor([[[-3.5, -2.0], [-2.6, -2.4]], [[-3.1, -3.0], [-3.09, -3.2]]])
    inside = LEFT.expand(2, 2, 2)
    # Background: (−2.0 − 2.4 − 3.0 − 3.2)/4 = −2.65, so a concept lies below −2.85.
    assert concepts(entropy, inside).tolist() == [[[True, False], [False, False]], [[True, True], [True, True]]]
    assert concepts(entropy, inside, threshold=0.44).tolist()[1] == [[True, False], [False, True]]
    # Alone, the second image's own background decides: −3.1.
    assert not concepts(entropy[1:], inside[1:]).any()


def test_counts_and_their_ratio() -> None:
    found = torch.stack([mask("##", "#."), mask("..", ".."), mask(".#", "..")])
    n_fg, n_bg, ratio = concept_counts(found, LEFT.expand(3, 2, 2))
    assert n_fg.tolist() == [2, 0, 0]
    assert n_bg.tolist() == [1, 0, 1]
    assert ratio[0] == pytest.approx(2 / 3)
    assert ratio[1].isnan()
    assert ratio[2] == 0


def test_learning_speed_takes_the_first_maximum() -> None:
    n_fg = torch.tensor([[5, 0, 1, 2], [5, 3, 1, 1], [2, 3, 4, 2]])
    moves = torch.tensor([0.0, 0.5, 2.0])
    # m̂ = 0, 1, 2, 0, so d = 0, .5, 2, 0.
    mean, std = learning_speed(n_fg, moves)
    assert mean == pytest.approx(0.625)
    assert std == pytest.approx(math.sqrt((0.625**2 * 2 + 0.125**2 + 1.375**2) / 4))


def test_stability_is_what_is_left_of_all_that_ever_was() -> None:
    first, second, last = mask("##", ".."), mask("#.", "#."), mask("#.", "..")
    found = torch.stack([torch.stack(each) for each in ((first, last), (second, last), (last, second))])
    everywhere = torch.ones(2, 2, 2, dtype=torch.bool)
    # First image: 1 of 3 cells that ever were; second: both of two.
    assert stability(found, everywhere) == (pytest.approx((1 / 3 + 1) / 2), 0)
    # On the left alone: 1 of 2, and 2 of 2. On the right, the second never had any.
    assert stability(found, LEFT.expand(2, 2, 2)) == (0.75, 0)
    assert stability(found, ~LEFT.expand(2, 2, 2)) == (0.0, 1)
    rho, excluded = stability(torch.zeros_like(found), everywhere)
    assert math.isnan(rho)
    assert excluded == 2


# Networks whose concepts are known


class Knowing:
    """Requires bright pixels of the regions that it knows ten times as strongly as all others."""

    def __init__(self, known: Tensor) -> None:
        self.known = known

    def __call__(self, images: Tensor) -> Tensor:
        strong = self.known & (images > 0)
        return torch.where(strong, 1.0, 0.1) * images


def test_a_network_with_known_concepts() -> None:
    """Three checkpoints of a network that learns one region after another, and forgets a part of the first."""
    bright = torch.zeros(2, 16, 16, dtype=torch.bool)
    bright[0, 2:8, 2:8] = True  # 36 cells of image 0, 4 of them background: columns 2 to 7, foreground up to row 6
    bright[1, 4:6, 4:10] = True  # 12 of image 1, all foreground
    bright[1, 14:16, 0:3] = True  # and 6, all background
    foreground = torch.zeros(2, 16, 16, dtype=torch.bool)
    foreground[:, 2:12, 2:12] = True
    foreground[0, 7, 2:6] = False
    images = torch.where(bright, 1.0, -1.0)[:, None]
    upper, lower, part = (torch.zeros(16, 16, dtype=torch.bool) for _ in range(3))
    upper[:5], lower[5:], part[4:, 3:] = True, True, True
    checkpoints = [upper, upper | lower, (upper | lower) & part]

    found = []
    for known in checkpoints:
        entropy = pixel_entropy(Knowing(known), images)
        found.append(concepts(entropy, foreground))
        assert torch.equal(found[-1], bright & known)
    counts = [concept_counts(each, foreground) for each in found]
    # Rows 2 to 4 of image 0 and row 4 of image 1; then all; then what lies in rows 4 … and columns 3 ….
    assert [n_fg.tolist() for n_fg, _, _ in counts] == [[18, 6], [32, 12], [17, 12]]
    assert [n_bg.tolist() for _, n_bg, _ in counts] == [[0, 0], [4, 6], [3, 0]]
    assert counts[1][2].tolist() == pytest.approx([32 / 36, 12 / 18])
    n_fg = torch.stack([each[0] for each in counts])
    assert learning_speed(n_fg, torch.tensor([0.0, 1.5, 2.0])) == (1.5, 0.0)
    rho, excluded = stability(torch.stack(found), foreground)
    assert rho == pytest.approx((17 / 32 + 1) / 2)
    assert excluded == 0


# Foregrounds


def test_a_cell_is_foreground_where_half_of_its_pixels_are() -> None:
    pixels = mask("##..", "#...", "#.#.", "..##")[None]
    assert on_grid(pixels, 2).tolist() == [mask("#.", ".#").tolist()]
    assert torch.equal(on_grid(pixels, 4), pixels)
    # Rows 0–2 and 3–4 of five; of the former's nine pixels five are set.
    odd = mask("###..", "##...", ".....", "...#.", "....#")[None]
    assert on_grid(odd, 2).tolist() == [mask("#.", ".#").tolist()]


def test_the_centre_box_is_the_published_one() -> None:
    box = centre_box(2, 16)
    assert box.shape == (2, 16, 16)
    assert box[0].any(1).nonzero()[:, 0].tolist() == list(range(2, 14))
    assert box[0].any(0).nonzero()[:, 0].tolist() == list(range(2, 14))
    assert box[1].sum() == 144
    with pytest.raises(BadInput, match="grid: got 5; expected 6 or more"):
        centre_box(1, 5)


def test_boxes_and_pixels_above_zero() -> None:
    boxes = torch.tensor([[0, 0, 2, 1], [1, 1, 3, 4]])
    assert torch.equal(
        from_boxes(boxes, 3, 4), torch.stack([mask("#...", "#...", "...."), mask("....", ".###", ".###")])
    )
    for wrong in ([0, 0, 0, 1], [0, 0, 4, 1], [-1, 0, 1, 1], [0, 3, 1, 2]):
        with pytest.raises(BadInput, match=r"boxes: .*\(image 1\)"):
            from_boxes(torch.tensor([[0, 0, 2, 1], wrong]), 3, 4)
    with pytest.raises(BadInput, match="boxes"):
        from_boxes(torch.rand(2, 4), 3, 4)
    pictures = torch.tensor([[[[0, 1]], [[0, 0]]]], dtype=torch.uint8)
    assert above_zero(pictures).tolist() == [[[False, True]]]
    with pytest.raises(BadInput, match="images"):
        above_zero(torch.zeros(2, 2))


def test_masks_that_do_not_fit_are_refused() -> None:
    images = torch.zeros(2, 3, 4, 4)
    half = torch.zeros(2, 4, 4, dtype=torch.bool)
    assert check_masks(half, images) is half
    with pytest.raises(BadInput, match=r"masks: got \[2, 4, 5\]; expected \[2, 4, 4\]"):
        check_masks(torch.zeros(2, 4, 5, dtype=torch.bool), images)
    half[1] = True
    with pytest.raises(BadInput, match=r"masks: got 'all of images \[1\]'; expected some background in each image"):
        check_masks(half, images)
    with pytest.raises(BadInput, match="masks"):
        on_grid(torch.zeros(2, 4, 4), 2)
    with pytest.raises(BadInput, match="grid: got 5"):
        on_grid(half, 5)


@pytest.mark.parametrize(
    ("ask", "match"),
    [
        (lambda: concepts(torch.zeros(1, 2, 2), torch.zeros(1, 2, 3).bool()), r"foreground: got \[1, 2, 3\]"),
        (lambda: concepts(torch.zeros(1, 2, 2), torch.ones(1, 2, 2).bool()), "all cells of all images"),
        (lambda: concepts(torch.full((2, 2, 2), torch.nan), LEFT.expand(2, 2, 2)), r"images \[0, 1\]"),
        (lambda: concepts(torch.zeros(2, 2), torch.zeros(2, 2).bool()), "entropy"),
        (lambda: concepts(torch.zeros(1, 2, 2), torch.full((1, 2, 2), 0.5)), "other than 0 and 1"),
        (lambda: concept_counts(LEFT, LEFT[:, :1]), "foreground"),
        (lambda: learning_speed(torch.zeros(2, 3), torch.zeros(3)), r"moves: got \[3\]; expected \[2\]"),
        (lambda: learning_speed(torch.zeros(0, 3), torch.zeros(0)), "n_fg"),
        (lambda: learning_speed(torch.zeros(2, 3), torch.tensor([1.0, 0.5])), "do not decrease"),
        (lambda: learning_speed(torch.full((1, 1), torch.nan), torch.zeros(1)), "NaN"),
        (lambda: stability(LEFT, LEFT), "concepts"),
        (lambda: stability(LEFT[None], LEFT[:, :1]), "foreground"),
    ],
)
def test_bad_input_is_refused(ask: Any, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        ask()


def test_what_is_due_to_the_place_alone_is_no_concept() -> None:
    """The middle is encoded more in all images, as before any training: so it is the place, not the subject."""
    place = torch.tensor([[-2.2, -2.2, -2.2], [-2.2, -3.4, -2.2], [-2.2, -2.2, -2.2]], dtype=torch.float64)
    entropy = place.expand(1, 4, 3, 3).clone()
    box = torch.zeros(4, 3, 3, dtype=torch.bool)
    box[:, 1, 1] = True
    assert bool(concepts(entropy[0], box)[:, 1, 1].all())
    matched = match_position(entropy, box, entropy[0])
    assert matched is not None
    assert not bool(concepts(matched[0], box).any())
    assert match_position(entropy, box) is None
    # A subject that is encoded more than the background at its own place stays one, wherever it lies.
    moving = torch.zeros(4, 3, 3, dtype=torch.bool)
    for image, cell in enumerate(((0, 0), (1, 1), (2, 2), (1, 1))):
        moving[image][cell] = True
    matched = match_position(entropy - moving.double(), moving)
    assert matched is not None
    assert torch.equal(concepts(matched[0], moving), moving)
    assert torch.allclose(matched.mean(), (entropy - moving.double()).mean())

"""Pixels to input and columns to classes, against numbers worked by hand in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillroom.errors import BadInput
from stillroom.models.config import PreprocessConfig
from stillroom.models.preprocess import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocess,
    class_index,
    parse_preprocess,
    resolve_preprocess,
)

IMAGENET = PreprocessConfig(mean=IMAGENET_MEAN, std=IMAGENET_STD)


@pytest.fixture
def pixels() -> torch.Tensor:
    # Every value a pixel can have, in every channel.
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    return torch.cat([torch.cat([ramp, ramp.flip(-1), ramp.flip(-2)], dim=1), torch.full((1, 3, 16, 16), 255).byte()])


def test_every_pixel_value_is_canonical_to_the_last_bit(pixels) -> None:
    x = pixels.numpy().astype(np.float32) / np.float32(255)
    mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    actual = Preprocess(IMAGENET)(pixels)
    assert actual.dtype == torch.float32
    np.testing.assert_array_equal(actual.numpy(), (x - mean) / std)


def test_float_pixels_are_the_same_pixels_and_are_left_as_they_are(pixels) -> None:
    for dtype in (torch.float32, torch.float64, torch.float16):
        given = pixels.to(dtype)
        before = given.clone()
        assert torch.equal(Preprocess(IMAGENET)(given), Preprocess(IMAGENET)(pixels))
        assert torch.equal(given, before)


def test_data_that_is_not_pixels_is_not_divided() -> None:
    data = torch.tensor([[[[0.5, 1.0]]]])
    half = PreprocessConfig(mean=(0.5,), std=(0.25,))
    assert Preprocess(half, is_pixels=False)(data).flatten().tolist() == [0.0, 2.0]
    assert data.flatten().tolist() == [0.5, 1.0]


def test_without_a_config_values_stay(pixels) -> None:
    out = Preprocess(None)(pixels)
    assert out.dtype == torch.float32
    assert torch.equal(out, pixels.float())
    assert torch.equal(Preprocess(None)(torch.ones(2, 7, dtype=torch.float64)), torch.ones(2, 7))


@pytest.mark.parametrize("size", [None, 16, 9, 24])
def test_inputs_are_channels_last(pixels, size) -> None:
    for config in (IMAGENET.model_copy(update={"size": size}), None):
        assert Preprocess(config)(pixels).is_contiguous(memory_format=torch.channels_last)


def test_bgr_reverses_the_channels_and_means_are_the_models(pixels) -> None:
    config = PreprocessConfig(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), channel_order="bgr")
    x = pixels.numpy()[:, ::-1].astype(np.float32) / np.float32(255)
    mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (config.mean, config.std))
    np.testing.assert_array_equal(Preprocess(config)(pixels).numpy(), (x - mean) / std)


def test_resize_up_is_bilinear_with_half_pixel_centres() -> None:
    config = PreprocessConfig(mean=(0.0,), std=(1.0,), size=4)
    out = Preprocess(config)(torch.tensor([[[[0, 255], [0, 255]]]], dtype=torch.uint8))
    np.testing.assert_allclose(out[0, 0].numpy(), [[0, 0.25, 0.75, 1]] * 4, atol=1e-6)


def test_resize_down_is_antialiased() -> None:
    # One column in four is white: of two columns in the middle of four, as plain bilinear takes them, none is.
    stripes = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    stripes[..., ::4] = 255
    out = Preprocess(PreprocessConfig(mean=(0.0,), std=(1.0,), size=4))(stripes)
    assert out.shape == (1, 1, 4, 4)
    assert (out - 0.25).abs().max() < 0.1


def test_resize_makes_squares() -> None:
    out = Preprocess(PreprocessConfig(mean=(0.0,), std=(1.0,), size=6))(torch.full((2, 1, 4, 9), 51).byte())
    assert out.shape == (2, 1, 6, 6)
    np.testing.assert_allclose(out.numpy(), 0.2, atol=1e-6)


def test_it_has_no_state_and_moves_with_its_model() -> None:
    module = Preprocess(IMAGENET.model_copy(update={"class_order": (1, 0)}))
    assert module.state_dict() == {}
    assert list(module.parameters()) == []
    assert {name for name, _ in module.named_buffers()} == {"white", "mean", "std", "order"}


def test_gradients_reach_float_pixels() -> None:
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    Preprocess(IMAGENET)(x).sum().backward()
    np.testing.assert_allclose(x.grad[0, :, 0, 0].numpy(), 1 / 255 / np.array(IMAGENET_STD), rtol=1e-5)


@pytest.mark.parametrize(
    ("setting", "channels", "is_pixels", "mean"),
    [
        (None, 3, True, IMAGENET_MEAN),
        (None, 1, True, (0.5,)),
        (None, 4, True, (0.5,) * 4),
        (None, 3, False, None),
        ("none", 3, True, None),
        ("imagenet", 3, False, IMAGENET_MEAN),
        ("half", 3, True, (0.5,) * 3),
        ("unit", 2, True, (0.0, 0.0)),
        (PreprocessConfig(mean=(0.1,), std=(0.2,)), 1, True, (0.1,)),
    ],
)
def test_settings_resolve(setting, channels, is_pixels, mean) -> None:
    resolved = resolve_preprocess(setting, channels=channels, is_pixels=is_pixels)
    assert (resolved and resolved.mean) == mean
    assert resolved is None or len(resolved.std) == channels


@pytest.mark.parametrize(
    ("setting", "channels", "message"),
    [
        ("imagenet", 1, "teacher.preprocess: got 'imagenet'; expected one for images of 1 channel, such as half"),
        (IMAGENET, 4, r"teacher.preprocess.mean: got \(0.485.*the images have 4 channels"),
        (
            PreprocessConfig(mean=(0.5,), std=(0.5,), channel_order="bgr"),
            1,
            "teacher.preprocess.channel_order: got 'bgr'; expected rgb",
        ),
    ],
)
def test_settings_for_other_channels_are_refused(setting, channels, message) -> None:
    with pytest.raises(BadInput, match=message):
        resolve_preprocess(setting, channels=channels, is_pixels=True, field="teacher")


def test_settings_are_read_from_a_command_line() -> None:
    assert parse_preprocess(" half ") == "half"
    assert parse_preprocess("0.485,0.456,0.406/0.229,0.224,0.225") == IMAGENET
    assert parse_preprocess("0.5/0.25") == PreprocessConfig(mean=(0.5,), std=(0.25,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imagnet", "imagenet, half, unit, none, or mean/std"),
        ("0.5", "mean/std by numbers"),
        ("0.5/0.5/0.5", "mean/std by numbers"),
        ("a,b/c,d", "mean/std by numbers"),
        ("", "mean/std by numbers"),
        ("0.5,0.5/0.5", "as many means as standard deviations, not 2 and 1"),
        ("0.5/0", "standard deviations other than 0"),
        ("nan/1", "finite"),
        ("0.5/inf", "finite"),
    ],
)
def test_what_is_no_preprocess_is_refused(text, message) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        parse_preprocess(text)
    assert str(caught.value).startswith("--preprocess: got ")


def test_classes_are_taken_in_the_datas_order() -> None:
    logits = torch.tensor([[10.0, 11.0, 12.0, 13.0], [20.0, 21.0, 22.0, 23.0]])
    for order, expected in (((3, 0, 1), [[13, 10, 11], [23, 20, 21]]), ((2, 1), [[12, 11], [22, 21]])):
        config = PreprocessConfig(mean=(0.5,), std=(0.5,), class_order=order)
        assert Preprocess(config).reorder(logits).tolist() == expected
    assert Preprocess(None).reorder(logits) is logits


@pytest.mark.parametrize(
    ("order", "limits", "message"),
    [
        ((0, 4), {"columns": 4}, r"got \(0, 4\); expected columns from 0 to 3, but 4 is there"),
        ((3, 0), {"columns": 3}, "columns from 0 to 2, but 3 is there"),
        ((0, -1), {}, "columns of 0 or more, but -1"),
        ((1, 0, 1), {"columns": 3}, "each column once, but 1 is there twice"),
        ((0, 1), {"columns": 5, "classes": 3}, "one column for each of the 3 classes, not 2"),
        ((), {}, "a column for each class"),
    ],
)
def test_an_order_that_is_none_is_refused(order, limits, message) -> None:
    with pytest.raises(BadInput, match=f"student.preprocess.class_order: .*{message}"):
        class_index(order, field="student", **limits)


def test_a_model_of_timm_brings_its_own_mean_and_std() -> None:
    model = torch.nn.Identity()
    model.pretrained_cfg = {"mean": (0.5, 0.4, 0.3), "std": [0.2, 0.3, 0.4]}  # type: ignore[assignment]
    own = resolve_preprocess(None, channels=3, is_pixels=True, model=model)
    assert own == PreprocessConfig(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    # Of other channels, stated, or of floats: as ever.
    assert resolve_preprocess(None, channels=1, is_pixels=True, model=model) == PreprocessConfig(
        mean=(0.5,), std=(0.5,)
    )
    assert resolve_preprocess("imagenet", channels=3, is_pixels=True, model=model) == IMAGENET
    assert resolve_preprocess(None, channels=3, is_pixels=False, model=model) is None

"""Pixels of pictures in every mode that data come in."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from stillroom.data.decoding import decode, pixels


def test_rgb_and_grey_come_out_as_they_are(colours: np.ndarray, greys: np.ndarray) -> None:
    assert np.array_equal(pixels(Image.fromarray(colours[0])), colours[0].transpose(2, 0, 1))
    assert np.array_equal(pixels(Image.fromarray(greys[0])), greys[0][None])


def test_black_and_white_is_0_and_255() -> None:
    image = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1", dither=Image.Dither.NONE)
    assert pixels(image).tolist() == [[[0, 255], [255, 0]]]


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_16_bits_are_scaled_not_cut(mode: str) -> None:
    values = np.array([[0, 128, 129], [257, 32768, 65535]])
    image = Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.int32))
    assert image.mode == mode
    assert pixels(image).tolist() == [[[0, 0, 1], [1, 128, 255]]]


def test_16_bits_survive_a_png() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(buffer, "PNG")
    assert decode(buffer.getvalue()).tolist() == [[[0, 255]]]


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "LA", "HSV", "YCbCr"])
def test_every_other_mode_becomes_rgb(mode: str, colours: np.ndarray) -> None:
    image = Image.fromarray(colours[0]).convert("L" if mode == "LA" else "RGB").convert(mode)
    made = pixels(image)
    assert made.shape == (3, 5, 4)
    assert made.dtype == np.uint8
    assert np.array_equal(made, np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def test_values_that_no_8_bits_can_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="floats"):
        pixels(Image.fromarray(np.zeros((2, 2), np.float32)))
    with pytest.raises(ValueError, match="beyond 16 bits"):
        pixels(Image.fromarray(np.array([[70_000]], np.int32)))


def test_a_picture_beyond_the_limit_is_not_decoded(
    colours: np.ndarray, png: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = png(colours[0])  # type: ignore[operator]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 19)
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it was decoded"))
    with (
        pytest.raises(ValueError, match="5 pixels is more than the limit of 19"),
        pytest.warns(Image.DecompressionBombWarning),
    ):
        decode(content)

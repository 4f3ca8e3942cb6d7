"""Pixels from pictures, by Pillow: grey stays grey, everything else becomes RGB."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

_GREY_8 = ("L", "1")


def pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """The pixels of a picture, uint8 [C, H, W]: C is 1 for modes L, 1 and 16-bit grey, else 3 (RGB).

    16-bit values v become round(255·v/65535).

    Raises:
        ValueError: it has more pixels than Pillow's limit, or values beyond 16 bits.
        OSError: it cannot be decoded.

    >>> pixels(Image.new("RGBA", (4, 2), (255, 0, 7, 9)))[:, 0, 0].tolist()
    [255, 0, 7]
    """
    # Only the header is read so far: nothing large is decoded before this check.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(f"{image.width}×{image.height} pixels is more than the limit of {limit}")
    if image.mode in _GREY_8:
        return np.asarray(image.convert("L"), dtype=np.uint8)[None]
    if image.mode.startswith("I"):
        return _from_16_bits(np.asarray(image).astype(np.int64))[None]
    if image.mode == "F":
        raise ValueError("pixels are floats; 8 or 16 bits are read")
    colour = image if image.mode == "RGB" else image.convert("RGB")
    return np.asarray(colour, dtype=np.uint8).transpose(2, 0, 1)


def decode(content: bytes) -> npt.NDArray[np.uint8]:
    """The pixels of an encoded picture (PNG, JPEG, WebP, …), uint8 [C, H, W].

    Raises:
        Exception: whatever Pillow's many decoders raise on a damaged picture.
    """
    with Image.open(io.BytesIO(content)) as image:
        return pixels(image)


def _from_16_bits(values: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("grey values beyond 16 bits")
    return ((values * 255 + 32767) // 65535).astype(np.uint8)

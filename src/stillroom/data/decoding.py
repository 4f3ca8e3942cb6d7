"""Pixels from pictures, by Pillow: grey stays grey, everything else becomes RGB."""

from __future__ import annotations

import io
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from stillroom.data.reading import path_error
from stillroom.errors import BadInput

_GREY_8 = ("L", "1")
# MPO: what many phones write, JPEGs one after another; the first is read.
_DRAFTED = ("JPEG", "MPO")
# What brings a picture that was stored turned or mirrored upright, by its EXIF orientation.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
# Where a PNG has its orientation before its pixels.
_PNG_EXIF = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")


def is_grey(image: Image.Image) -> bool:
    """Whether :func:`pixels` gives one channel: modes L, 1 and 16-bit grey."""
    return image.mode in _GREY_8 or image.mode.startswith("I")


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
    _check_size(image.width, image.height)
    return _array(_eight_bits(image))


def decode(content: bytes, formats: tuple[str, ...] | None = None) -> npt.NDArray[np.uint8]:
    """The pixels of an encoded picture (PNG, JPEG, WebP, …; of ``formats`` alone), uint8 [C, H, W]."""
    with Image.open(io.BytesIO(content), formats=formats) as image:
        return pixels(image)


def header(path: str | os.PathLike[str], formats: tuple[str, ...]) -> tuple[bool, int, int]:
    """Whether a picture's file is grey, and its height and width when upright; its pixels are not decoded.

    Args:
        formats: Pillow's names of those that are tried, whatever the file's name says.
    """
    with Image.open(path, formats=formats) as image:
        return _header(image)


def _header(image: Image.Image) -> tuple[bool, int, int]:
    _check_size(image.width, image.height)
    _check_mode(image)
    # Pillow turns a TIFF by itself, and looks for a PNG's orientation behind its pixels too.
    has_exif = image.format != "TIFF" and (image.format != "PNG" or any(key in image.info for key in _PNG_EXIF))
    sideways = has_exif and _orientation(image) in _SIDEWAYS
    height, width = (image.width, image.height) if sideways else (image.height, image.width)
    return is_grey(image), height, width


def decode_photo(content: bytes, side: int | None, formats: tuple[str, ...]) -> npt.NDArray[np.uint8]:
    """The pixels of an image file, upright as its EXIF orientation says: uint8 [C, H, W].

    Args:
        side: bring it to a square of this side, see :func:`middle_square`; None leaves its size. A JPEG whose shorter
            side is at least four times this is decoded at 1/2, 1/4 or 1/8 of its size, which leaves at least twice
            the side: 2 to 3 times as fast for a photograph of 12 megapixels, its pixels within half of a level of 255
            on average.
    """
    with Image.open(io.BytesIO(content), formats=formats) as image:
        _check_size(image.width, image.height)
        if _has_draft(image, side):
            assert side is not None
            image.draft(None, (2 * side, 2 * side))
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        plain = _eight_bits(image)
        if turn is not None:
            plain = plain.transpose(turn)
        return _array(plain if side is None else middle_square(plain, side))


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What the bytes of an image file say without being decoded: see :func:`header`."""

    grey: bool  # whether its image has one channel
    height: int  # when upright
    width: int  # when upright
    drafted: bool  # whether :func:`decode_photo` decodes it at a fraction of its size


def check_photo(content: bytes, side: int | None, formats: tuple[str, ...]) -> FileFacts:
    """Read an image file's header, and make sure that its pixels can be decoded.

    A JPEG must have its end marker and a PNG the checksum of each of its chunks. What fails, and every other format,
    is decoded, which raises where it cannot be.
    """
    with Image.open(io.BytesIO(content), formats=formats) as image:
        facts = FileFacts(*_header(image), _has_draft(image, side))
        kind = image.format
    if not (_jpeg_has_end(content) if kind in _DRAFTED else kind == "PNG" and _png_is_whole(content)):
        decode_photo(content, side, formats)
    return facts


def _has_draft(image: Image.Image, side: int | None) -> bool:
    return side is not None and image.format in _DRAFTED and min(image.size) >= 4 * side


def _jpeg_has_end(content: bytes) -> bool:
    """Whether the end marker follows the pixels; a thumbnail before them has one of its own."""
    place = 2
    while content[place : place + 1] == b"\xff":
        if content[place + 1 : place + 2] == b"\xda":  # start of scan: pixels hold no marker's bytes
            return content.find(b"\xff\xd9", place) >= 0
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return False


def _png_is_whole(content: bytes) -> bool:
    place = 8
    while place + 12 <= len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        if zlib.crc32(memoryview(content)[place + 4 : end]).to_bytes(4, "big") != content[end : end + 4]:
            return False
        if content[place + 4 : place + 8] == b"IEND":
            return True
        place = end + 4
    return False


def without_metadata(content: bytes) -> list[memoryview]:
    r"""The parts of an encoded picture that its pixels come from: all of it, but for a JPEG's or PNG's metadata.

    Two files with equal parts hold the same pixels, as stored; files with others may do so, too.

    >>> jpeg = b"\xff\xd8" + b"\xff\xfe\x00\x05abc" + b"\xff\xda\x00\x02pixels\xff\xd9"  # with a comment
    >>> b"".join(without_metadata(jpeg))
    b'\xff\xda\x00\x02pixels\xff\xd9'
    """
    view = memoryview(content)
    parts = []
    if content.startswith(b"\xff\xd8"):
        place = 2
        while content[place : place + 1] == b"\xff" and content[place + 1 : place + 2] not in (b"", b"\xda"):
            end = place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
            if content[place + 1] not in _JPEG_METADATA:
                parts.append(view[place:end])
            place = end
        return [*parts, view[place:]]
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        place = 8
        while place + 12 <= len(content):
            end = place + 12 + int.from_bytes(content[place : place + 4], "big")
            if content[place + 4 : place + 8] in _PNG_PIXELS:
                parts.append(view[place:end])
            place = end
        return parts
    return [view]


# Comments and applications' segments, but for Adobe's, which says how the colours are stored.
_JPEG_METADATA = frozenset({0xFE, *range(0xE0, 0xF0)} - {0xEE})
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")


def middle_square(image: Image.Image, side: int) -> Image.Image:
    """The shorter side resized to ``side`` (bilinear, antialiased), then the middle cut out.

    The same pixels as torchvision's ``Resize(side)`` and ``CenterCrop(side)``.

    >>> middle_square(Image.new("L", (80, 40)), 20).size
    (20, 20)
    """
    shorter = min(image.size)
    width, height = (side if length == shorter else int(side * length / shorter) for length in image.size)
    _check_size(width, height)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return image.crop((left, top, left + side, top + side))


def decode_error(path: Path, what: str, error: Exception, advice: str = "") -> BadInput:
    """The error of ``what``, such as ``a picture in row 3``, that cannot be decoded, with the reason in one line."""
    if path.is_file() and not path.stat().st_size:
        reason = "the file is empty"
    elif "cannot identify" in str(error):  # Pillow's message for an unknown format is the address of a buffer
        reason = "of no known format"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    else:
        reason = re.sub(r"\s+", " ", str(error)) or type(error).__name__
    return path_error(path, f"{what} that can be decoded ({reason}){advice}")


def _check_size(width: int, height: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ValueError(f"{width}×{height} pixels is more than the limit of {limit}")


def _check_mode(image: Image.Image) -> None:
    if image.mode == "F":
        raise ValueError("pixels are floats; 8 or 16 bits are read")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # what a camera or an editor wrote amiss next to the pixels does not spoil them
        return 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """The picture in mode L or RGB."""
    if image.mode in _GREY_8:
        return image.convert("L")
    if image.mode.startswith("I"):
        return Image.fromarray(_from_16_bits(np.asarray(image).astype(np.int64)))
    _check_mode(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _array(image: Image.Image) -> npt.NDArray[np.uint8]:
    array = np.asarray(image, dtype=np.uint8)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _from_16_bits(values: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("grey values beyond 16 bits")
    return ((values * 255 + 32767) // 65535).astype(np.uint8)

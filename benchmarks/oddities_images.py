"""The image folders of the table of oddities: each has one file, link or folder that is not like the others."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from stillroom.data.config import DataConfig
from stillroom.data.quality import describe_data
from stillroom.data.sources import load
from stillroom.errors import BadInput

SIDE = 16
COLOUR = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
GREY = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
# What JPEG and lossy WebP can keep.
SMOOTH = np.add.outer(np.arange(SIDE) * 8, np.arange(SIDE) * 7)[..., None].astype(np.uint8) + np.array(
    [0, 9, 18], np.uint8
)
PLACE = "train/a/odd"


@dataclass(frozen=True)
class ImagesCase:
    """A folder of images.

    Attributes:
        write: adds to the folder, and gives the pixels [H, W] or [H, W, 3] of its image; None: it adds no image.
        line: what a line or an error must hold, as a regular expression.
        refused: whether it must be refused.
        tolerance: largest difference of a pixel, for formats that lose some.
        options: of the data.
    """

    group: str
    name: str
    write: Callable[[Path], np.ndarray | None]
    line: str = ""
    refused: bool = False
    tolerance: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def expected(self) -> str:
        if self.refused:
            return f"refused: {self.line}"
        return f"says: {self.line}" if self.line else "right"


def plain(folder: Path) -> None:
    """Two images of each class in each split."""
    draws = np.random.default_rng(7)
    for split in ("train", "test"):
        for name in "ab":
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(2):
                Image.fromarray(draws.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(place / f"{number}.png")


def try_images(case: ImagesCase, folder: Path) -> tuple[bool, str]:
    """Whether a case ends as it should, and what happened."""
    data = folder / "data"
    plain(data)
    wanted = case.write(data)
    lines: list[str] = []
    try:
        found = {}
        for in_memory in (True, False):
            pair = load(DataConfig(path=str(data), source="folders", in_memory=in_memory, **case.options))
            if in_memory:
                describe_data(pair, lines.append)
            files = pair.train.files if in_memory else pair.train.images
            names = list(files._names)  # type: ignore[union-attr]
            found[in_memory] = pair.train.images[:].numpy(), names
    except BadInput as error:
        text = str(error).replace(str(folder), "…")
        right = case.refused and bool(re.search(case.line, text)) and "\n" not in text and len(text) <= 1000
        return right, f"error: {text.partition('expected ')[2] or text}"
    except Exception as error:
        return False, f"traceback: {type(error).__name__}: {error}"
    (images, names), (streamed, streamed_names) = found[True], found[False]
    if names != streamed_names or not np.array_equal(images, streamed):
        return False, "other pixels in memory than on demand"
    odd = [row for row, name in enumerate(names) if "odd" in name]
    said = " ".join(lines[1:])
    happened = ("its pixels are right" if odd else "no image of it") + (f'; "{said}"' if said else "")
    if wanted is None:
        right = not odd
    else:
        expected = wanted if wanted.ndim == 3 else np.repeat(wanted[..., None], 3, axis=2)
        got = images[odd[0]].transpose(1, 2, 0) if odd else np.zeros((1, 1, 1), np.uint8)
        off = int(np.abs(got.astype(int) - expected).max()) if got.shape == expected.shape else 256
        right = off <= case.tolerance
        happened = happened if right else f"off by {off} of 255; {happened}"
    has_line = bool(re.search(case.line, said)) if case.line else not said
    return right and has_line and not case.refused, happened


def saved(
    name: str, image: Callable[[], Image.Image] | np.ndarray = COLOUR, pixels: np.ndarray | None = None, **options: Any
) -> Callable[[Path], np.ndarray]:
    """Save an image; the pixels are those of the array, of Pillow's RGB or as given."""

    def write(folder: Path) -> np.ndarray:
        made = Image.fromarray(image) if isinstance(image, np.ndarray) else image()
        path = folder / (name if "/" in name else f"{PLACE}{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        made.save(path, **options)
        return pixels if pixels is not None else np.asarray(made.convert("RGB"))

    return write


def raw(name: str, content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / (name if "/" in name else f"{PLACE}{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return write


def encoded(kind: str, array: np.ndarray = COLOUR, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def content(name: str, made: bytes, pixels: np.ndarray = COLOUR) -> Callable[[Path], np.ndarray]:
    def write(folder: Path) -> np.ndarray:
        raw(name, made)(folder)
        return pixels

    return write


def doing(action: Callable[[Path], object], pixels: np.ndarray | None = None) -> Callable[[Path], np.ndarray | None]:
    def write(folder: Path) -> np.ndarray | None:
        action(folder)
        return pixels

    return write


def turned(orientation: int) -> Callable[[Path], np.ndarray]:
    """A JPEG that is stored turned, and upright as its EXIF orientation says."""
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = Image.fromarray(SMOOTH)
    if orientation in turns:
        stored = stored.transpose(Image.Transpose(turns[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(".jpg", lambda: stored, SMOOTH, exif=exif, quality=100, subsampling=0)


def animated(kind: str, **options: Any) -> Callable[[Path], np.ndarray]:
    frames = [Image.fromarray(np.full((SIDE, SIDE, 3), value, np.uint8)) for value in (40, 200)]

    def write(folder: Path) -> np.ndarray:
        frames[0].save(folder / f"{PLACE}.{kind}", save_all=True, append_images=frames[1:], **options)
        return np.full((SIDE, SIDE, 3), 40, np.uint8)

    return write


def comment() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 1000)
    return info


def linked(target: str, name: str = f"{PLACE}.png") -> Callable[[Path], np.ndarray | None]:
    def write(folder: Path) -> np.ndarray | None:
        path = folder / name
        path.symlink_to(os.path.relpath(folder / target, path.parent))
        return None

    return write


def link_to_file(folder: Path) -> np.ndarray:
    Image.fromarray(COLOUR).save(folder.parent / "elsewhere.png")
    (folder / f"{PLACE}.png").symlink_to(folder.parent / "elsewhere.png")
    return COLOUR


def link_to_folder(folder: Path) -> np.ndarray:
    (folder.parent / "elsewhere").mkdir()
    Image.fromarray(COLOUR).save(folder.parent / "elsewhere" / "odd.png")
    (folder / "train" / "a" / "more").symlink_to(folder.parent / "elsewhere")
    return COLOUR


def copied(count: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for number in range(count):
            shutil.copy(folder / "train" / "a" / f"{number}.png", folder / "test" / "b" / f"copy{number}.png")

    return write


def unequal(folder: Path) -> None:
    draws = np.random.default_rng(3)
    for number in range(20):
        pixels = draws.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "train" / "a" / f"more{number}.png")


def grey_alone(folder: Path) -> np.ndarray:
    for path in folder.rglob("*.png"):
        Image.fromarray(GREY).convert("L").save(path)
    Image.fromarray(GREY).save(folder / f"{PLACE}.png")
    return GREY[..., None]


def loose(folder: Path) -> None:
    Image.fromarray(COLOUR).save(folder / "train" / "odd.png")


def wide_rgb(suffix: str) -> Callable[[Path], np.ndarray]:
    """RGB of 16 bits a channel, written by hand: Pillow writes none."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + (COLOUR[row].astype(">u2") * 257).tobytes() for row in range(SIDE))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 0)
    made = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return content(suffix, made)


def pipe(folder: Path) -> None:
    os.mkfifo(folder / f"{PLACE}.png")


def large(folder: Path) -> None:
    """A PNG whose header says 60,000 × 60,000 pixels."""
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = b"IHDR" + header
    made = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    pixels = b"IDAT" + zlib.compress(bytes(1000))
    made += struct.pack(">I", len(pixels) - 4) + pixels + struct.pack(">I", zlib.crc32(pixels)) + bytes(60)
    raw(".png", made)(folder)


_16_BITS = (GREY.astype(np.uint16) * 257).astype(np.uint16)
_BRIGHT = np.full((SIDE, SIDE, 4), 200, np.uint8)
_BRIGHT[..., 3] = 0
_SMALL = {"image_size": 8}
IMAGE_CASES: list[ImagesCase] = [
    *(
        ImagesCase("formats", suffix, saved(suffix))
        for suffix in (".png", ".PNG", ".bmp", ".tif", ".tiff", ".ppm", ".pnm")
    ),
    ImagesCase("formats", ".apng", content(".apng", encoded("PNG"))),
    ImagesCase("formats", ".webp, lossless", saved(".webp", lossless=True)),
    ImagesCase("formats", ".webp, lossy", saved(".webp", SMOOTH, quality=95), tolerance=30),
    ImagesCase("formats", ".gif", saved(".gif", np.full((SIDE, SIDE, 3), 90, np.uint8)), tolerance=2),
    ImagesCase("formats", ".pgm", saved(".pgm", GREY)),
    ImagesCase("formats", ".pbm", saved(".pbm", lambda: Image.fromarray(GREY).convert("1"))),
    *(
        ImagesCase("formats", suffix, content(suffix, encoded("JPEG", SMOOTH, quality=100), SMOOTH), tolerance=6)
        for suffix in (".jpg", ".jpeg", ".JPEG", ".jpe", ".jfif")
    ),
    ImagesCase(
        "formats", "JPEG, progressive", saved(".jpg", SMOOTH, SMOOTH, progressive=True, quality=100), tolerance=6
    ),
    ImagesCase(
        "formats",
        "JPEG, of two images (MPO)",
        saved(
            ".jpg",
            SMOOTH,
            SMOOTH,
            format="MPO",
            save_all=True,
            append_images=[Image.fromarray(COLOUR)],
            quality=100,
        ),
        tolerance=6,
    ),
    ImagesCase("formats", "TIFF, packed by LZW", saved(".tif", compression="tiff_lzw")),
    ImagesCase("formats", "a PNG named .jpg", content(".jpg", encoded("PNG"))),
    ImagesCase("formats", "a WebP named .png", content(".png", encoded("WEBP", lossless=True))),
    *(
        ImagesCase("suffixes", name or "none", raw(name, encoded("PNG")), rf"left out 1 file .*{shown} \(1\)")
        for name, shown in (
            ("", "no suffix"),
            (".heic", ".heic"),
            (".jxl", ".jxl"),
            (".psd", ".psd"),
            (".txt", ".txt"),
            (".svg", ".svg"),
            (".png.part", ".part"),
        )
    ),
    ImagesCase(
        "suffixes",
        "4 of .heic, 2 without",
        doing(lambda f: [raw(f"{n}.heic", b"x")(f) for n in range(4)] + [raw(f"{n}", b"x")(f) for n in range(2)]),
        r"left out 6 files .*\.heic \(4\), no suffix \(2\)",
    ),
    ImagesCase("modes", "grey among colours", saved(".png", GREY, GREY)),
    ImagesCase("modes", "grey alone", grey_alone, "all 4 test images are training images"),
    ImagesCase("modes", "1 bit", saved(".png", lambda: Image.fromarray(GREY).convert("1"))),
    ImagesCase(
        "modes", "palette", saved(".png", lambda: Image.fromarray(COLOUR).convert("P", palette=Image.Palette.ADAPTIVE))
    ),
    ImagesCase(
        "modes",
        "palette with transparency",
        saved(".png", lambda: Image.fromarray(COLOUR).quantize(8), transparency=0),
    ),
    ImagesCase("modes", "alpha", saved(".png", lambda: Image.fromarray(_BRIGHT), _BRIGHT[..., :3])),
    ImagesCase("modes", "grey and alpha", saved(".png", lambda: Image.fromarray(GREY).convert("LA"), GREY)),
    ImagesCase("modes", "CMYK, TIFF", saved(".tif", lambda: Image.fromarray(COLOUR).convert("CMYK")), tolerance=1),
    ImagesCase(
        "modes",
        "CMYK, JPEG",
        saved(".jpg", lambda: Image.fromarray(SMOOTH).convert("CMYK"), SMOOTH, quality=100),
        tolerance=12,
    ),
    ImagesCase(
        "modes", "YCbCr, JPEG", saved(".jpg", lambda: Image.fromarray(SMOOTH).convert("YCbCr"), SMOOTH), "", False, 30
    ),
    ImagesCase("modes", "grey of 16 bits, PNG", saved(".png", lambda: Image.fromarray(_16_BITS), GREY)),
    ImagesCase("modes", "grey of 16 bits, TIFF", saved(".tif", lambda: Image.fromarray(_16_BITS), GREY)),
    ImagesCase("modes", "RGB of 16 bits, PNG", wide_rgb(".png")),
    ImagesCase(
        "modes",
        "grey of 32 bits beyond 65,535",
        saved(".tif", lambda: Image.fromarray(_16_BITS.astype(np.int32) * 5)),
        "grey values beyond 16 bits",
        refused=True,
    ),
    ImagesCase(
        "modes",
        "floats",
        doing(lambda f: Image.fromarray(GREY.astype(np.float32)).save(f / f"{PLACE}.tif")),
        "pixels are floats",
        refused=True,
    ),
    *(ImagesCase("EXIF", f"orientation {number}", turned(number), tolerance=6) for number in range(1, 9)),
    ImagesCase(
        "EXIF",
        "damaged",
        saved(".jpg", SMOOTH, SMOOTH, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f", quality=100),
        tolerance=6,
    ),
    ImagesCase("EXIF", "a long comment", saved(".png", pnginfo=comment())),
    ImagesCase("EXIF", "a colour profile", saved(".png", icc_profile=bytes(300))),
    ImagesCase("animated", "GIF: its first frame", animated("gif"), tolerance=1),
    ImagesCase("animated", "WebP: its first frame", animated("webp", lossless=True)),
    ImagesCase("animated", "PNG: its first frame", animated("png")),
    ImagesCase("animated", "TIFF of several pages: the first", animated("tif")),
    ImagesCase(
        "sizes",
        "another size",
        saved(".png", np.zeros((9, 7, 3), np.uint8)),
        "set data.image_size",
        refused=True,
    ),
    ImagesCase(
        "sizes",
        "another size, image_size: 8",
        saved(".png", np.full((9, 7, 3), 5, np.uint8), np.full((8, 8, 3), 5, np.uint8)),
        options=_SMALL,
    ),
    ImagesCase(
        "sizes",
        "1 × 1, image_size: 8",
        saved(".png", np.full((1, 1, 3), 5, np.uint8), np.full((8, 8, 3), 5, np.uint8)),
        options=_SMALL,
    ),
    ImagesCase("sizes", "60,000 × 60,000 (a bomb)", doing(large), "more than the limit|exceeds limit", refused=True),
    ImagesCase(
        "sizes",
        "2 × 40,000, image_size: 224",
        saved(".png", lambda: Image.new("L", (2, 40_000))),
        "more than the limit",
        refused=True,
        options={"image_size": 224},
    ),
    *(
        ImagesCase("damaged", name, raw(f".{suffix}", made), "a picture that can be decoded", refused=True)
        for name, suffix, made in (
            ("empty", "png", b""),
            ("text", "jpg", b"no picture"),
            ("a web page", "jpg", b"<!doctype html><html>404</html>"),
            ("a Git LFS pointer", "png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
            ("PostScript named .png", "png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 4\n"),
            ("JPEG cut to half", "jpg", encoded("JPEG", COLOUR)[:400]),
            ("PNG cut to half", "png", encoded("PNG")[:400]),
        )
    ),
    *(
        ImagesCase(
            "damaged",
            "JPEG cut to half, bad_files: skip",
            raw(".jpg", encoded("JPEG", COLOUR)[:400]),
            r"1 .*odd\.jpg",
            options={"bad_files": "skip"},
        )
        for _ in ["bad_files"]
        if "bad_files" in DataConfig.model_fields
    ),
    ImagesCase("damaged", "bytes behind the end of a PNG", content(".png", encoded("PNG") + b"trailing" * 10)),
    ImagesCase(
        "damaged",
        "bytes behind the end of a JPEG",
        content(".jpg", encoded("JPEG", SMOOTH, quality=100) + b"trailing" * 10, SMOOTH),
        tolerance=6,
    ),
    ImagesCase("folders", "nested", saved("train/a/deep/er/odd.png")),
    ImagesCase("folders", "a folder named odd.png", doing(lambda f: (f / f"{PLACE}.png").mkdir())),
    ImagesCase("folders", "hidden file", doing(lambda f: saved("train/a/.odd.png")(f))),
    ImagesCase("folders", "macOS's ._odd.jpg", raw("train/a/._odd.jpg", b"\0\5\x16\7")),
    ImagesCase("folders", "hidden folder", doing(lambda f: saved("train/a/.cache/odd.png")(f))),
    ImagesCase("folders", "Thumbs.db", raw("train/a/Thumbs.db", b"x"), r"left out 1 file .*\.db \(1\)"),
    ImagesCase("folders", "an image next to the classes", doing(loose), "left out 1 image next to the class folders"),
    ImagesCase("folders", "a name with line break and escape", saved("train/a/odd\n\x1b[31m.png")),
    ImagesCase("folders", "a name of 250 letters", saved(f"train/a/odd{'x' * 243}.png")),
    ImagesCase("folders", "a name in Cyrillic", saved("train/a/odd кот.png")),
    ImagesCase("folders", "a pipe", doing(pipe)),
    ImagesCase(
        "folders", "a class without images", doing(lambda f: (f / "train" / "c").mkdir()), "at least 1 image file", True
    ),
    ImagesCase(
        "folders",
        "a class of .heic alone",
        doing(lambda f: raw("train/c/1.heic", b"x")(f)),
        r"at least 1 image file .*\.heic \(1\)",
        refused=True,
    ),
    ImagesCase(
        "folders",
        "a class in training alone",
        doing(lambda f: saved("train/c/odd.png")(f)),
        "the classes of training: it lacks 'c'",
        refused=True,
    ),
    ImagesCase("links", "to a file elsewhere", link_to_file),
    ImagesCase("links", "to a folder elsewhere", link_to_folder),
    ImagesCase("links", "to nothing", linked("nowhere.png"), "No such file", refused=True),
    ImagesCase("links", "to the folder above", linked("train/a", "train/a/back")),
    ImagesCase(
        "links",
        "in a class to a folder of the test split",
        linked("test/b", "train/a/more"),
        "1 link of train leads to test, such as 'a/more'.*2 of 4 test images are training images",
    ),
    ImagesCase(
        "links",
        "to one image of the test split",
        doing(lambda f: linked("test/b/0.png", "train/a/same.png")(f)),
        "1 link of train leads to test, such as 'a/same.png'.*1 of 4 test images",
    ),
    ImagesCase(
        "copies", "two training images in the test split", doing(copied(2)), "2 of 6 test images are training images"
    ),
    ImagesCase(
        "copies",
        "the test split is the training split",
        doing(lambda f: [shutil.rmtree(f / "test"), shutil.copytree(f / "train", f / "test")]),
        "all 4 test images are training images",
    ),
    ImagesCase(
        "copies", "22 images of one class, 2 of the other", doing(unequal), "22 training images of 'a', 2 of 'b'"
    ),
]

"""Reading 224-pixel JPEG files: this loader against torchvision's ImageFolder and torch's DataLoader, in turns.

    python benchmarks/photo_loader.py --data imagenette-part --out docs/results/photo-loader.md
    python benchmarks/photo_loader.py --data imagenette-part --draft

Both give shuffled batches of uint8 images without augmentation, from files, with as many workers (threads here,
processes there). Each turn is a process of its own, so its largest memory is its own; that of torch's workers is added.
`--draft` prints what decoding photographs of 12 megapixels at a fraction of their size saves, and what it changes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from pages import table, write_page
from PIL import Image

from stillroom.data import decoding
from stillroom.files import find_input

BATCH = 64


def ours(folder: Path, workers: int) -> tuple[int, float]:
    """Images and seconds of one epoch, once the files are opened."""
    import torch

    from stillroom.data.config import AugmentationConfig
    from stillroom.data.image_folder import read_image_folder
    from stillroom.data.loader import BatchLoader, BatchSampler

    torch.set_num_threads(1)
    data = read_image_folder(folder, "train", in_memory=False, workers=workers)
    loader = BatchLoader(data, AugmentationConfig(), torch.device("cpu"), workers)
    sampler, count = BatchSampler(len(data), BATCH, 0), min(len(data), 2000)
    began = time.perf_counter()
    steps = range(count // BATCH)
    seen = sum(len(batch) for batch in loader.batches((sampler.indices(0, step), 0) for step in steps))
    return seen, time.perf_counter() - began


def theirs(folder: Path, workers: int) -> tuple[int, float]:
    """The same by torchvision and torch."""
    import torch
    from torch.utils.data import DataLoader, Subset

    from stillroom.models.external import declare_missing_ops

    declare_missing_ops()
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    data = ImageFolder(folder / "train", v2.PILToTensor())
    some = Subset(data, np.random.default_rng(0).permutation(len(data))[: min(len(data), 2000)].tolist())
    began = time.perf_counter()
    loader = DataLoader(some, BATCH, num_workers=workers, drop_last=True)
    seen = sum(len(labels) for _, labels in loader)
    return seen, time.perf_counter() - began


def one(which: str, folder: Path, workers: int) -> None:
    """One turn: its figures as JSON."""
    before = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    images, seconds = {"ours": ours, "theirs": theirs}[which](folder, workers)
    after = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = sum(b.ru_utime + b.ru_stime - a.ru_utime - a.ru_stime for a, b in zip(before, after, strict=True))
    memory = after[0].ru_maxrss + (workers * after[1].ru_maxrss if which == "theirs" else 0)
    print(json.dumps({"rate": images / seconds, "cpu": 1e3 * cpu / images, "memory": memory / 1024}))


def linked(source: Path, target: Path, count: int) -> Path:
    """A folder of so many files, hard links or copies of the source's training images."""
    files = sorted(source.glob("train/*/*.jpg"))
    for place in range(count):
        path = files[place % len(files)]
        folder = target / "train" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        to = folder / f"{place // len(files):03}-{path.name}"
        try:
            os.link(path, to)
        except OSError:
            shutil.copy(path, to)
    return target


def draft(data: str, rounds: int) -> None:
    """Photographs of 12 megapixels, mosaics of small ones, brought to a side: with Pillow's draft and without."""
    small = sorted(find_input(data).glob("train/*/*.jpg"))
    draw, rows = np.random.default_rng(0), []
    contents = []
    for _ in range(rounds):
        whole = Image.new("RGB", (4000, 3000))
        for place, chosen in enumerate(draw.choice(len(small), 18 * 14)):
            with Image.open(small[chosen]) as part:
                whole.paste(part.convert("RGB"), (place % 18 * 224, place // 18 * 224))
        stream = io.BytesIO()
        whole.save(stream, "JPEG", quality=90)
        contents.append(stream.getvalue())
    has_draft = decoding._has_draft
    for side in (128, 224, 384):
        times: dict[bool, list[float]] = {True: [], False: []}
        changes = []
        for content in contents:
            found = {}
            for drafts in (True, False):
                decoding._has_draft = has_draft if drafts else lambda image, side: False
                began = time.process_time()
                found[drafts] = decoding.decode_photo(content, side, ("JPEG",)).astype(np.int64)
                times[drafts].append(1e3 * (time.process_time() - began))
            changes.append(np.abs(found[True] - found[False]))
        without, with_draft = (statistics.median(times[drafts]) for drafts in (False, True))
        ratio = statistics.median(a / b for a, b in zip(times[False], times[True], strict=True))
        mean, most = np.mean(changes), max(int(each.max()) for each in changes)
        rows.append([side, f"{without:.0f}", f"{with_draft:.0f}", f"{ratio:.1f}", f"{mean:.2f}", most])
    decoding._has_draft = has_draft
    size = statistics.mean(map(len, contents)) / 1e6
    print(f"{rounds} JPEG files of 4000 × 3000 pixels, {size:.1f} MB each on average\n")
    header = ["side", "whole, ms", "draft, ms", "ratio", "change of a pixel, mean", "largest"]
    print("\n".join(table(header, rows)))


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="imagenette-part")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--draft", action="store_true", help="decoding of 12-megapixel files alone")
    parser.add_argument("--one", nargs=2, metavar=("WHICH", "FOLDER"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.draft:
        draft(options.data, options.rounds)
        return
    if options.one:
        one(options.one[0], Path(options.one[1]), options.workers)
        return
    rows = []
    with tempfile.TemporaryDirectory(prefix="photo-loader-") as work:
        for count in (2000, 20_000):
            folder = linked(find_input(options.data), Path(work) / str(count), count)
            found: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
            for _ in range(options.rounds if count == 2000 else 1):
                for which, turns in found.items():
                    command = [sys.executable, __file__, "--one", which, str(folder), "--workers", str(options.workers)]
                    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                    turns.append(json.loads(done.stdout))
                    print(count, which, turns[-1], flush=True)
            ratio = statistics.median(a["rate"] / b["rate"] for a, b in zip(*found.values(), strict=True))
            for which, turns in found.items():
                middle = {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
                name = "BatchLoader" if which == "ours" else "ImageFolder + DataLoader"
                cells = [f"{middle['rate']:.0f}", f"{middle['cpu']:.2f}", f"{middle['memory']:.0f}"]
                rows.append([f"{count:,}", name, *cells, f"{ratio:.2f}" if which == "ours" else ""])
    write_page(
        options.out,
        "Reading photographs: this loader against torchvision's",
        f"`python benchmarks/photo_loader.py --data {options.data} --workers {options.workers} --rounds "
        f"{options.rounds}`: 224-pixel JPEG files, {BATCH} a batch, {options.workers} workers each, up to 2,000 images "
        "a turn, in turns, medians; 20,000 files are links to the same photographs, one turn. The cores of the machine "
        "were shared with other work: the rates are of that hour. Processor time is of the whole process: imports and "
        "the check of each file when it is opened (of all 20,000 in the second part) are in it.",
        ["files", "loader", "images a second", "processor ms an image", "largest memory, MiB", "ratio of rates"],
        rows,
    )


if __name__ == "__main__":
    main()

"""Where the clinic's set-ups are made: data sets, teachers and recipes of each world, by seed, each made once."""

from __future__ import annotations

import copy
import gzip
import hashlib
import io
import os
import random
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from stillroom.data.config import DataConfig
from stillroom.data.images import ImageSet
from stillroom.data.sources import load, read_digits
from stillroom.errors import RunFailed
from stillroom.files import DATA_VARIABLE, atomic_write, canonical_json, digest, write_text
from stillroom.models.weights import read_state
from stillroom.recipe import apply_override, parse_recipe
from stillroom.run.run import execute
from stillroom.study.compare import compare
from stillroom.study.config import parse_study
from stillroom.study.engine.in_process import InProcessEngine

Content = dict[str, Any]
Model = tuple[str, dict[str, Any]]
WORLDS = ("digits", "cifar10", "cifar100-part", "fashion-mnist")
# By seed, so that what was tuned on some is scored on others.
TEACHERS: tuple[Model, ...] = (
    ("resnet8", {"width": 8}),
    ("resnet14", {"width": 8}),
    ("resnet20", {"width": 6}),
    ("resnet8", {"width": 12}),
    ("resnet14", {"width": 6}),
    ("resnet8", {"width": 10}),
)
STUDENTS: tuple[Model, ...] = (
    ("resnet8", {"width": 4}),
    ("mlp", {"hidden": [24]}),
    ("resnet8", {"width": 3}),
    ("mlp", {"hidden": [48, 24]}),
    ("resnet14", {"width": 4}),
    ("mlp", {"hidden": [32]}),
)
KL = [{"name": "cross_entropy", "weight": 0.1}, {"name": "kl", "weight": 0.9, "temperature": 4}]
LABELS = [{"name": "cross_entropy"}]
HERE: Content = {"precision": "float32", "device": "cpu", "log_every": 5}


def of(models: Sequence[Model], seed: int) -> Content:
    """A model by seed."""
    name, options = models[seed % len(models)]
    return {"name": name, "options": copy.deepcopy(options)}


class SetupMaker:
    """Makes what cases are made of, in a folder where it stays for the next call.

    Args:
        folder: where.
        world: whose data and teachers.
        seed: of the case.
        kind: name of the kind, which with the seed decides what is drawn.
    """

    def __init__(self, folder: Path, world: str, seed: int, kind: str) -> None:
        self.folder, self.world, self.seed, self.kind = folder, world, seed, kind
        self.draw = random.Random(f"{kind}/{world}/{seed}")
        self.case = folder / "cases" / world / kind.replace(" ", "-") / str(seed)

    @property
    def is_digits(self) -> bool:
        return self.world == "digits"

    @property
    def side(self) -> int:
        return {"digits": 8, "fashion-mnist": 28}.get(self.world, 32)

    @property
    def colours(self) -> int:
        return 3 if self.world.startswith("cifar") else 1

    @property
    def classes(self) -> int:
        return 100 if self.world == "cifar100-part" else 10

    @property
    def data(self) -> Content:
        """The world's data: of the real ones so many images as a minute allows."""
        if self.is_digits:
            return {"source": "digits", "batch_size": 64, "augmentation": {"pad_crop": 1}}
        limits = {"train_limit": 6000, "test_limit": 1000}
        augmentation = {"pad_crop": 4, "flip": True} if self.colours == 3 else {"pad_crop": 0}
        return {"path": self.world, "batch_size": 64, "augmentation": augmentation, **limits}

    def recipe(self, *overrides: str) -> Content:
        """The world's correct recipe of this seed, changed."""
        content: Content = {
            "data": self.data,
            "teacher": self.teacher(),
            "student": self.student(),
            "losses": copy.deepcopy(KL),
            "training": {"epochs": 12, **HERE},
            "cache": {"enabled": False},
            "seed": self.seed,
        }
        for override in overrides:
            apply_override(content, override)
        return content

    def student(self) -> Content:
        """The world's student of this seed."""
        small = {"name": "resnet8", "options": {"width": 4}}
        return of(STUDENTS, self.seed) if self.is_digits else small if self.colours == 1 else {"name": "resnet8"}

    def teacher(self, **changes: Any) -> Content:
        """A teacher of the world: the public one, or one that is trained here.

        Args:
            changes: dotted keys, ``__`` for a dot, of the recipe that trains it; or ``student``.
        """
        public = {
            "cifar10": ("resnet56", "resnet20")[self.seed % 2],
            "cifar100-part": "resnet32",
        }.get(self.world)
        if public is not None and not changes:
            kind = "safetensors" if self.world == "cifar100-part" else "th"
            weights = f"weights/{public}-{self.world.removesuffix('-part')}.{kind}"
            return {"name": public, "weights": weights, "preprocess": "imagenet"}
        student = of(TEACHERS, self.seed) if self.is_digits else {"name": "resnet8", "options": {"width": 8}}
        data = copy.deepcopy(self.data)
        content: Content = {"data": data, "student": student, "losses": copy.deepcopy(LABELS)}
        content |= {"training": {"epochs": 14 if self.is_digits else 8, **HERE}, "seed": 1000 + self.seed}
        for key, value in changes.items():
            place, *rest = key.split("__")
            inner = content
            for part in rest:
                inner = inner.setdefault(place, {})
                place = part
            inner[place] = copy.deepcopy(value)
        return {**content["student"], "weights": str(self.trained(content) / "student.safetensors")}

    def trained(self, content: Content) -> Path:
        """The run folder of a recipe, done once."""
        recipe = parse_recipe(content)
        folder = self.folder / "trained" / recipe.hash()[:16]
        failed = folder.with_suffix(".failed")
        if not (folder / "summary.json").exists() and not failed.exists():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                execute(recipe, folder, latency=False)
            except RunFailed as why:  # what such a run leaves is a case, too
                write_text(failed, str(why))
        return folder

    def changed(self, teacher: Content, change: Callable[[dict[str, Tensor]], None], what: str) -> Content:
        """A teacher with other weights.

        Args:
            teacher: whose weights file is read.
            change: changes its tensors, in place.
            what: names the file.
        """
        path = self.case / f"{what}.safetensors"
        state = {key.removeprefix("module."): value.clone() for key, value in read_state(teacher["weights"]).items()}
        change(state)
        with atomic_write(path) as temporary:
            save_file(state, temporary)
        return {**teacher, "weights": str(path)}

    def written(self, content: Content) -> Path:
        """The case's recipe as a file."""
        parse_recipe(content)
        path = self.case / "recipe.yaml"
        write_text(path, yaml.safe_dump(content, sort_keys=False))
        return path

    def studied(self, study: Content) -> Path:
        """The folder of a study, done once."""
        # A study goes on in its own folder alone.
        folder = self.case / f"study-{digest(canonical_json(study))[:12]}"
        compare(parse_study({"name": "clinic", **study}), folder, lambda where, threads: InProcessEngine())
        return folder

    def split(self, name: str) -> ImageSet:
        """The world's own images: digits, or the first of Fashion-MNIST."""
        if self.is_digits:
            return read_digits(name)
        pair = load(DataConfig(**{k: v for k, v in self.data.items() if k != "augmentation"}))
        return pair.train if name == "train" else pair.test

    def grey(self, name: str, change: Callable[[str, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> str:
        """A folder of idx files with the world's grey images after a change of (split, images, labels)."""
        folder = self.folder / "data" / f"{self.world}-{name}"
        if not (folder / "done").exists():
            for split, stem in (("train", "train"), ("test", "t10k")):
                own = self.split(split)
                images, labels = change(split, _pixels(own).numpy()[:, 0], own.labels.numpy())
                folder.mkdir(parents=True, exist_ok=True)
                n, h, w = images.shape
                head = np.array([0x0803, n, h, w], ">i4").tobytes()
                (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + images.tobytes(), 1))
                head = np.array([0x0801, n], ">i4").tobytes()
                labels = labels.astype(np.uint8)
                (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(head + labels.tobytes(), 1))
            (folder / "done").touch()
        return str(folder)

    def coloured(self) -> str:
        """A folder of coloured digits: the digit in red, another in blue, little in green."""
        folder = self.folder / "data" / "digits-coloured"
        if not (folder / "done").exists():
            folder.mkdir(parents=True, exist_ok=True)
            for split in ("train", "test"):
                own = read_digits(split)
                grey = _pixels(own)
                other = grey[torch.randperm(len(own), generator=torch.Generator().manual_seed(0))]
                images = torch.cat([grey, grey // 8, other], 1).permute(0, 2, 3, 1).numpy()
                rows = [{"bytes": _png(image), "path": None} for image in images]
                table = pa.table({"img": rows, "label": pa.array(own.labels.tolist(), pa.int64())})
                pq.write_table(table, folder / f"{split}.parquet")
            (folder / "done").touch()
        return str(folder)


def _pixels(images: ImageSet) -> Tensor:
    assert isinstance(images.images, Tensor)
    return images.images


def _png(image: np.ndarray) -> bytes:
    held = io.BytesIO()
    Image.fromarray(image).save(held, "png")
    return held.getvalue()


def has_real_images() -> bool:
    """Whether real images are there to be used."""
    return bool(os.environ.get(DATA_VARIABLE))


def norms(state: dict[str, Tensor]) -> list[str]:
    """The names of batch norms in a state dict."""
    return [key.removesuffix(".running_mean") for key in state if key.endswith(".running_mean")]


def last_layer(state: dict[str, Tensor]) -> str:
    """The name of the last linear layer."""
    return [
        key.removesuffix(".weight") for key, value in state.items() if key.endswith(".weight") and value.dim() == 2
    ][-1]


Make = Callable[[SetupMaker], Path]
About = Literal["recipe", "run", "study"]
Half = Literal["development", "scored"]
# Seeds decide data orders, models, teachers and what is drawn; those of one half are in no case of the other. The
# scored half was looked at with seeds 2 to 5 (real images: 1 and 3) before the checks were frozen for the last time.
SEEDS: dict[Half, dict[str, tuple[int, ...]]] = {
    "development": {"digits": (0, 1), "real": (0,)},
    "scored": {"digits": (6, 7), "real": (5,)},
}


# Kinds that got another name after the halves were dealt. Halves and draws go by the first name.
_DEALT_AS = {
    f"{stem}, declared": f"{stem}, t\u006fld"
    for stem in ("another order of classes", "more logits than classes", "another size", "blue, green, red")
}


@dataclass(frozen=True)
class Kind:
    """A kind of set-up.

    Attributes:
        name: what it is, in a few words.
        make: makes a case of it: a recipe's file, a run's folder or a study's.
        about: which of these.
        expects: checks of which one must report a problem; none of a correct kind.
        worlds: where it is tried.
        complaint: the report that it re-enacts, if it does.
        cohort: 1, by the checks' author; 2, by another hand; 3, of few labels.
    """

    name: str
    make: Make
    about: About
    expects: tuple[str, ...] = ()
    worlds: tuple[str, ...] = ("digits",)
    complaint: str = ""
    cohort: int = 1

    @property
    def dealt_name(self) -> str:
        """The name under which its half and its draws were settled."""
        return _DEALT_AS.get(self.name, self.name)

    @property
    def is_faulty(self) -> bool:
        return bool(self.expects)


@dataclass(frozen=True)
class ClinicCase:
    """A kind in a world, with a seed."""

    kind: Kind
    world: str
    seed: int
    half: Half

    @property
    def key(self) -> str:
        return f"{self.world}/{self.kind.name}/{self.seed}"


class Kinds:
    """A list of kinds that grows by decorating what makes them."""

    def __init__(self, *, cohort: int = 1) -> None:
        self.all: list[Kind] = []
        self.cohort = cohort

    def faulty(
        self, name: str, *expects: str, about: About = "recipe", worlds: str = "digits", complaint: str = ""
    ) -> Callable[[Make], Make]:
        """A kind of which one of these checks must say so."""
        assert expects
        return self._added(name, about, expects, worlds, complaint)

    def correct(self, name: str, *, about: About = "recipe", worlds: str = "digits") -> Callable[[Make], Make]:
        """A kind of which no check must report a problem."""
        return self._added(name, about, (), worlds, "")

    def _added(
        self, name: str, about: About, expects: tuple[str, ...], worlds: str, complaint: str
    ) -> Callable[[Make], Make]:
        places = tuple(worlds.split())
        assert set(places) <= set(WORLDS), places

        def add(make: Make) -> Make:
            self.all.append(Kind(name, make, about, expects, places, complaint, self.cohort))
            return make

        return add


def halves(kinds: Iterable[Kind]) -> dict[str, Half]:
    """The half of each kind: of those alike (faulty or not; about; cohort) every second by a hash of its name.

    >>> kinds = [Kind(name, Path, "recipe", ("x",)) for name in ("a", "b", "c", "d")]
    >>> sorted(halves(kinds).items())
    [('a', 'scored'), ('b', 'development'), ('c', 'development'), ('d', 'scored')]
    """
    found: dict[str, Half] = {}
    groups: dict[tuple[bool, About, int], list[Kind]] = {}
    for kind in kinds:
        groups.setdefault((kind.is_faulty, kind.about, kind.cohort), []).append(kind)
    for group in groups.values():
        ordered = sorted(group, key=lambda kind: hashlib.sha256(kind.dealt_name.encode()).hexdigest())
        found |= {kind.name: ("development", "scored")[place % 2] for place, kind in enumerate(ordered)}
    return found


def cases_of(kinds: Iterable[Kind], *, real: bool, half: Half | None = None) -> list[ClinicCase]:
    """All cases: the kinds of each half at the seeds of that half, in the worlds that are there."""
    kinds = list(kinds)
    names = halves(kinds)
    found = []
    for kind in kinds:
        for world in kind.worlds:
            where = "digits" if world == "digits" else "real"
            if where == "real" and not real:
                continue
            mine = names[kind.name]
            found += [ClinicCase(kind, world, seed, mine) for seed in SEEDS[mine][where]]
    return [case for case in found if half is None or case.half == half]

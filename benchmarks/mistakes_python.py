"""The Python cases of the operator's table: what is given to `stillroom.distill`, and what must come of it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import stillroom as sr

Row = tuple[str, str, Callable[[], Any], str]
_numbers = itertools.count()
_draw = torch.Generator().manual_seed(0)
X, Y = torch.randn(96, 3, 8, 8, generator=_draw), torch.arange(96) % 4
XT, YT = torch.randn(40, 3, 8, 8, generator=_draw), torch.arange(40) % 4
TRAIN, TEST = TensorDataset(X, Y), TensorDataset(XT, YT)
BYTES = (torch.rand(96, 3, 8, 8, generator=_draw) * 255).round().to(torch.uint8)
PIXELS = [(BYTES[row], int(Y[row])) for row in range(96)]
PICTURES = [(Image.fromarray(BYTES[row].permute(1, 2, 0).numpy()), int(Y[row])) for row in range(96)]
STATED = {"teacher_preprocess": "unit", "student_preprocess": "unit"}


def net(width: int = 4, classes: int = 4, channels: int = 3) -> nn.Module:
    """A small net."""
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), *pooled)


def pruned(model: nn.Module) -> nn.Module:
    """The same with half of a layer's weights masked."""
    prune.l1_unstructured(model[0], "weight", 0.5)  # type: ignore[index, no-untyped-call]
    return model


class Random(nn.Module):
    """A teacher with dropout that eval mode does not switch off."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net(8)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.net(x), 0.5)


class Pair(nn.Module):
    """Gives logits and features."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net(8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.net(x), x


class Changing(Dataset[tuple[Tensor, int]]):
    """Mirrors some images at random."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __len__(self) -> int:
        return 96

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return (X[row].flip(-1) if torch.rand(()) < self.share else X[row]), int(Y[row])


class Stream(IterableDataset[tuple[Tensor, int]]):
    """A stream, as it is or with noise."""

    def __init__(self, noise: float) -> None:
        self.noise = noise

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return ((X[row] + self.noise * torch.randn(3, 8, 8), int(Y[row])) for row in range(96))


class Hook(sr.StepHook):
    """Sees evaluations."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def after_evaluation(self, info: Any) -> None:
        self.seen.append(info.metrics["top1"])


def distill(**given: Any) -> str:
    """A run of one epoch; what it came to."""
    options: dict[str, Any] = {
        "teacher": net(8),
        "student": net(),
        "train": TRAIN,
        "test": TEST,
        "epochs": 1,
        "batch_size": 32,
        "out": f"python{next(_numbers)}",
    }
    run = sr.distill(**{**options, **given})
    return f"a run of {run.summary['steps']} steps"


def cases() -> Iterator[Row]:
    """Group, name, what is done, and the words of its refusal; after → those of what it prints where it runs."""
    ran = "→a run of"

    def given(group: str, name: str, words: str, **options: Any) -> Row:
        return group, name, lambda: distill(**options), words

    functions = {
        "`[nn.MSELoss()]`": ([nn.MSELoss()], ran),
        "`[nn.CrossEntropyLoss(), 'kl']`": ([nn.CrossEntropyLoss(), "kl"], ran),
        "`'kl'`": ("kl", ran),
        "a lambda (s, t)": ([lambda s, t: (s - t).pow(2).mean()], ran),
        "a lambda (s, t, y)": ([lambda s, t, y: F.cross_entropy(s, y) + F.mse_loss(s, t)], ran),
        "`{'name': 'kl', 'temperature': 2}`": ([{"name": "kl", "temperature": 2}], ran),
        "`FunctionLoss(f, weight=.5)`": ([sr.FunctionLoss(lambda s, t: (s - t).pow(2).mean(), weight=0.5)], ran),
        "`nn.KLDivLoss()`": ([nn.KLDivLoss()], "takes logarithms of probabilities"),
        "a lambda that gives a tensor": ([lambda s, t: (s - t).pow(2)], "take the batch's mean"),
        "a lambda that gives a float": ([lambda s, t: 1.0], "not a float"),
        "a lambda that raises": ([lambda s, t: s.nope()], "it raised AttributeError"),
        "a lambda (s)": ([lambda s: s.sum()], r"not of \(s\)"),
        "a lambda without a gradient": ([lambda s, t: (s.detach() - t).pow(2).mean()], "this has no gradient"),
        "`'kll'`": (["kll"], "did you mean 'kl'"),
        "a class": ([nn.MSELoss], "expected a loss"),
        "a number": ([3], "a loss"),
        "an unknown option": ([{"name": "kl", "temp": 2}], "unknown field 'temp'"),
    }
    for name, (losses, words) in functions.items():
        yield given("losses", name, words, losses=losses)
    steps: list[Any] = []
    yield "hooks", "a function", lambda: (distill(hooks=[steps.append]), f"{len(steps)} calls")[1], "→3 calls"
    hook = Hook()
    yield "hooks", "one that sees evaluations", lambda: (distill(hooks=[hook]), f"{len(hook.seen)} seen")[1], "→1 seen"
    yield given("hooks", "a number", "a StepHook, or a function", hooks=[3])
    for who, width in (("student", 4), ("teacher", 8)):
        yield given("modules", f"TorchScript, {who}", ran, **{who: torch.jit.script(net(width))})
        yield given("modules", f"compiled, {who}", ran, **{who: torch.compile(net(width), backend="eager")})
        yield given("modules", f"pruned, {who}", ran, **{who: pruned(net(width))})
        yield given("modules", f"DataParallel, {who}", ran, **{who: nn.DataParallel(net(width))})
        yield given("modules", f"a tuple of logits and features, {who}", ran, **{who: Pair()})
        yield given("modules", f"of float64, {who}", "images of 3×8×8; it raised", **{who: net(width).double()})
        yield given("modules", f"a class, {who}", r"a module, such as Linear\(\)", **{who: nn.Linear})
    yield given("modules", "None for the student", "student: got None; expected an nn.Module", student=None)
    yield given("modules", "a function as teacher", "teacher: .*nn.Module", teacher=lambda x: x)
    yield given("modules", "teacher of 10 classes", "4 logits, one a class of train, not 10", teacher=net(8, 10))
    yield given("modules", "teacher with dropout in eval mode", "this one is random", teacher=Random(), epochs=4)
    yield given("modules", "the same again", "this one is random", teacher=Random(), epochs=4)
    nan = copy.deepcopy(net(8))
    nn.init.constant_(nan[0].weight, float("nan"))  # type: ignore[index]
    yield given("modules", "teacher of NaN", "finite logits", teacher=nan)
    yield given("modules", "a frozen student", "at least one trainable parameter", student=net().requires_grad_(False))
    same = net()
    yield given("modules", "student and teacher are one", ran, teacher=same, student=same)
    yield given("optimizers", "a factory", ran, optimizer=lambda p: torch.optim.Adam(p, lr=1e-3))
    yield given("optimizers", "a class", ran, optimizer=torch.optim.Adam)
    yield given("optimizers", "an instance", "a function that makes it", optimizer=torch.optim.Adam(net().parameters()))
    yield given(
        "optimizers",
        "of other parameters",
        "a copy of the student is trained",
        optimizer=lambda p: torch.optim.Adam(net().parameters()),
    )
    yield given("optimizers", "of some parameters", "it lacks 1 of 4", optimizer=lambda p: torch.optim.Adam(p[1:]))
    yield given("optimizers", "of nothing", "a torch.optim.Optimizer", optimizer=lambda p: None)
    yield given("optimizers", "a scheduler", ran, scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1))
    yield given("optimizers", "a scheduler that is none", "a scheduler with step", scheduler=lambda o: 3)
    both = {"train": PIXELS, "test": PIXELS}
    choices = "'unit'.*'imagenet'.*or give floats"
    yield given("images", "bytes, nothing stated", choices, **both)
    yield given("images", "PIL images, nothing stated", choices, train=PICTURES, test=PICTURES)
    yield given(
        "images",
        "bytes, the teacher's stated alone",
        f"student_preprocess.*{choices}",
        **both,
        teacher_preprocess="unit",
    )
    yield given("images", "bytes, both stated", ran, **both, **STATED)
    yield given(
        "images",
        "an unknown preprocess",
        "did you mean 'imagenet'",
        **both,
        **{**STATED, "teacher_preprocess": "imagnet"},
    )
    yield given("images", "floats 0 … 255", "→divide by 255", train=TensorDataset(BYTES.float(), Y))
    yield given(
        "images", "NaN", r"got 'NaN'; expected finite numbers \(item 0\)", train=TensorDataset(X * float("nan"), Y)
    )
    yield given(
        "images",
        "float64",
        ran,
        train=TensorDataset(X.double(), Y),
        test=TensorDataset(XT.double(), YT),
        teacher=net(8).double(),
        student=net().double(),
    )
    yield given("images", "int64", "uint8 tensor", train=TensorDataset(BYTES.long(), Y))
    yield given(
        "images",
        "[H, W, C] tensors",
        r"\[C, H, W\], as it is a tensor",
        train=[(BYTES[0].permute(1, 2, 0), 0)] * 8,
        test=PIXELS,
        **STATED,
    )
    yield given(
        "images",
        "[C, H, W] arrays",
        r"\[H, W, C\], as it is a numpy array",
        train=[(BYTES[0].numpy(), 0)] * 8,
        test=PIXELS,
        **STATED,
    )
    yield given(
        "images", "of several sizes", "samples of one size", train=[(X[i, :, : 8 - i % 2], 0) for i in range(8)]
    )
    yield given(
        "images",
        "one channel, grey teacher",
        ran,
        train=TensorDataset(X[:, :1], Y),
        test=TensorDataset(XT[:, :1], YT),
        teacher=net(8, 4, 1),
        student=net(4, 4, 1),
    )
    yield given("images", "floats to learn from, bytes to test on", "floats, as in training", test=PIXELS, **STATED)
    yield given("datasets", "mirrored with probability .5", ran, train=Changing(0.5))
    yield given("datasets", "mirrored with probability .05", ran, train=Changing(0.05))
    yield given(
        "datasets", "a stream with noise", "the same image and label each time an item is read", train=Stream(0.1)
    )
    yield given("datasets", "a stream", ran, train=Stream(0.0))
    yield (
        "datasets",
        "a generator",
        lambda: distill(train=((X[i], int(Y[i])) for i in range(96))),
        "→a generator is read once",
    )
    yield given("datasets", "test = train", "→all 96 test images are training images", test=TRAIN)
    yield given("datasets", "copies", "→96 of 192 training images are copies", train=ConcatDataset([TRAIN, TRAIN]))
    yield given("datasets", "93 : 3", "→31 to 1", train=TensorDataset(X, (torch.arange(96) > 92).long()))
    yield given("datasets", "a subset", ran, train=Subset(TRAIN, range(48)))
    yield given("datasets", "a DataLoader", ran, train=DataLoader(TRAIN))
    yield given("datasets", "dictionaries", ran, train=[{"image": X[0], "label": 0}] * 8)
    yield given("datasets", "a tensor alone", r"pairs \(image, label\)", train=X)
    yield given("datasets", "a path", r"pairs \(image, label\)", train="imagenette-part")
    yield given("datasets", "nothing", "at least 1 sample", train=[])
    for name, labels, words in (
        ("one-hot", F.one_hot(Y, 4), "class numbers"),
        ("floats", Y.float(), "class numbers"),
        ("-1", Y - 1, "class numbers from 0"),
        ("from 1", Y + 1, "5 logits, one a class of train, not 4"),
    ):
        yield given("labels", name, words, train=TensorDataset(X, labels))
    yield given("labels", "words", "a class number", train=[(X[0], "cat")] * 8)
    yield given("options", "epochs=0", "greater than or equal to 1", epochs=0)
    yield given("options", "training={'lr': 1}", "did you mean 'training.optimizer.lr'", training={"lr": 1})
    yield given("options", "epochs twice", "epochs=1 is given too", training={"epochs": 3})
    yield given("options", "an unknown augmentation", "did you mean 'flip'", augmentation={"flipp": True})
    yield given("options", "flips and crops of floats", ran, augmentation={"flip": True, "pad_crop": 1})
    run = sr.distill(net(8), net(), TRAIN, TEST, epochs=1, out="base", progress=False, training={"checkpoints": [0, 1]})
    after: list[tuple[str, Callable[[], Any], str]] = [
        ("run.export()", run.export, "→student.safetensors"),
        ("run.export('onnx')", lambda: run.export("onnx"), "→student.onnx"),
        ("run.export('pt2')", lambda: run.export("pt2"), "→student.pt2"),
        ("run.export('tflite')", lambda: run.export("tflite"), "one of: safetensors"),  # type: ignore[arg-type]
        ("run.evaluate()", run.evaluate, "→top1"),
        ("run.diagnose()", lambda: run.diagnose().headline, "→."),
        ("run.explain()", lambda: run.explain(images=4, passes=60), "→."),
        ("run.fidelity()", lambda: run.fidelity(images=16), "→."),
        ("run.report()", run.report, "→report.html"),
        ("run.predict(bytes)", lambda: run.predict(BYTES), "floats, as the run"),
        ("load_run(folder, student=…)", lambda: sr.load_run("base", student=net()).evaluate(TEST), "→top1"),
        ("load_run(folder)", lambda: sr.load_run("base"), r"the module, .*load_run\(folder, student=…\)"),
        ("load_run, another width", lambda: sr.load_run("base", student=net(9)), "other shapes"),
        (
            "load_run, another teacher",
            lambda: sr.load_run("base", student=net(), teacher=net(8)),
            "the weights that the run's",
        ),
        (
            "load_run, other images",
            lambda: sr.load_run("base", student=net(), train=TEST, test=TRAIN),
            "these are others",
        ),
        ("explain(folder)", lambda: sr.explain("base"), r"load_run\(folder, student=…\)"),
        ("diagnose(folder)", lambda: sr.diagnose("base").headline, "→."),
        ("export(folder, 'onnx')", lambda: sr.export("base", "onnx"), r"load_run\(folder, student=…\)"),
        ("out= of a finished run", lambda: distill(out="base"), "a finished run"),
        ("resume=True without out=", lambda: distill(out=None, resume=True), "the run's folder by out="),
        (
            "evaluate of public weights",
            lambda: sr.evaluate("resnet20", "cifar10", weights="weights/resnet20-cifar10.th"),
            "→'correct': 9173",
        ),
    ]
    for name, act, words in after:
        yield "after it", name, act, words

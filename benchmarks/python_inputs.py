"""What a person gives in Python is what the modules see: `stillroom.distill` against a plain PyTorch loop.

    STILLROOM_DATA=DATA python benchmarks/python_inputs.py [--images 2000] [--channels 3,1,4] [--out FILE]

The public CIFAR-10 ResNet-56 (under DATA/weights) teaches a small convolutional net on test images of CIFAR-10, which
are given in every form that people hold them in. For each form the table has the teacher's and the student's correct
answers as the run counts them, and as a plain loop counts them: normalise, call the module, compare with the labels.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

import stillroom as sr
from stillroom.data.config import DataConfig
from stillroom.data.sources import load
from stillroom.models.config import ModelConfig
from stillroom.models.registry import build
from stillroom.models.weights import load_weights

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Adapted(nn.Module):
    """The ResNet-56 behind the colours of other images: of one channel it sees grey, of four it leaves the last out."""

    def __init__(self, model: nn.Module, channels: int) -> None:
        super().__init__()
        self.model, self.channels = model, channels

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.expand(-1, 3, -1, -1) if self.channels == 1 else x[:, :3])  # type: ignore[no-any-return]


class Small(nn.Module):
    """A net as tutorials write it, ``view`` and all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, 6, 5), nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc = nn.Linear(16 * 5 * 5, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.conv1(x).relu())
        x = self.pool(self.conv2(x).relu())
        return self.fc(x.view(-1, 16 * 5 * 5))  # type: ignore[no-any-return]


def forms(pixels: Tensor) -> dict[str, tuple[Any, Tensor, Any]]:
    """Of each form: the images as a person holds them, as a plain loop feeds them, and the preprocess to state."""
    channels = pixels.shape[1]
    mean, std = ([*each, 0.5][:channels] for each in (MEAN, STD))
    m, s = (torch.tensor(each).view(1, -1, 1, 1) for each in (mean, std))
    x = pixels.float() / 255
    stated = {"mean": mean, "std": std}
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    pictures = [Image.fromarray(each.permute(1, 2, 0).squeeze().numpy(), mode) for each in pixels]
    return {
        "floats, own normalisation": ((x - m) / s, (x - m) / s, None),
        "floats of ToTensor, nothing stated": (x, x, None),
        "floats of ToTensor × .9999, nothing stated": (x * 0.9999, x * 0.9999, None),
        "floats of ToTensor, normalisation stated": (x, (x - m) / s, stated),
        "float64, own normalisation": (((x - m) / s).double(), ((x - m) / s).double(), None),
        "bytes, normalisation stated": (pixels, (x - m) / s, stated),
        "PIL images, normalisation stated": (pictures, (x - m) / s, stated),
        "bytes, nothing stated": (pixels, x, None),
    }


def correct(model: nn.Module, x: Tensor, labels: Tensor) -> int:
    """Correct answers in a plain loop."""
    model = model.eval()
    with torch.no_grad():
        return sum(int((model(x[i : i + 100]).argmax(1) == labels[i : i + 100]).sum()) for i in range(0, len(x), 100))


def row(channels: int, form: str, images: Any, x: Tensor, stated: Any, labels: Tensor) -> list[str]:
    """One line of the table."""
    torch.manual_seed(0)
    net = build(ModelConfig(name="resnet56"), num_classes=10, in_channels=3, image_size=32)
    load_weights(net, "weights/resnet56-cifar10.th")
    teacher, student = Adapted(net, channels).to(x.dtype), Small(channels).to(x.dtype)
    data = list(zip(images, labels.tolist(), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        try:
            run = sr.distill(
                teacher, student, data, data, epochs=1, batch_size=64, out=folder, progress=False,
                teacher_preprocess=stated, student_preprocess=stated, cache={"enabled": False},
                training={"optimizer": {"lr": 0.02}, "device": "cpu", "precision": "float32"},
            )  # fmt: skip
        except sr.BadInput as error:
            return [str(channels), form, f"refused: {error.field}", "", "", ""]
        counted = [run.summary["teachers"]["teacher"]["correct"], run.summary["correct"]]
        plain = [correct(teacher, x, labels), correct(run.student, x, labels)]
        again = int((run.predict(images).argmax(1) == labels).sum())
    equal = "yes" if counted == plain and again == plain[1] else "**no**"
    return [str(channels), form, *(f"{a} / {b}" for a, b in zip(counted, plain, strict=True)), str(again), equal]


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--channels", default="3,1,4", help="of the images: colour, grey, a fourth channel")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    test = load(DataConfig(path="cifar10", test_limit=options.images)).test
    rgb = test.images[:]
    grey = rgb.float().mean(1, keepdim=True).round().to(torch.uint8)
    four = torch.cat([rgb, torch.full_like(grey, 255)], 1)
    header = [
        "channels", "form of the images", "teacher: run / plain loop", "student: run / plain loop", "`run.predict`",
        "equal",
    ]  # fmt: skip
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    by_channels = {3: rgb, 1: grey, 4: four}
    for pixels in (by_channels[int(channels)] for channels in options.channels.split(",")):
        for form, (images, x, stated) in forms(pixels).items():
            lines.append("| " + " | ".join(row(pixels.shape[1], form, images, x, stated, test.labels)) + " |")
            print(lines[-1], flush=True)
    if options.out is not None:
        text = (
            "# Images as people give them in Python\n\n"
            f"Correct answers of {options.images:,} test images of CIFAR-10: the public ResNet-56 as the teacher, a "
            "small net after one epoch as the student, as the run counts them and as a plain PyTorch loop does. "
            "A teacher that takes normalised images is right less often where they are not: in both columns alike. "
            "Made by\n"
            "`STILLROOM_DATA=DATA python benchmarks/python_inputs.py "
            f"--images {options.images} --channels {options.channels} --out {options.out}`.\n\n"
        )
        options.out.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

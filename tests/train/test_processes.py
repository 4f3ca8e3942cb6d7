"""Several processes: the same run as one, started from the command line by a real launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

import stillroom
from processes import fork_python
from stillroom.cli import run
from stillroom.models.config import ModelConfig
from stillroom.models.registry import build
from stillroom.models.weights import save_weights

TREE = str(Path(stillroom.__file__).parent.parent)
MINE = """
import stillroom as sr
class Gram(sr.Loss[sr.LossConfig]):
    "Similarities between the samples of a batch: a term that must see all of it."
    requires = sr.Requires(teacher=True, labels=True, index=True)
    per_sample = False
    def forward(self, inputs):
        student, teacher = (z @ z.T / len(z) for z in (inputs.student.logits, inputs.teacher_logits))
        same_class = inputs.labels[:, None] == inputs.labels
        both_even = (inputs.index[:, None] + inputs.index) % 2 == 0
        return ((student - teacher).square() * (1 + same_class + 2 * both_even)).mean()
class Quiet(sr.Loss[sr.LossConfig]):
    "A term that stops at a feature: the layers above get no gradient."
    requires = sr.Requires(student_features=("layers.0.linear",))
    def forward(self, inputs):
        return inputs.student.features["layers.0.linear"].square().mean()
"""
SCRIPT = """
import json, os, sys
import stillroom
from stillroom.cli import run
codes = [run(arguments) for arguments in json.loads(open("commands.json").read())]
if os.environ["RANK"] == "0":
    json.dump(codes, open("codes.json", "w"))
sys.exit(max(codes))
"""
PLAIN = ["student.name=mlp", "student.options.hidden=[16]"]
GRAM = '[{"name": "cross_entropy"}, {"name": "compares:Gram"}]'
# A memory bank, a learned temperature, and gradients in the images.
MEMORY = json.dumps(
    [
        {"name": "cross_entropy"},
        {"name": "crd", "weight": 0.1, "negatives": 64, "dimension": 8, "nce_temperature": 0.5},
        {"name": "ctkd"},
        {"name": "jacobian_matching"},
        {"name": "input_gradient_attention"},
    ]
)
CASES = {
    "live": [*PLAIN, "cache.enabled=false"],
    "cached": [*PLAIN, "cache.enabled=true"],
    "average": [
        *(*PLAIN, "training.ema=0.8", "training.checkpoints=[0,1]"),
        *('training.record_weight_distance=["layers.0.linear"]', "training.record_gradient_rescaling=true"),
    ],
    "gram": [*PLAIN, f"losses={GRAM}", "cache.enabled=false"],
    "features": [*PLAIN, 'losses=[{"name": "compares:Quiet"}]', "cache.enabled=false"],
    "memory": [*PLAIN, f"losses={MEMORY}", "cache.enabled=false"],
    # The mean of two teachers, a share of the labels, a teacher that follows the student, and a peer.
    "mean": [
        *(*PLAIN, "teacher=null", "data.labelled=0.3"),
        "teachers={a: {name: resnet8, options: {width: 4}, weights: teacher.safetensors}, "
        "b: {name: resnet8, options: {width: 4}, weights: teacher.safetensors, preprocess: unit}, "
        "both: {members: {a: 1, b: 2}}}",
    ],
    "ema": [*PLAIN, "teacher={ema: 0.8}"],
    "peer": [*PLAIN, "teacher={name: mlp, options: {hidden: [8]}, learns: true}"],
    # Each process's part of a batch has texts of its own length.
    "texts": [
        *("data={path: texts, batch_size: 32}", f"losses={GRAM}", "teacher={ema: 0.8}"),
        *("student.name=text_bag", "student.options={dim: 8, dropout: 0}"),
    ],
    "norm": ["student.name=resnet8", "student.options.width=2", "cache.enabled=false"],
}


def launch(place: Path, commands: list[list[str]], processes: int = 2) -> subprocess.CompletedProcess[str]:
    (place / "commands.json").write_text(json.dumps(commands))
    (place / "several.py").write_text(SCRIPT)
    # The tree under test comes before an installed package.
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    # On CPUs, too: `--cpu` starts a single process, unless it finds MPI.
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    fixed = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    with pytest.MonkeyPatch.context() as patch:
        fork_python(patch)
        return subprocess.run(
            [*launcher, *fixed, "several.py"],
            cwd=place,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(place), TREE, *paths])},
            capture_output=True,
            text=True,
            timeout=900,
        )


def command(name: str, folder: str, *more: str) -> list[str]:
    return ["distill", "recipe.yaml", *CASES[name], *more, "--out", f"{folder}/{name}"]


REFUSED = [command("live", "odd", "data.batch_size=31"), command("live", "odd")[:-2]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each case run by one process and by two; the two, which one launcher starts, are refused some others."""
    place = tmp_path_factory.mktemp("processes")
    recipe: dict[str, Any] = {
        "data": {
            "train_limit": 96,
            "test_limit": 40,
            "batch_size": 32,
            "augmentation": {"pad_crop": 1, "flip": True, "views": 2},
        },
        "teacher": {"name": "resnet8", "options": {"width": 4}, "weights": "teacher.safetensors"},
        "student": {"name": "mlp"},
        "losses": [{"name": "cross_entropy", "weight": 0.1}, {"name": "kl", "weight": 0.9}],
        "training": {"epochs": 2, "log_every": 2, "precision": "float32", "device": "cpu", "threads": 1},
    }
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (place / "compares.py").write_text(MINE)
    (place / "texts").mkdir()
    for split, count in (("train", 96), ("test", 40)):
        texts = [
            f"{' '.join('abcdefgh'[(row * place) % 8] for place in range(1 + row % 30))},{row % 3}"
            for row in range(count)
        ]
        (place / "texts" / f"{split}.csv").write_text("\n".join(["text,label", *texts]))
    torch.manual_seed(0)
    teacher = build(ModelConfig(name="resnet8", options={"width": 4}), num_classes=10, in_channels=1, image_size=8)
    save_weights(teacher, place / "teacher.safetensors")
    done = launch(place, [*(command(name, "two") for name in CASES), *REFUSED])
    assert done.returncode != 0
    assert json.loads((place / "codes.json").read_text()) == [*[0] * len(CASES), *[2] * len(REFUSED)], done.stderr
    (place / "errors.txt").write_text(done.stderr)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.syspath_prepend(str(place))
        for name in CASES:
            assert run(command(name, "one")) == 0
        assert run(command("norm", "parts", "training.accumulate=2")) == 0
    return place


def student(run: Path) -> dict[str, Tensor]:
    return load_file(run / "student.safetensors")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    "name", ["live", "cached", "average", "gram", "features", "memory", "mean", "ema", "peer", "texts"]
)
def test_two_processes_give_what_one_gives(place: Path, name: str) -> None:
    one, two = place / "one" / name, place / "two" / name
    assert {p.name for p in one.iterdir()} == {p.name for p in two.iterdir()}
    for (key, left), right in zip(student(one).items(), student(two).values(), strict=True):
        assert torch.allclose(left, right, rtol=0, atol=1e-5), key
    for left, right in zip(lines(one / "metrics.jsonl"), lines(two / "metrics.jsonl"), strict=True):
        assert left.keys() == right.keys()
        for key, value in left.items():
            assert right[key] == pytest.approx(value, abs=1e-5), key
    hashes = [json.loads((run / "summary.json").read_text())["hashes"] for run in (one, two)]
    assert all(hashes[0][key] == hashes[1][key] for key in ("init", "order", "views", "threads"))
    assert hashes[0]["budget"] != hashes[1]["budget"], "the number of processes is part of it"


def test_the_moves_are_recorded_once(place: Path) -> None:
    one, two = (lines(place / who / "average" / "weight_distance.jsonl") for who in ("one", "two"))
    for left, right in zip(one, two, strict=True):
        assert left["step"] == right["step"]
        assert right["distance"]["layers.0.linear"] == pytest.approx(left["distance"]["layers.0.linear"], abs=1e-5)


def test_the_rescaling_is_that_of_all_samples(place: Path) -> None:
    one, two = (lines(place / who / "average" / "gradient_rescaling.jsonl") for who in ("one", "two"))
    assert [line["count"] for line in one] == [96] * 2
    for left, right in zip(one, two, strict=True):
        assert left.keys() == right.keys()
        assert [group["count"] for group in left["deciles"]] == [group["count"] for group in right["deciles"]]
        for name in ("mean", "spearman", "saturated", "quantiles"):
            assert right[name] == pytest.approx(left[name], abs=1e-4)


def test_what_differs_with_batch_norm(place: Path) -> None:
    """Each process normalises by its own part of the batch, as each micro-batch does: the weights are those of
    ``accumulate``; the running statistics are process 0's, which has seen half of the images."""
    one, two, parts = (student(place / who / "norm") for who in ("one", "two", "parts"))
    running = [key for key in one if "running" in key or key.endswith("num_batches_tracked")]
    learnt = [key for key in one if key not in running]
    assert max(float((one[key] - two[key]).abs().max()) for key in learnt) > 1e-3
    for key in learnt:
        assert torch.allclose(parts[key], two[key], rtol=0, atol=1e-5), key
    assert max(float((parts[key] - two[key]).abs().max()) for key in running if "running" in key) > 1e-3


def test_accumulated_is_the_same_as_at_once_without_batch_norm(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert run(command("live", "accumulated", "training.accumulate=2")) == 0
    one, accumulated = (student(place / who / "live") for who in ("one", "accumulated"))
    for key in one:
        assert torch.allclose(one[key], accumulated[key], rtol=0, atol=1e-5), key


def test_a_batch_that_cannot_be_shared_and_a_run_without_a_folder_are_refused(place: Path) -> None:
    errors = (place / "errors.txt").read_text()
    assert "error: data.batch_size: got 31; expected a multiple of the 2 processes of the run" in errors
    assert "error: --out: got None; expected a folder: the 2 processes of the run must agree on it" in errors
    # The launcher tells its own story about children that ended badly; none of it is ours.
    assert "stillroom" not in errors.split("Traceback", 1)[1]
    assert not (place / "odd").exists()


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("2", "WORLD_SIZE: got 2; expected 1, or a launcher that also sets RANK"),
        ("two", "WORLD_SIZE: got 'two'; expected a whole number"),
    ],
)
def test_an_incomplete_launch_is_reported(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, size: str, message: str
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("WORLD_SIZE", size)
    assert run(command("live", "half")) == 2
    assert message in capsys.readouterr().err

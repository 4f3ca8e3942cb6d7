"""``training.record_gradient_rescaling``: what gradient_rescaling.jsonl tells is what a second computation finds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from scipy import stats
from torch import Tensor

from run.conftest import bytes_of, read_lines, stop_and_resume
from stillroom.cli import run
from stillroom.errors import BadInput, RunFailed
from stillroom.losses.base import Loss, LossConfig, LossInputs, Requires
from stillroom.losses.cross_entropy import CrossEntropy
from stillroom.losses.kl import KL
from stillroom.recipe import Recipe
from stillroom.run.run import execute
from stillroom.runtime import Processes
from stillroom.teachers.output import ModelOutput
from stillroom.train.gradient_rescaling import RecordGradientRescaling, spearman
from stillroom.train.recorders import StepInfo

pytestmark = pytest.mark.usefixtures("perceptrons")
Make = Callable[..., Recipe]
Numbers = npt.NDArray[np.float64]
SEEN: list[tuple[Tensor, Tensor, Tensor, float]] = []
OUT_OF_MEMORY: list[int] = []


class Spy(Loss[LossConfig]):
    """Sees what the steps see, and is out of memory at the calls that a test asks for."""

    requires = Requires(teacher=True)

    def forward(self, inputs: LossInputs) -> Tensor:
        SEEN.append((inputs.student.logits.detach(), inputs.teacher_logits, inputs.labels, inputs.progress))
        if len(SEEN) in OUT_OF_MEMORY:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inputs.student.logits.square().mean()


def seen_beside(**kl: Any) -> str:
    """An override: cross-entropy, ``kl`` as a test wants it, and who sees what they see."""
    terms = [
        {"name": "cross_entropy", "weight": 0.3},
        {"name": "kl", "weight": 0.7, **kl},
        {"name": f"{__name__}:Spy", "weight": 0.001},
    ]
    return f"losses={json.dumps(terms)}"


@pytest.fixture(autouse=True)
def forget() -> None:
    SEEN.clear()
    OUT_OF_MEMORY.clear()


def softmax(z: Tensor, temperature: float) -> Numbers:
    shares: Numbers = np.exp((z.double() / temperature).numpy())
    return np.asarray(shares / shares.sum(1, keepdims=True))


def by_hand(
    seen: list[tuple[Tensor, Tensor, Tensor, float]],
    *,
    a: float = 0.3,
    b: Callable[[float], float] = lambda progress: 0.7,
    temperature: float = 4.0,
    target: Callable[[Numbers], Numbers] = lambda p: p,
) -> dict[str, Any]:
    """What the file must tell, from the formula alone; logits small enough for 1 − q_y to be taken as it stands."""
    omega, at, saturated = [], [], []
    for student, teacher, labels, progress in seen:
        rows, y = np.arange(len(labels)), labels.numpy()
        p, soft, plain = (
            softmax(*each)[rows, y] for each in ((teacher, temperature), (student, temperature), (student, 1))
        )
        rho = target(p)
        omega += list(a + b(progress) * temperature * (rho - soft) / (1 - plain))
        saturated += list((1 - rho) < 0.05 * (1 - soft))
        at += list(p)
    order = np.argsort(at)
    p, w = np.array(at)[order], np.array(omega)[order]
    groups = np.array_split(np.arange(len(w)), 10)
    return {
        "count": len(w),
        "mean": w.mean(),
        "spearman": stats.spearmanr(p, w).statistic,
        "saturated": np.mean(saturated),
        "quantiles": {str(q): np.percentile(w, q) for q in (5, 25, 50, 75, 95)},
        "deciles": [
            {
                "p_low": p[g].min(),
                "p_high": p[g].max(),
                "p_mean": p[g].mean(),
                "omega_mean": w[g].mean(),
                "omega_median": np.median(w[g]),
                "omega_low": np.percentile(w[g], 25),
                "omega_high": np.percentile(w[g], 75),
                "omega_std": w[g].std(),
                "count": len(g),
            }
            for g in groups
        ],
        "known_spearman": None,
        "known_deciles": None,
    }


def same(found: Any, wanted: Any, rel: float = 1e-4, abs: float = 1e-6) -> None:
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key, value in wanted.items():
            same(found[key], value, rel, abs)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for left, right in zip(found, wanted, strict=True):
            same(left, right, rel, abs)
    elif wanted is None or isinstance(wanted, str):
        assert found == wanted
    else:
        assert found == pytest.approx(wanted, rel=rel, abs=abs)


RECORDED = ("training.record_gradient_rescaling=true", "training.epochs=1")


def without_names(line: dict[str, Any]) -> dict[str, Any]:
    """The figures of a line, less when they were recorded and of which loss."""
    return {k: v for k, v in line.items() if k not in ("step", "epoch", "loss", "temperature", "target")}


def test_the_command_line_writes_what_a_second_computation_finds(
    content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    overrides = [seen_beside(), "training.epochs=1", "training.record_gradient_rescaling=true"]
    assert run(["distill", str(path), *overrides, "--out", str(tmp_path / "run")]) == 0, capsys.readouterr().err
    (line,) = read_lines(tmp_path / "run" / "gradient_rescaling.jsonl")
    assert (line["step"], line["epoch"], line["count"]) == (6, 1.0, 192)
    assert len(SEEN) == 6
    assert [d["count"] for d in line["deciles"]] == [20, 20, *[19] * 8]
    assert line["deciles"] == sorted(line["deciles"], key=lambda d: d["p_low"])
    same(without_names(line), by_hand(SEEN))
    assert read_lines(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 6


def test_each_epoch_has_a_line_and_one_cut_short_too(recipe: Make, tmp_path: Path) -> None:
    made = recipe(
        seen_beside(temperature=1), "training.record_gradient_rescaling=true",
        "training.epochs=null", "training.steps=15",
        "training.evaluate_every=2", "training.accumulate=2",
    )  # fmt: skip
    execute(made, tmp_path / "run")
    lines = read_lines(tmp_path / "run" / "gradient_rescaling.jsonl")
    assert [(line["step"], line["epoch"], line["count"]) for line in lines] == [
        (6, 1, 192),
        (12, 2, 192),
        (15, 2.5, 96),
    ]
    for line, seen in zip(lines, (SEEN[:12], SEEN[12:24], SEEN[24:]), strict=True):
        same(without_names(line), by_hand(seen, temperature=1.0))


def test_weights_that_move_count_as_they_are_at_each_step(recipe: Make, tmp_path: Path) -> None:
    moving = {"weight": {"start": 0, "end": 1}, "target": "true_class"}
    execute(recipe(seen_beside(**moving), *RECORDED), tmp_path / "run")
    (line,) = read_lines(tmp_path / "run" / "gradient_rescaling.jsonl")
    same(without_names(line), by_hand(SEEN, b=lambda progress: progress))


def test_of_a_target_what_is_taught_is_what_counts(recipe: Make, tmp_path: Path) -> None:
    execute(recipe(seen_beside(target={"name": "top_k", "k": 1}), *RECORDED), tmp_path / "run")
    (line,) = read_lines(tmp_path / "run" / "gradient_rescaling.jsonl")
    taught = []
    for _, teacher, labels, _ in SEEN:
        p = softmax(teacher, 4.0)
        most = p.max(1)
        taught.append(np.where(p.argmax(1) == labels.numpy(), most, (1 - most) / 9))
    rest = iter(taught)
    same(without_names(line), by_hand(SEEN, target=lambda p: next(rest)))
    assert (line["loss"], line["temperature"], line["target"]) == ("kl", 4.0, "top_k")


def test_likeness_of_classes_is_recorded_at_temperature_1(recipe: Make, tmp_path: Path) -> None:
    execute(recipe(seen_beside(target="class_similarity"), *RECORDED), tmp_path / "run")
    (line,) = read_lines(tmp_path / "run" / "gradient_rescaling.jsonl")
    # ρ_y is a matter of the class, and the teacher's p_y orders the deciles all the same.
    wanted = by_hand(SEEN, temperature=1.0)
    assert [d["p_mean"] for d in line["deciles"]] == pytest.approx([d["p_mean"] for d in wanted["deciles"]], rel=1e-4)
    assert abs(line["mean"] - wanted["mean"]) > 1e-3


@pytest.mark.parametrize("step", [3, 8])
def test_a_stopped_run_ends_as_one_never_stopped(recipe: Make, tmp_path: Path, step: int) -> None:
    made = recipe("training.record_gradient_rescaling=true", "training.save_seconds=0", "training.log_every=2")
    execute(made, tmp_path / "whole")
    stop_and_resume(made, tmp_path / "stopped", step)
    whole = bytes_of(tmp_path / "whole")
    assert whole["gradient_rescaling.jsonl"].count(b"\n") == 2
    assert bytes_of(tmp_path / "stopped") == whole


def test_recording_changes_nothing_else(recipe: Make, tmp_path: Path) -> None:
    execute(recipe(), tmp_path / "without")
    execute(recipe("training.record_gradient_rescaling=true"), tmp_path / "with")
    without, recorded = (bytes_of(tmp_path / name) for name in ("without", "with"))
    assert {*recorded} - {*without} == {"gradient_rescaling.jsonl"}
    for name in ("student.safetensors", "metrics.jsonl", "predictions.safetensors"):
        assert without[name] == recorded[name]


def test_kept_answers_give_what_live_ones_give(recipe: Make, tmp_path: Path) -> None:
    made = recipe("training.record_gradient_rescaling=true", "cache.dtype=float32", "cache.enabled=false")
    execute(made, tmp_path / "live")
    execute(recipe("cache.enabled=true"), tmp_path / "kept")
    live, kept = (read_lines(tmp_path / name / "gradient_rescaling.jsonl") for name in ("live", "kept"))
    assert len(live) == 2
    same(kept, live, rel=1e-3, abs=1e-4)


def test_what_an_attempt_without_memory_saw_is_forgotten(recipe: Make, tmp_path: Path) -> None:
    # The second step fails in the second of its parts: four are made of it, and one was seen in vain.
    OUT_OF_MEMORY.append(4)
    execute(recipe(seen_beside(), *RECORDED, "training.accumulate=2"), tmp_path / "run")
    (line,) = read_lines(tmp_path / "run" / "gradient_rescaling.jsonl")
    assert len(SEEN) == 2 + 2 + 5 * 4
    same(without_names(line), by_hand(SEEN[:2] + SEEN[4:]))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("losses=[{name: logit_mse}]", "training.record_gradient_rescaling: got True; expected false, or one loss kl"),
        ("losses.kl.target=uniform", "expected false, or a kl target that uses the teacher"),
        ("teacher=null", "teacher: got None; expected a model"),
    ],
)
def test_without_kl_or_a_teacher_it_is_refused(recipe: Make, tmp_path: Path, override: str, expected: str) -> None:
    with pytest.raises(BadInput) as error:
        execute(recipe(override, "training.record_gradient_rescaling=true"), tmp_path / "run")
    assert expected in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_last_layer_that_is_not_linear_is_reported_before_anything_is_written(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scaled.py").write_text(
        "from torch import nn\n"
        "class Scaled(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.body, self.last = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU()), nn.Linear(16, 10)\n"
        "    def forward(self, x): return self.last(self.body(x)).tanh()\n"
        "def scaled(num_classes): return Scaled()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    from scaled import scaled  # type: ignore[import-not-found]

    from stillroom.models.weights import save_weights

    save_weights(scaled(10), tmp_path / "scaled.safetensors")
    teacher = json.dumps({"name": "scaled:scaled", "weights": str(tmp_path / "scaled.safetensors")})
    with pytest.raises(BadInput, match="teacher: got 'scaled:scaled'; expected a model that ends in a linear layer"):
        execute(recipe(f"teacher={teacher}", "losses.kl.target=class_similarity"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    execute(recipe("losses.kl.target=true_class", "training.epochs=1"), tmp_path / "other")


def inputs(student: Tensor, teacher: Tensor, labels: Tensor) -> LossInputs:
    return LossInputs(ModelOutput(student), ModelOutput(teacher), labels, torch.arange(len(labels)), 0.0)


def figures_of(
    teacher: Tensor, student: Tensor, labels: Tensor, temperature: float, weight: Any = 0.5
) -> dict[str, Any]:
    record = RecordGradientRescaling([CrossEntropy(weight=0.5), KL(weight=weight, temperature=temperature)])
    record.before_step()
    record.see(inputs(student, teacher, labels))
    record.after_step(StepInfo(1, 0, torch.nn.Identity(), torch.zeros(())))
    line = record.epoch_line()
    assert line is not None
    assert record.epoch_line() is None
    return line


def test_a_saturated_teacher_shows_and_a_higher_temperature_cures_it() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(100) % 10
    student = 2 * torch.randn(100, 10, generator=draw)
    teacher = 30.0 * torch.nn.functional.one_hot(labels, 10) + 3 * torch.randn(100, 10, generator=draw)
    sure = figures_of(teacher, student, labels, 1.0)
    assert sure["saturated"] == 1
    # All are treated alike: a + b, and no rank is left to correlate.
    assert sure["mean"] == pytest.approx(1.0, abs=1e-6)
    assert sure["spearman"] is None
    softer = figures_of(teacher, student, labels, 20.0)
    assert softer["saturated"] == 0
    assert softer["spearman"] is not None


@pytest.mark.parametrize("count", [1, 3])
def test_fewer_samples_than_deciles_are_a_group_each(count: int) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(count, 4, generator=draw) for _ in range(2))
    line = figures_of(teacher, student, torch.arange(count), 4.0)
    assert [group["count"] for group in line["deciles"]] == [1] * count
    assert (line["spearman"] is None) == (count == 1)
    json.dumps(line, allow_nan=False)


def test_a_student_that_is_surer_by_any_gap_is_reported_in_numbers() -> None:
    student, teacher = torch.tensor([[1e6, 0.0], [900.0, 0.0], [1.0, 0.0]]), torch.zeros(3, 2)
    line = figures_of(teacher, student, torch.zeros(3, dtype=torch.long), 4.0)
    json.dumps(line, allow_nan=False)
    assert line["quantiles"]["5"] < -1e90
    # At a weight of 0 so far, no gap counts.
    line = figures_of(teacher, student, torch.zeros(3, dtype=torch.long), 4.0, {"start": 0, "end": 1})
    assert line["quantiles"]["5"] == line["mean"] == 0.5
    with pytest.raises(RunFailed, match="not all finite"):
        figures_of(teacher, student / 0, torch.zeros(3, dtype=torch.long), 4.0)


def test_all_processes_have_what_each_has_seen() -> None:
    class Two(Processes):
        count = 2

        def gather(self, tensor: Tensor) -> Tensor:
            return torch.cat([tensor, tensor])

    draw = torch.Generator().manual_seed(0)
    student, teacher, labels = torch.randn(6, 4, generator=draw), torch.randn(6, 4, generator=draw), torch.arange(6) % 4
    losses = [KL()]
    one, two = RecordGradientRescaling(losses), RecordGradientRescaling(losses, Two())
    info = StepInfo(1, 0, torch.nn.Identity(), torch.zeros(()))
    for record, times in ((one, 2), (two, 1)):
        for _ in range(times):
            record.before_step()
            record.see(inputs(student, teacher, labels))
            record.after_step(info)
        # At a log step, before which nothing is saved: what a save holds is then the whole of it.
        assert record.line() is None
    assert len(two.state_dict()["margins"][0]) == 12
    again = RecordGradientRescaling(losses, Two())
    again.load_state_dict(two.state_dict())
    assert one.epoch_line() == two.epoch_line() == again.epoch_line()


@pytest.mark.parametrize("target", [None, "true_class"])
def test_omega_is_set_against_what_is_known_of_each_sample(target: str | None) -> None:
    class Two(Processes):
        count = 2

        def gather(self, tensor: Tensor) -> Tensor:
            return torch.cat([tensor, tensor])

    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(40, 4, generator=draw) for _ in range(2))
    known, labels = torch.randn(100, generator=draw), torch.arange(40) % 4
    index = torch.randperm(100, generator=draw)[:40]
    terms = [CrossEntropy(weight=0.5), KL(weight=0.5, temperature=2.0, target=target)]
    lines = []
    for processes in (Processes(), Two()):
        record, plain = RecordGradientRescaling(terms, processes, known), RecordGradientRescaling(terms, processes)
        for each in (record, plain):
            each.before_step()
            each.see(LossInputs(ModelOutput(student), ModelOutput(teacher), labels, index, 0.0))
            each.after_step(StepInfo(1, 0, torch.nn.Identity(), torch.zeros(())))
        again = RecordGradientRescaling(terms, processes, known)
        again.load_state_dict(record.state_dict())
        line, without = record.epoch_line(), plain.epoch_line()
        assert line is not None
        assert without is not None
        assert line == again.epoch_line()
        lines.append(line)
        assert without["known_spearman"] is without["known_deciles"] is None
        assert {**line, "known_spearman": None, "known_deciles": None} == without, "nothing else differs"
    p, q, plain_q = (
        (z.double() / t).softmax(1)[range(40), labels] for z, t in ((teacher, 2), (student, 2), (student, 1))
    )
    omega = (0.5 + 0.5 * 2 * (p - q) / (1 - plain_q)).numpy()
    at = known[index].numpy().astype(np.float64)
    one, two = lines
    assert one["known_spearman"] == pytest.approx(stats.spearmanr(at, omega).statistic, abs=1e-9)
    assert two["known_spearman"] == pytest.approx(one["known_spearman"], abs=1e-9)
    order = np.argsort(at)
    for group, rows in zip(one["known_deciles"], np.array_split(order, 10), strict=True):
        assert (group["margin_low"], group["margin_high"], group["count"]) == (at[rows[0]], at[rows[-1]], 4)
        assert group["omega_median"] == pytest.approx(np.median(omega[rows]), rel=1e-5)
        assert group["omega_low"] == pytest.approx(np.quantile(omega[rows], 0.25), rel=1e-5)
        assert group["p_mean"] == pytest.approx(p.numpy()[rows].mean(), rel=1e-5)


def test_rank_correlation_is_scipys() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 5, 40).astype(float), draw.normal(size=40)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)

"""A user's own losses, hooks, optimizers and modules: what makes sense is taken, for the rest there is one line."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim import lr_scheduler
from torch.utils.data import TensorDataset

import stillroom as sr

CLASSES = 4
DATA = TensorDataset(torch.rand(48, 6, generator=torch.Generator().manual_seed(0)), torch.arange(48) % CLASSES)


def net(width: int, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, CLASSES))


def distill(out: Path, **options: Any) -> sr.DistillResult:
    arguments: dict[str, Any] = {
        "teacher": net(16), "student": net(5, 1), "train": DATA, "test": DATA, "epochs": 2, "batch_size": 16,
        "out": out, "progress": False,
    }  # fmt: skip
    training = {"device": "cpu", "precision": "float32", **options.pop("training", {})}
    return sr.distill(**{**arguments, **options}, training=training)


def lines(run: sr.DistillResult) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def weights(run: sr.DistillResult) -> dict[str, Tensor]:
    return load_file(run.path / "student.safetensors")


def same(one: sr.DistillResult, other: sr.DistillResult) -> bool:
    return all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())


# Losses.


def mine(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Every one of the three counts."""
    return F.cross_entropy(student_logits, labels) + 0.5 * (student_logits - teacher_logits).square().mean()


@pytest.mark.parametrize(
    ("given", "as_ours"),
    [
        ([nn.MSELoss()], [sr.LogitMSE()]),
        ([nn.CrossEntropyLoss()], [sr.CrossEntropy()]),
        (["kl"], [sr.KL()]),
        ([{"name": "kl", "temperature": 2}, "cross_entropy"], [sr.KL(temperature=2), sr.CrossEntropy()]),
        ([sr.KL], [sr.KL()]),
        ([lambda student, teacher: (student - teacher).square().mean()], [sr.LogitMSE()]),
        ([mine], [sr.CrossEntropy(), sr.LogitMSE(weight=0.5)]),
        ([sr.FunctionLoss(lambda s, t: (s - t).square().mean(), weight=0.5)], [sr.LogitMSE(weight=0.5)]),
    ],
    ids=["MSELoss", "CrossEntropyLoss", "kl", "names", "class", "lambda", "function", "weight"],
)
def test_what_is_given_trains_as_the_loss_that_it_is(tmp_path: Path, given: list[Any], as_ours: list[Any]) -> None:
    own = distill(tmp_path / "own", losses=given)
    ours = distill(tmp_path / "ours", losses=as_ours)
    for name, value in weights(own).items():
        assert torch.allclose(value, weights(ours)[name], atol=1e-5)


def test_two_lambdas_are_two_terms(tmp_path: Path) -> None:
    run = distill(tmp_path, losses=[lambda s, t: (s - t).abs().mean(), lambda s, t: (s - t).square().mean()])
    assert {"loss/lambda", "loss/lambda-2"} <= lines(run)[0].keys()
    assert run.report().exists()
    assert run.diagnose().findings


def test_a_module_with_parameters_is_trained_beside_the_student(tmp_path: Path) -> None:
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
            return (student * self.scale - teacher).square().mean()

    loss = Learned()
    run = distill(tmp_path, losses=[loss])
    assert loss.scale.item() == 1, "the user's own stays as it was"
    assert weights(run).keys() == net(5).state_dict().keys()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (nn.KLDivLoss(), r"losses: got 'KLDivLoss'; expected sr\.KL\(temperature=…\)"),
        (nn.NLLLoss(), r"losses: got 'NLLLoss'; expected sr\.CrossEntropy\(\)"),
        (nn.CTCLoss(), r"losses: got 'CTCLoss'; expected a function of \(student_logits, teacher_logits\)"),
        (F.mse_loss, r"'target' may mean either; write lambda student, teacher, labels"),
        (lambda student: student.mean(), r"not of \(student\)"),
        ("kll", r"losses.*did you mean 'kl'"),
        ({"name": "kl", "temperatur": 2}, "temperature"),
        (3, "losses: got 3; expected a loss, its name"),
        (lambda s, t: (s - t).square(), r"gives a scalar tensor, not a tensor \[4, 4\]: take the batch's mean"),
        (lambda s, t: 1.0, r"gives a scalar tensor, not a float"),
        (lambda s, t: t.mean(), "depends on the student's logits: this has no gradient"),
        (lambda s, t: s @ t, r"it raised RuntimeError|a scalar tensor"),
        (lambda s, t, y: s.nothing(), "it raised AttributeError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_loss_that_makes_no_sense_is_one_line(tmp_path: Path, given: Any, message: str) -> None:
    with pytest.raises(sr.BadInput, match=message) as caught:
        distill(tmp_path / "run", losses=[given])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


# Hooks.


def test_functions_see_steps_and_hooks_see_evaluations(tmp_path: Path) -> None:
    steps: list[int] = []
    seen: list[sr.EvaluationInfo] = []

    class Watch(sr.StepHook):
        def after_evaluation(self, info: sr.EvaluationInfo) -> None:
            seen.append(info)

    run = distill(tmp_path, hooks=[lambda info: steps.append(info.step), Watch()])
    assert steps == [1, 2, 3, 4, 5, 6]
    assert [(info.step, info.epoch) for info in seen] == [(3, 1.0), (6, 2.0)]
    assert seen[-1].metrics["top1"] == run.summary["top1"]
    assert same(run, distill(tmp_path / "without"))


@pytest.mark.parametrize("given", [sr.StepHook, 3, "hook"])
def test_what_is_no_hook_is_one_line(tmp_path: Path, given: Any) -> None:
    with pytest.raises(sr.BadInput, match=r"hooks: got .*an instance of a StepHook"):
        distill(tmp_path / "run", hooks=[given])


# Optimizers.


def test_an_own_optimizer_trains_as_a_plain_loop(tmp_path: Path) -> None:
    run = distill(
        tmp_path, teacher=None, losses=["cross_entropy"], epochs=1, batch_size=48,
        optimizer=lambda params: torch.optim.Adam(params, lr=1e-3),
    )  # fmt: skip
    student = net(5, 1)
    F.cross_entropy(student(DATA.tensors[0]), DATA.tensors[1]).backward()
    torch.optim.Adam(student.parameters(), lr=1e-3).step()
    for name, value in student.state_dict().items():
        assert torch.allclose(weights(run)[name], value, atol=1e-6)
    assert run.summary["custom"] == {"optimizer": "torch.optim.adam.Adam"}
    assert lines(run)[0]["lr"] == 1e-3
    assert run.diagnose().findings


def test_rates_of_own_groups_follow_a_stated_schedule(tmp_path: Path) -> None:
    rates: list[list[float]] = []

    class Own(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            rates.append([group["lr"] for group in self.param_groups])

    def make(params: Any) -> torch.optim.Optimizer:
        return Own([{"params": params[:2], "lr": 0.1}, {"params": params[2:], "lr": 0.4}])

    schedule = {"name": "multi_step", "milestones": [0.5], "gamma": 0.5}
    distill(tmp_path / "stated", optimizer=make, training={"schedule": schedule})
    assert rates == [*[[0.1, 0.4]] * 3, *[[0.05, 0.2]] * 3]
    rates.clear()
    distill(tmp_path / "left", optimizer=make)
    assert rates == [[0.1, 0.4]] * 6


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "step": lambda opt: lr_scheduler.StepLR(opt, 2, gamma=0.5),
    "lambda": lambda opt: lr_scheduler.LambdaLR(opt, lambda step: 0.9**step),
    "multi step": lambda opt: lr_scheduler.MultiStepLR(opt, [2, 4]),
    "one cycle": lambda opt: lr_scheduler.OneCycleLR(opt, 0.1, total_steps=7),
    "sequence": lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.LinearLR(opt, total_iters=2), lr_scheduler.CosineAnnealingLR(opt, 4)], [2]
    ),
}


class Stop(sr.StepHook):
    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, info: sr.StepInfo) -> None:
        if info.step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("name", "own"), [*((name, True) for name in SCHEDULERS), ("lambda", False)])
def test_a_stopped_run_goes_on_with_its_own_scheduler(tmp_path: Path, name: str, own: bool) -> None:
    options: dict[str, Any] = {"scheduler": SCHEDULERS[name], "training": {"log_every": 1}}
    if own:
        options["optimizer"] = lambda params: torch.optim.RMSprop(params, lr=0.05, momentum=0.5)
    whole = distill(tmp_path / "whole", hooks=[Stop(0)], **options)
    with pytest.raises(KeyboardInterrupt):
        distill(tmp_path / "run", hooks=[Stop(5)], **options)
    resumed = distill(tmp_path / "run", resume=True, hooks=[Stop(0)], **options)
    for file in ("student.safetensors", "metrics.jsonl", "summary.json"):
        assert (whole.path / file).read_bytes() == (resumed.path / file).read_bytes()
    reference = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.05 if own else 0.1, momentum=0.5)
    scheduler, rates = SCHEDULERS[name](reference), []
    for _ in range(6):
        reference.step()
        scheduler.step()
        rates.append(reference.param_groups[0]["lr"])
    # A line is written after its step, and after the scheduler's.
    assert [line["lr"] for line in lines(whole) if line["split"] == "train"] == pytest.approx(rates)
    assert "lr_scheduler" in whole.summary["custom"]["scheduler"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": torch.optim.SGD(net(1).parameters())}, r"optimizer: got 'SGD'; expected a function"),
        ({"optimizer": lambda params: None}, r"optimizer: got 'NoneType'; expected .*torch\.optim\.Optimizer"),
        ({"optimizer": lambda params: torch.optim.LBFGS(params)}, "whose step takes no closure"),
        ({"optimizer": lambda params: torch.optim.SGD(params, lr=-1)}, "it raised ValueError"),
        (
            {"optimizer": lambda params: torch.optim.SGD(net(1).parameters())},
            r"others: a copy of the student is trained",
        ),
        ({"optimizer": lambda params: torch.optim.SGD(params[1:])}, r"it lacks 1 of \d+: requires_grad_\(False\)"),
        ({"student": None}, r"student: got None; expected an nn\.Module"),
        ({"scheduler": lambda opt: lr_scheduler.ReduceLROnPlateau(opt)}, "a scheduler of steps"),
        ({"scheduler": lambda opt: 3}, "scheduler: got 'int'; expected .*state_dict"),
        (
            {"optimizer": torch.optim.Adam, "training": {"optimizer": {"lr": 1}}},
            r"training\.optimizer: .*none together with optimizer=",
        ),
        ({"training": {"optimizer": {"name": "custom"}}}, r"training\.optimizer\.name: got 'custom'"),
    ],
)
def test_an_optimizer_that_makes_no_sense_is_one_line(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(sr.BadInput, match=message):
        distill(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


# Modules.


def pruned(model: nn.Module) -> nn.Module:
    prune.l1_unstructured(model[0], "weight", 0.5)  # type: ignore[index]
    model(DATA.tensors[0])  # as after training: the weight is no leaf
    return model


MAKES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "scripted": torch.jit.script,
    "traced": lambda model: torch.jit.trace(model, DATA.tensors[0][:2]),
    "compiled": torch.compile,
    "pruned": pruned,
    "weight norm": lambda model: nn.Sequential(nn.utils.parametrizations.weight_norm(model[0]), *model[1:]),  # type: ignore[index, misc]
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", MAKES)
@pytest.mark.parametrize("who", ["teacher", "student"])
def test_a_module_of_another_kind_trains_as_the_plain_one(tmp_path: Path, kind: str, who: str) -> None:
    plain = {"teacher": net(16), "student": net(5, 1)}
    wanted = distill(tmp_path / "plain", **plain)
    given = {**plain, who: MAKES[kind](copy.deepcopy(plain[who]))}
    run = distill(tmp_path / "run", **given)
    x = DATA.tensors[0]
    changed = kind == "pruned" or (kind == "weight norm" and who == "student")
    if kind == "pruned":
        mask = (given[who][0].weight != 0).float()  # type: ignore[index]
        if who == "student":
            assert torch.equal((run.student[0].weight != 0).float(), mask)  # type: ignore[index]
    elif not changed:
        assert torch.allclose(run.predict(x), wanted.predict(x), atol=1e-4)
    # Not by the compiled one itself: compiling takes long.
    answers = (plain if kind == "compiled" else given)["teacher"].eval()(x)
    correct = int((answers.argmax(1) == DATA.tensors[1]).sum())
    assert run.summary["teachers"]["teacher"]["correct"] == correct
    assert torch.allclose(run.student(x), run.predict(x), atol=1e-5)


def test_the_students_own_parameters_are_not_those_that_are_trained(tmp_path: Path) -> None:
    student = net(5, 1)
    with pytest.raises(sr.BadInput, match="a copy of the student is trained"):
        distill(tmp_path / "run", student=student, optimizer=lambda params: torch.optim.SGD(student.parameters()))


def test_a_run_whose_class_makes_another_net_asks_for_the_module(tmp_path: Path) -> None:
    run = distill(tmp_path / "run", student=nn.Sequential(nn.Flatten(), *net(5, 1)))
    with pytest.raises(sr.BadInput, match=r"student: got .*Sequential'; expected the module, .*load_run\(folder"):
        sr.load_run(run.path)


def test_a_class_in_place_of_a_module_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(sr.BadInput, match=r"student: .*a module, such as Linear\(\), not its class"):
        distill(tmp_path / "run", student=nn.Linear)

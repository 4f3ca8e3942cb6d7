"""`sr.check_setup`: each fault of a set-up is found by its own check, and nothing is changed by looking."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import stillroom as sr
from stillroom.diagnose.checks.setup.initialisation import initial_law
from stillroom.errors import BadInput


def kd(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    p, log_q = F.softmax(teacher_logits / 4, 1), F.log_softmax(student_logits / 4, 1)
    return 16 * F.kl_div(log_q, p, reduction="batchmean") + F.cross_entropy(student_logits, labels)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)


@pytest.fixture(scope="module")
def fitted(digits: tuple[Tensor, Tensor]) -> nn.Module:
    """A teacher by least squares on random features: nothing is trained, and it has a norm and a dropout."""
    images, labels = digits
    torch.manual_seed(0)
    first, last = nn.Linear(64, 256), nn.Linear(256, 10)
    norm = nn.BatchNorm1d(256)
    with torch.no_grad():
        hidden = first(images.flatten(1))
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(hidden.mean(0))
        norm.running_var.copy_(hidden.var(0))
        features = F.relu((hidden - hidden.mean(0)) / (hidden.var(0) + norm.eps).sqrt()).double()
        target = 8 * F.one_hot(labels, 10).double() - 4
        design = torch.cat([features, torch.ones(len(features), 1)], 1)
        solved = torch.linalg.solve(design.T @ design + 10 * torch.eye(257, dtype=torch.float64), design.T @ target)
        last.weight.copy_(solved[:-1].T)
        last.bias.copy_(solved[-1])
    return nn.Sequential(nn.Flatten(), first, norm, nn.ReLU(), nn.Dropout(0.5), last).eval()


@pytest.fixture
def teacher(fitted: nn.Module) -> nn.Module:
    return copy.deepcopy(fitted)


@pytest.fixture
def student() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 10))


def sgd(*modules: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for module in modules for p in module.parameters()], lr=0.05, momentum=0.9)


def loader_of(images: Tensor, labels: Tensor) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True)


def problems(*arguments: object, **options: object) -> list[str]:
    return [finding.check for finding in sr.check_setup(*arguments, **options).problems]


def test_a_right_setup_has_no_problem(teacher: nn.Module, student: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    found = sr.check_setup(teacher, student, loader_of(*digits), loss=kd, optimizer=sgd(student))
    assert not [f"{f.verdict} {f.check}: {f.summary}" for f in found.findings if f.verdict != "ok"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda x: x * 255, "divided by 255"),
        (lambda x: 1 - x, "inverted"),
        (lambda x: x.transpose(2, 3), "transposed"),
        (lambda x: 2 * x - 1, "scaled to 0 … 1"),
    ],
)
def test_another_input_is_named(
    change: Callable[[Tensor], Tensor],
    name: str,
    teacher: nn.Module,
    student: nn.Module,
    digits: tuple[Tensor, Tensor],
) -> None:
    images, labels = digits
    found = sr.check_setup(teacher, student, loader_of(change(images), labels))
    (problem,) = found.problems
    assert problem.check == "teacher_input"
    assert name in problem.evidence["change"]


def test_causes_are_problems_and_consequences_warnings(
    teacher: nn.Module, student: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    order = torch.arange(10).roll(3)
    last = teacher[-1]
    last.weight.data, last.bias.data = last.weight.data[order], last.bias.data[order]
    found = sr.check_setup(teacher, student, loader_of(*digits))
    assert [problem.check for problem in found.problems] == ["class_order"]
    assert {"teacher_at_chance", "teacher_weak"} <= {f.check for f in found.findings if f.verdict == "warning"}


def test_modes_probabilities_statistics_and_weights(
    teacher: nn.Module, student: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    loader = loader_of(*digits)
    assert problems(nn.Sequential(teacher, nn.Softmax(1)).eval(), student, loader) == ["probabilities_for_logits"]
    broken = copy.deepcopy(teacher)
    broken[2].running_mean.add_(3.0)
    assert problems(broken, student, loader) == ["teacher_batch_norm"]
    fresh = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).eval()
    assert problems(fresh, student, loader) == ["weights_not_loaded"]
    assert problems(teacher.train(), student, loader) == ["teacher_mode"]


def test_what_the_optimizer_holds(teacher: nn.Module, student: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.projector = nn.Linear(10, 10)

        def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
            return kd(self.projector(student_logits), teacher_logits, labels)

    loader, loss = loader_of(*digits), Loss()
    assert problems(teacher, student, loader, loss=kd, optimizer=sgd(student, teacher)) == ["teacher_trained"]
    found = sr.check_setup(teacher, student, loader, loss=loss, optimizer=sgd(student))
    assert [problem.check for problem in found.problems] == ["parameters_left_out"]
    assert found.problems[0].evidence["left_out"] == ["loss.projector.weight", "loss.projector.bias"]
    assert not problems(teacher, student, loader, loss=loss, optimizer=sgd(student, loss))
    alias = nn.Sequential(nn.Flatten(), teacher[1], teacher[2], nn.ReLU(), nn.Linear(256, 10))
    assert "teacher_trained" in problems(teacher, alias, loader, optimizer=sgd(alias))
    steep = torch.optim.Adam(student.parameters(), lr=0.5)
    assert problems(teacher, student, loader, loss=kd, optimizer=steep) == ["learning_rate"]


def test_losses(teacher: nn.Module, student: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    loader = loader_of(*digits)
    assert problems(teacher, student, loader, loss=lambda s, t, y: kd(s.detach(), t, y)) == ["student_no_gradient"]
    assert problems(teacher, student, loader, loss=lambda s, t, y: F.cross_entropy(s, y)) == ["teacher_unused"]
    assert problems(teacher, student, loader, loss=lambda s, t, y: kd(s, t, y) / 0) == ["loss_finite"]
    assert not problems(teacher, student, loader, loss=F.mse_loss)


def test_stored_logits(teacher: nn.Module, student: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    class Noisy(Dataset[tuple[Tensor, int]]):
        def __len__(self) -> int:
            return len(digits[0])

        def __getitem__(self, item: int) -> tuple[Tensor, int]:
            return digits[0][item] + 0.01 * torch.randn(1), int(digits[1][item])

    with torch.no_grad():
        stored = teacher(digits[0])
    assert not problems(stored, student, loader_of(*digits))
    assert problems(stored, student, DataLoader(Noisy(), 64, shuffle=True)) == ["stale_answers"]
    assert problems(stored.roll(1, 0), student, loader_of(*digits)) == ["stale_answers"]
    assert not problems(teacher, student, DataLoader(Noisy(), 64, shuffle=True))


def test_nothing_is_changed(teacher: nn.Module, student: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    teacher.train()
    student[2].eval()
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(*digits), batch_size=64, shuffle=True, generator=generator)
    student[1].weight.grad = torch.ones_like(student[1].weight)
    optimizer = sgd(student)

    def state() -> list[object]:
        tensors = [*teacher.state_dict().values(), *student.state_dict().values(), student[1].weight.grad]
        modes = [module.training for net in (teacher, student) for module in net.modules()]
        return [
            [tensor.clone() for tensor in tensors if tensor is not None],
            modes,
            torch.get_rng_state().tolist(),
            generator.get_state().tolist(),
            np.random.get_state()[1].tolist(),
            optimizer.state_dict()["state"],
            [p.grad is None for p in student.parameters()],
        ]

    before = state()
    sr.check_setup(teacher, student, loader, loss=kd, optimizer=optimizer)
    after = state()
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert before[1:] == after[1:]


def test_batches_that_are_mappings_and_outputs_that_are_objects(
    teacher: nn.Module, student: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    class Named(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
            return {"logits": self.net(pixel_values)}

    images, labels = digits
    batches = [{"pixel_values": x, "labels": y} for x, y in zip(images.split(64), labels.split(64), strict=True)]
    found = sr.check_setup(Named(teacher), Named(student), batches, loss=kd, optimizer=sgd(student))
    assert found.ok


def test_bad_input_names_what_was_given(teacher: nn.Module, student: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    with pytest.raises(BadInput, match="teacher"):
        sr.check_setup("resnet", student, loader_of(images, labels))
    with pytest.raises(BadInput, match="loader"):
        sr.check_setup(teacher, student, [])
    with pytest.raises(BadInput, match="student"):
        sr.check_setup(teacher, student, loader_of(images[:, :, :4], labels))
    with pytest.raises(BadInput, match="1797"):
        sr.check_setup(torch.zeros(5, 10), student, loader_of(images, labels))


@pytest.mark.parametrize("make", [nn.init.kaiming_normal_, nn.init.xavier_uniform_, nn.init.xavier_normal_])
def test_initial_laws_differ_from_trained_weights(make: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    weight = make(torch.empty(128, 64))
    assert initial_law(weight) is not None
    assert initial_law(weight + 0.5 * weight.std() * torch.randn_like(weight)) is None


def test_a_loss_is_called_by_the_names_of_its_arguments(
    teacher: nn.Module, student: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    def of_outputs(outputs: Tensor, labels: Tensor, teacher_outputs: Tensor) -> dict[str, Tensor]:
        return {"loss": kd(outputs, teacher_outputs, labels)}

    one, other = (
        sr.check_setup(teacher, student, [digits], loss=loss, optimizer=sgd(student)) for loss in (kd, of_outputs)
    )
    evidence = [[f.evidence for f in each.findings if f.check == "loss_finite"] for each in (one, other)]
    assert evidence[0] == evidence[1]
    assert other.ok

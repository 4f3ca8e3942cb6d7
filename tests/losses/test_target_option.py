"""``kl`` with a target: each against the formula alone, and what a recipe may ask for."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from losses.tester import LossInputs, LossTester, random_inputs, small_setup_context, with_student
from stillroom.errors import BadInput
from stillroom.losses.base import Requires
from stillroom.losses.kl import KL
from stillroom.losses.logit_mse import LogitMSE
from stillroom.losses.targets import TopKConfig
from stillroom.models.reader import FEATURES
from stillroom.models.tail import tail_of
from stillroom.recipe import Recipe, parse_recipe
from stillroom.teachers.output import ModelOutput
from stillroom.teachers.tails import TeacherTail


def softmax(row: list[float], temperature: float) -> list[float]:
    shares = [math.exp((v - max(row)) / temperature) for v in row]
    return [share / sum(shares) for share in shares]


def likeness(head: list[list[float]], y: int, power: float, temperature: float) -> list[float]:
    cosines = [
        sum(a * b for a, b in zip(head[y], row, strict=True)) / math.hypot(*head[y]) / math.hypot(*row) for row in head
    ]
    return softmax([math.copysign(abs(c) ** power, c) for c in cosines], temperature)


def rho(teacher: list[float], head: list[list[float]], y: int, target: dict[str, Any], temperature: float) -> Any:
    """The target from its formula alone."""
    name, options = target["name"], {key: value for key, value in target.items() if key != "name"}
    p, classes = softmax(teacher, temperature), len(teacher)
    rest = sum(share for i, share in enumerate(p) if i != y)
    if name == "uniform":
        return [1 / classes] * classes
    if name == "class_similarity":
        return likeness(head, y, **options)
    if name == "top_k":
        kept = sorted(range(classes), key=lambda i: -p[i])[: options["k"]]
        others = sum(share for i, share in enumerate(p) if i not in kept)
        return [p[i] if i in kept else others / (classes - len(kept)) for i in range(classes)]
    if name == "true_class":
        return [p[i] if i == y else rest / (classes - 1) for i in range(classes)]
    alike = likeness(head, y, **options)
    return [p[i] if i == y else rest * alike[i] / (sum(alike) - alike[y]) for i in range(classes)]


def temperature_of(options: dict[str, Any]) -> float:
    at_1 = options["target"]["name"] in ("uniform", "class_similarity")
    return 1.0 if at_1 else options.get("temperature", 4.0)


def targets_of(inputs: LossInputs, options: dict[str, Any]) -> list[list[float]]:
    head, tau = inputs.teacher_output.tail(FEATURES).head, temperature_of(options)
    assert head is not None
    rows = zip(inputs.teacher_logits.tolist(), inputs.labels.tolist(), strict=True)
    return [rho(teacher, head.tolist(), y, options["target"], tau) for teacher, y in rows]


def plain_kl(inputs: LossInputs, options: dict[str, Any]) -> float:
    tau, total = temperature_of(options), 0.0
    for student, target in zip(inputs.student.logits.tolist(), targets_of(inputs, options), strict=True):
        q = softmax(student, tau)
        total += tau**2 * sum(a * math.log(a / b) for a, b in zip(target, q, strict=True))
    return total / len(inputs.labels)


# The tester's last layer is a rotation, whose cosines are 0 to rounding: a power of 1 leaves them there.
LINEAR = {"power": 1.0, "temperature": 0.4}


class TestKLWithATarget(LossTester):
    loss = KL
    variants = [
        {"target": {"name": "uniform"}},
        {"target": {"name": "class_similarity", **LINEAR}},
        {"target": {"name": "top_k", "k": 1}},
        {"target": {"name": "top_k", "k": 2}, "temperature": 1.0},
        {"target": {"name": "true_class"}},
        {"target": {"name": "true_class_similarity", **LINEAR}, "temperature": 2.0},
    ]
    reference = plain_kl
    not_held = {"minimum": "it teaches a part of the teacher's answer"}


def lesson_with_head(head: Tensor, seed: int = 0) -> LossInputs:
    """A random inputs whose teacher ends in a layer of these rows."""
    inputs = random_inputs(classes=len(head), seed=seed)
    layer = nn.Linear(head.shape[1], len(head), bias=False).double()
    layer.weight.data = head
    example = torch.randn(2, head.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tails = {FEATURES: TeacherTail(tail_of(nn.Sequential(nn.Tanh(), layer), FEATURES, example))}
    return replace(inputs, teacher=replace(inputs.teacher_output, tails=tails))


@pytest.mark.parametrize("name", ["class_similarity", "true_class_similarity"])
@pytest.mark.parametrize(("power", "temperature"), [(0.1, 0.5), (0.5, 0.1), (2.0, 1.0)])
def test_likeness_is_that_of_the_rows_of_the_teachers_last_layer(name: str, power: float, temperature: float) -> None:
    head = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    options = {"target": {"name": name, "power": power, "temperature": temperature}}
    inputs = lesson_with_head(head)
    assert KL(**options)(inputs).item() == pytest.approx(plain_kl(inputs, options), rel=1e-9)


@pytest.mark.parametrize("options", TestKLWithATarget.variants, ids=str)
def test_least_where_the_student_says_the_target(options: dict[str, Any]) -> None:
    inputs, loss = random_inputs(), KL(**options)
    z = temperature_of(options) * torch.tensor(targets_of(inputs, options), dtype=torch.float64).log()
    student = z.requires_grad_()
    value = loss(with_student(inputs, student))
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(value, student)[0].abs().max() < 1e-12
    assert loss(with_student(inputs, student + 0.1 * torch.randn_like(student))) > 0


def test_full_is_no_target() -> None:
    inputs = random_inputs()
    assert KL(target="full").config == KL().config
    assert KL(target={"name": "full"}, temperature=2)(inputs) == KL(temperature=2)(inputs)
    assert torch.equal(KL().target_logits(inputs), inputs.teacher_logits)


def test_all_classes_kept_is_the_whole_answer() -> None:
    inputs = random_inputs()
    kept = KL(target=TopKConfig(k=5))(inputs).item()
    assert kept == pytest.approx(KL()(inputs).item(), rel=1e-12)


def test_a_sure_teacher_is_taught_in_float32_to_the_last_class() -> None:
    """At a gap of 100, 1 − p_y is 0 in float32, and a logarithm of it would be no number."""
    inputs = random_inputs(dtype=torch.float32)
    sure = 100.0 * torch.nn.functional.one_hot(inputs.labels, 5)
    for options in TestKLWithATarget.variants:
        at_1 = {**options, "temperature": 1.0}
        low = KL(**at_1)(replace(inputs, teacher=replace(inputs.teacher_output, logits=sure)))
        wide = replace(random_inputs(), student=ModelOutput(inputs.student.logits.double()))
        exact = KL(**at_1)(replace(wide, teacher=replace(wide.teacher_output, logits=sure.double())))
        assert low.item() == pytest.approx(exact.item(), rel=1e-5), options


def test_uniform_asks_no_teacher() -> None:
    inputs = replace(random_inputs(), teacher=None)
    loss = KL(target="uniform")
    assert loss.requires == Requires(labels=True)
    plain = -torch.log_softmax(inputs.student.logits, 1).mean(1).mean() - math.log(5)
    assert loss(inputs).item() == pytest.approx(plain.item(), rel=1e-9)


def test_what_reads_the_last_layer_says_so() -> None:
    for name in ("class_similarity", "true_class_similarity"):
        assert KL(target=name).requires == Requires(teacher=True, labels=True, tails=(FEATURES,), heads=(FEATURES,))
    assert KL(target="top_k").requires == KL().requires == Requires(teacher=True)
    with pytest.raises(ValueError, match="heads that are not in tails"):
        Requires(teacher=True, heads=(FEATURES,))


def test_more_classes_than_there_are_is_refused_in_setup() -> None:
    KL(target={"name": "top_k", "k": 5}).setup(small_setup_context())
    with pytest.raises(BadInput, match=r"losses\.kl\.target\.k: got 6; expected 5 or less, the number of classes"):
        KL(target={"name": "top_k", "k": 6}).setup(small_setup_context())


def recipe(**kl: Any) -> Recipe:
    return parse_recipe({"student": {"name": "mlp"}, "losses": [{"name": "kl", **kl}]})


@pytest.mark.parametrize("target", ["uniform", "class_similarity", "top_k", "true_class", "true_class_similarity"])
def test_a_name_alone_takes_the_defaults(target: str) -> None:
    short, whole = recipe(target=target), recipe(target={"name": target})
    assert short == whole
    dumped = short.model_dump(mode="json")
    assert parse_recipe(dumped) == short
    assert dumped["losses"][0]["target"]["name"] == target
    assert dumped["losses"][0]["temperature"] == (1 if target in ("uniform", "class_similarity") else 4)


def test_a_recipe_without_a_target_reads_as_before_there_were_any() -> None:
    plain = {"name": "kl", "weight": 1.0, "temperature": 4.0}
    assert recipe().model_dump(mode="json")["losses"] == [plain]
    assert recipe(target="full") == recipe(target=None) == recipe()


BAD: list[tuple[dict[str, Any], str]] = [
    ({"target": "topk"}, "losses.0.target: got 'topk'; expected a target that exists (did you mean 'top_k'?)"),
    ({"target": 5}, "losses.0.target: got 5; expected a name or a mapping with a name"),
    ({"target": {"k": 3}}, "losses.0.target: got {'k': 3}; expected a name or a mapping with a name"),
    ({"target": {"name": "top_k", "k": 0}}, "losses.0.target.k: got 0; expected greater than or equal to 1"),
    ({"target": {"name": "top_k", "n": 3}}, "losses.0.target.n: unknown field 'n'"),
    ({"target": {"name": "full", "k": 3}}, "expected full without options"),
    ({"target": {"name": "class_similarity", "power": 0}}, "losses.0.target.power: got 0; expected greater than 0"),
    ({"target": {"name": "class_similarity", "powr": 1}}, "unknown field 'powr'; did you mean 'power'?"),
    ({"target": "uniform", "temperature": 4}, "losses.0.target: got 'uniform'; expected a target that derives from"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[message for _, message in BAD])
def test_a_bad_target_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as error:
        recipe(**options)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["logit_mse", "logit_fisher", "cross_entropy", "feature_mse"])
def test_other_losses_say_why_they_take_none(name: str) -> None:
    with pytest.raises(BadInput, match="no target: this loss does not compare distributions"):
        parse_recipe({"student": {"name": "mlp"}, "losses": [{"name": name, "target": "top_k"}]})
    with pytest.raises(BadInput, match=r"LogitMSE: .*no target"):
        LogitMSE(target="top_k")

"""Which taps and connectors losses on features choose, and that nothing else depends on it."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from losses.pairs import cnn, model, model_info, setup_context, shared_context, vit
from stillroom.errors import BadInput
from stillroom.losses.activation_boundary import ActivationBoundary
from stillroom.losses.base import Loss, LossInputs
from stillroom.losses.crd import CRD
from stillroom.losses.feature_mse import FeatureMSE, FeatureMSEConfig
from stillroom.losses.fsp import FSP
from stillroom.losses.input_gradient_attention import InputGradientAttention
from stillroom.losses.jacobian_matching import JacobianMatching
from stillroom.losses.ofd import OFD
from stillroom.losses.reviewkd import ReviewKD
from stillroom.losses.setup_context import SetupContext
from stillroom.recipe import parse_recipe
from stillroom.teachers.output import ModelOutput


def chosen(loss: FeatureMSE) -> list[tuple[str, str]]:
    return [(teacher.name, student.name) for teacher, student in loss.pairs]


def set_up(loss: FeatureMSE, with_: SetupContext) -> FeatureMSE:
    loss.setup(with_)
    return loss


@pytest.mark.parametrize(("teacher", "student"), [("cnn", "vit"), ("vit", "cnn"), ("cnn", "slim")])
def test_the_penultimate_pair_is_taken_of_any_two_models(teacher: str, student: str) -> None:
    loss = set_up(FeatureMSE(), shared_context(teacher, student))
    assert chosen(loss) == [("features", "features")]
    assert loss.requires.teacher_features == loss.requires.student_features == ("features",)
    assert FeatureMSE.requires.teacher_features == (), "the class is left as it was"


def test_all_is_every_pair_but_the_logits() -> None:
    loss = set_up(FeatureMSE(taps="all"), shared_context("cnn", "slim"))
    assert chosen(loss) == [(name, name) for name in ("layer1", "layer2", "layer3", "features")]
    assert len(loss.connectors) == 4
    mixed = set_up(FeatureMSE(taps="all"), shared_context("cnn", "vit"))
    assert mixed.requires.student_features[-1] == "features"
    assert len(mixed.pairs) > 1


def test_taps_by_name() -> None:
    both = setup_context(cnn(), model("resnet14", width=4))
    assert chosen(set_up(FeatureMSE(taps=["layer2"]), both)) == [("layer2", "layer2")]
    loss = set_up(FeatureMSE(taps=["layer2:pre", {"teacher": "layer3", "student": "layer2.1.conv2"}]), both)
    assert chosen(loss) == [("layer2:pre", "layer2:pre"), ("layer3", "layer2.1.conv2")]
    across = shared_context("cnn", "vit")
    opposite = dict(chosen(set_up(FeatureMSE(taps="all"), across)))
    name = next(name for name in opposite if name != "features")
    assert chosen(set_up(FeatureMSE(taps=[name]), across)) == [(name, opposite[name])]


@pytest.mark.parametrize(
    ("taps", "match"),
    [
        (["layr2"], r"losses.feature_mse.taps: got 'layr2'; expected .*did you mean 'layer2'\?"),
        ([{"teacher": "layer2", "student": "layr2"}], r"taps: got 'layr2'; expected a module of the student.*'layer2'"),
        (
            [{"teacher": "leyer2", "student": "layer2"}],
            r"taps: got 'leyer2'; expected a module of the teacher.*'layer2'",
        ),
        ([{"teacher": "layer2", "student": "features"}], r"feature_mse.connector: got 'auto'; expected .*16×4×4"),
    ],
)
def test_taps_that_are_not_there_are_refused(taps: list[Any], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        FeatureMSE(taps=taps).setup(shared_context("cnn", "slim"))


@pytest.mark.parametrize(
    ("taps", "match"),
    [
        ("layer2", r"taps: got 'layer2'; expected features, all, or a list of taps such as \[layer2\]"),
        ([], r"taps: .*at least 1 item"),
        (["layer2", "layer2"], r"each of taps once, but layer2 is there twice"),
        (["logits"], r"taps that are features"),
        ([{"teacher": "layer2", "studnt": "layer2"}], r"taps.0.studnt: unknown field 'studnt'; did you mean 'student'"),
        ([3], r"taps.0: got 3; expected text"),
        (3, r"taps: got 3; expected a list"),
    ],
)
def test_options_that_mean_nothing_are_refused(taps: Any, match: str) -> None:
    entry = {"name": "feature_mse", "taps": taps}
    with pytest.raises(BadInput, match=match):
        parse_recipe({"student": {"name": "mlp"}, "teacher": {"name": "mlp"}, "losses": [entry]})


def test_a_model_without_a_penultimate_place_is_refused() -> None:
    class Multiplies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(64, 10))

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ self.weight

    with pytest.raises(BadInput, match=r"no such taps .*: the teacher has layer1, .*; the student has none"):
        FeatureMSE().setup(setup_context(cnn(), Multiplies()))


@pytest.mark.parametrize("kind", [FeatureMSE, CRD, OFD, ReviewKD, JacobianMatching, InputGradientAttention])
def test_without_a_model_as_teacher_it_is_refused(kind: type[Loss[Any]]) -> None:
    without = SetupContext(model_info(cnn(), "student"), None, num_classes=10, seed=0)
    with pytest.raises(BadInput, match="teacher: got None; expected a model"):
        kind().setup(without)
    elsewhere = SetupContext(model_info(cnn(), "student"), None, num_classes=10, seed=0, logits="folder")
    with pytest.raises(BadInput, match=r"teacher.logits: got 'folder'; expected a model"):
        kind().setup(elsewhere)


@pytest.mark.parametrize("kind", [ActivationBoundary, FSP, OFD, ReviewKD])
@pytest.mark.parametrize(("teacher", "student"), [("cnn", "vit"), ("vit", "cnn")])
def test_maps_of_any_two_architectures_are_compared(kind: type[Loss[Any]], teacher: str, student: str) -> None:
    loss = kind()
    loss.setup(shared_context(teacher, student))
    torch.manual_seed(0)
    outputs = []
    for side in (1, 0):
        features = {pair[side].name: torch.randn(3, *pair[side].shape, requires_grad=True) for pair in loss.pairs}
        outputs.append(ModelOutput(torch.zeros(3, 10), features))
    value = loss(LossInputs(outputs[0], outputs[1], torch.zeros(3, dtype=torch.int64), torch.arange(3), 0.0))
    value.backward()
    assert torch.isfinite(value)
    assert all(feature.grad is not None for feature in outputs[0].features.values())
    assert all(feature.grad is None for feature in outputs[1].features.values())


def test_setup_must_come_first() -> None:
    inputs = LossInputs(
        ModelOutput(torch.zeros(1, 2)), ModelOutput(torch.zeros(1, 2)), torch.zeros(1), torch.zeros(1), 0.0
    )
    with pytest.raises(RuntimeError, match=r"call setup\(\) first"):
        FeatureMSE()(inputs)


def weights(loss: FeatureMSE) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in loss.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_first_weights_depend_on_the_seed_and_the_taps_alone() -> None:
    pair = {"teacher": "features", "student": "features"}
    first = weights(set_up(FeatureMSE(), shared_context("cnn", "vit")))
    both = setup_context(cnn(), vit())
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again = set_up(FeatureMSE(taps=[pair]), both)
    assert same(first, weights(again)), "by which name it is asked for, and what was drawn before, is nothing to it"
    assert torch.equal(state, torch.get_rng_state())
    among = set_up(FeatureMSE(taps="all"), shared_context("cnn", "vit"))
    assert same({k.rpartition(".")[2]: v for k, v in first.items()}, weights_of_last(among))
    assert not same(first, weights(set_up(FeatureMSE(), setup_context(cnn(), vit(), seed=1))))


def weights_of_last(loss: FeatureMSE) -> dict[str, Tensor]:
    return {name.rpartition(".")[2]: value for name, value in loss.connectors[-1].state_dict().items()}


def test_meeting_again_begins_again() -> None:
    loss = set_up(FeatureMSE(), shared_context("cnn", "vit"))
    first = weights(loss)
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.zero_()
    assert same(first, weights(set_up(loss, shared_context("cnn", "vit"))))


def test_the_models_are_left_as_they_were_and_not_held() -> None:
    teacher, student = cnn().train(), vit().train()
    before = [{k: v.clone() for k, v in net.state_dict().items()} for net in (teacher, student)]
    loss = set_up(FeatureMSE(taps="all"), setup_context(teacher, student))
    for net, state in zip((teacher, student), before, strict=True):
        assert same(state, net.state_dict())
        assert all(module.training for module in net.modules())
        assert all(p.grad is None and p.requires_grad for p in net.parameters())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert not set(loss.modules()) & {*teacher.modules(), *student.modules()}
    gone = weakref.ref(teacher)
    del teacher, student, net
    gc.collect()
    assert gone() is None


def test_nothing_is_traced_where_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("taps were looked for")

    monkeypatch.setattr("stillroom.losses.setup_context.find_taps", never)
    from stillroom.losses.kl import KL

    KL().setup(setup_context(cnn(), vit()))


def test_the_loss_is_the_mean_over_the_pairs_through_their_connectors() -> None:
    loss = set_up(FeatureMSE(taps="all"), shared_context("cnn", "slim"))
    draw = torch.Generator().manual_seed(3)
    student = {s.name: torch.randn(6, *s.shape, generator=draw) for _, s in loss.pairs}
    teacher = {t.name: torch.randn(6, *t.shape, generator=draw, requires_grad=True) for t, _ in loss.pairs}
    logits = torch.zeros(6, 10)
    inputs = LossInputs(
        ModelOutput(logits, student), ModelOutput(logits, teacher), torch.zeros(6), torch.arange(6), 0.0
    )
    terms = [
        (connector(student[s.name]) - teacher[t.name]).square().mean().item()
        for (t, s), connector in zip(loss.pairs, loss.connectors, strict=True)
    ]
    value = loss(inputs)
    assert value.item() == pytest.approx(sum(terms) / 4, rel=1e-6)
    value.backward()
    assert all(feature.grad is None for feature in teacher.values())
    assert all(p.grad is not None for p in loss.parameters())


def test_a_family_class_takes_its_options_from_its_own_config() -> None:
    assert FeatureMSE.Config is FeatureMSEConfig
    assert "features 16 → features 32" in set_up(FeatureMSE(), shared_context("cnn", "vit")).describe_taps()

"""The teacher from a tap on: its answers in the data's classes, and how a step in the features moves them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stillroom.data.loader import Batch
from stillroom.models.preprocess import Preprocess
from stillroom.models.reader import TapReader
from stillroom.teachers.fisher import tail_fisher
from stillroom.teachers.live import LiveTeacher
from stillroom.teachers.tails import TeacherTail, cut_tails
from teachers.nets import CPU, ORDER, images, net, pipe, tails

TAPS = ["stem", "down", "features"]


def read(branches: bool = False) -> tuple[dict[str, Tensor], Tensor]:
    """Features and logits of the model as it is, its columns picked by hand."""
    model = net(branches=branches).eval()
    taps = TapReader(model, TAPS)
    with taps, torch.no_grad():
        logits = model(images().float().div(255).sub(0.5).div(0.5))
    return taps.take(), logits[:, list(ORDER)]


@pytest.mark.parametrize("branches", [False, True], ids=["traced", "replayed"])
def test_a_tail_answers_in_the_datas_classes_whatever_the_teachers_columns(branches: bool) -> None:
    features, wanted = read(branches)
    for tap in TAPS:
        said = tails(branches)[tap](features[tap])
        assert said.shape == (6, 5)
        torch.testing.assert_close(said, wanted, rtol=1e-4, atol=1e-5)


def test_the_last_layer_has_a_row_a_class_of_the_data() -> None:
    head = tails()["features"].head
    assert head is not None
    assert torch.equal(head, net().head.weight[list(ORDER)])
    assert tails()["stem"].head is None is tails()["down"].head
    assert tails(True)["features"].head is None, "a whole model that is run again is no layer"
    plain = cut_tails(net(), pipe(None), ["features"], example=images(4), device=CPU)["features"]
    assert plain.head is not None
    assert torch.equal(plain.head, net().head.weight)


@pytest.mark.parametrize("branches", [False, True], ids=["traced", "replayed"])
@pytest.mark.parametrize("tap", TAPS)
def test_a_small_step_moves_the_logits_by_the_derivative(tap: str, branches: bool) -> None:
    tail, (features, _) = tails(branches)[tap], read()
    h = features[tap]
    gap = torch.randn(h.shape, generator=torch.Generator().manual_seed(2)).requires_grad_()
    moved = tail.jvp(h.clone().requires_grad_(), gap)
    leaf = h.clone().requires_grad_()
    logits = tail(leaf)
    for k in range(5):
        (row,) = torch.autograd.grad(logits[:, k].sum(), leaf, retain_graph=True)
        torch.testing.assert_close(moved[:, k], (row * gap).flatten(1).sum(1), rtol=1e-3, atol=1e-4)
    # Gradients flow to the step, by the transpose, and to nothing else.
    (back,) = torch.autograd.grad(moved[:, 3].sum(), gap, retain_graph=True)
    torch.testing.assert_close(back, torch.autograd.grad(logits[:, 3].sum(), leaf)[0], rtol=1e-3, atol=1e-5)
    assert not any(buffer.requires_grad for buffer in tail.buffers())


def test_a_step_is_not_moved_in_low_precision() -> None:
    features, _ = read()
    for tap in TAPS:
        gap = torch.ones_like(features[tap])
        exact = tails()[tap].jvp(features[tap], gap)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(tails()[tap].jvp(features[tap], gap), exact)


def test_under_autocast_a_tail_takes_features_in_low_precision() -> None:
    """As a stone does in training: what its connector gives is in bfloat16 there."""
    features, wanted = read()
    for tap in TAPS:
        low = features[tap].bfloat16().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            said = tails()[tap](low)
        torch.testing.assert_close(said.float(), wanted, rtol=0.05, atol=0.05)
        said.float().sum().backward()
        assert low.grad is not None
        assert low.grad.any()


def test_nothing_of_it_is_in_a_state_and_the_teacher_is_left_as_it_was() -> None:
    model = net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cut = cut_tails(model, pipe(), [*TAPS, "stem"], example=images(4), device=CPU)
    assert list(cut) == sorted(TAPS)
    assert cut_tails(model, pipe(), [], example=images(4), device=CPU) == {}
    for name, tail in cut.items():
        assert tail.tap == name
        assert not tail.state_dict()
        assert not list(tail.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert not own & {buffer.data_ptr() for tail in cut.values() for buffer in tail.buffers()}, "it is cut of a copy"


def test_what_a_live_teacher_reads_its_tails_complete() -> None:
    live = LiveTeacher(net(), pipe(), example=images(4), device=CPU, taps=TAPS, tails=tails())
    rows = torch.arange(6)
    said = live(Batch(images(), torch.zeros(6), rows, rows.numpy(), view=0))
    assert live.folded
    for tap in TAPS:
        torch.testing.assert_close(tails()[tap](said.features[tap]), said.logits, rtol=1e-4, atol=1e-5)


def test_tokens_and_attention_have_derivatives_both_ways() -> None:
    """Forward mode through attention, which its fused forms have not."""

    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(8, 8)
            self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.block(self.embed(x)).mean(1))
            return logits

    torch.manual_seed(0)
    x = torch.randn(4, 3, 8)
    model: Any = Attends().eval()
    tail: TeacherTail = cut_tails(model, Preprocess(None), ["embed"], example=x, device=CPU)["embed"].double()
    h, gap = (torch.randn(4, 3, 8, dtype=torch.float64) for _ in range(2))
    step = 1e-5
    wanted = (tail(h + step * gap) - tail(h - step * gap)) / (2 * step)
    torch.testing.assert_close(tail.jvp(h, gap), wanted, rtol=1e-4, atol=1e-6)
    assert (tail_fisher(tail, h, temperature=4.0) > 0).all()

"""Loss functions are identified on random logits, and each kind of fault has its check; right ones are left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stillroom as sr
from diagnose.loss_functions import LOSSES
from stillroom.cli import run
from stillroom.diagnose.checks.loss.identify import GradientSample, fit_terms, name_terms
from stillroom.diagnose.loss import check_loss, load_loss
from stillroom.errors import BadInput
from stillroom.losses import functional
from stillroom.schema.diagnosis import Finding


def finding(diagnosis: sr.Diagnosis, check: str) -> Finding:
    return next(each for each in diagnosis.findings if each.check == check)


@pytest.mark.parametrize("name", LOSSES)
def test_a_fault_is_one_problem_and_a_right_loss_has_none(name: str) -> None:
    loss, fault = LOSSES[name]
    assert [each.check for each in check_loss(loss, num_classes=10).problems] == ([fault] if fault else [])


def kd(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, tau: float = 4.0) -> Tensor:
    log_q, p = F.log_softmax(student_logits / tau, 1), F.softmax(teacher_logits / tau, 1)
    return 0.1 * F.cross_entropy(student_logits, labels) + 0.9 * F.kl_div(log_q, p)


def test_it_says_which_loss_it_is_by_which_factor_it_is_wrong_and_what_to_write() -> None:
    found = check_loss(kd, num_classes=10)
    identity, scale = finding(found, "loss_identity"), finding(found, "loss_scale")
    assert identity.summary == (
        "0.1 · CE + 0.9 · KL(teacher‖student) at τ = 4, its KL term 160 times too weak: averaged over K = 10 classes "
        "(`reduction='mean'`), and τ² = 16 is missing."
    )
    label_term, kl_term = identity.evidence["terms"]
    assert (label_term["name"], label_term["coefficient"], label_term["factor"]) == ("cross_entropy", 0.1, None)
    assert (kl_term["name"], kl_term["temperature"], kl_term["usual"]) == ("kl", 4.0, 0.9)
    assert kl_term["factor"] == pytest.approx(1 / 160, rel=1e-3)
    assert kl_term["coefficient"] == pytest.approx(0.9 / 160, rel=1e-3)
    assert identity.evidence["residual"] < 1e-6
    assert scale.remedy is not None
    assert scale.remedy.code is not None
    student, teacher = torch.randn(2, 6, 10, dtype=torch.float64)
    space: dict[str, Any] = {"F": F, "tau": 4.0, "labels": torch.arange(6)}
    space |= {"student_logits": student, "teacher_logits": teacher}
    exec(scale.remedy.code, space)  # the line is right as it stands
    right = 0.1 * F.cross_entropy(student, torch.arange(6)) + 0.9 * functional.kl(student, teacher, temperature=4.0)
    assert space["loss"].item() == pytest.approx(right.item(), rel=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        lambda outputs, labels, teacher_outputs: kd(outputs, teacher_outputs, labels),
        lambda y_s, y_t, target: kd(y_s, y_t, target),
        lambda teacher, student, y: kd(student, teacher, y),
        lambda *args: kd(*args),
        lambda a, b, c: kd(a, b, c),
        lambda logits, targets, teacher_logits=None: kd(logits, teacher_logits, targets),
        lambda outputs, labels, teacher_outputs, params: kd(outputs, teacher_outputs, labels, params.temperature),
        lambda student_logits, teacher_logits, labels, temp: kd(student_logits, teacher_logits, labels, temp),
        lambda y, labels, teacher_scores, T, alpha: kd(y, teacher_scores, labels, T),  # noqa: N803
        lambda big, small, gold: kd(small, big, gold),
        lambda out_s, out_t, y: kd(out_s.logits, out_t.logits, y),
        lambda student_logits, teacher_logits, labels: (kd(student_logits, teacher_logits, labels), {"parts": 2}),
        lambda student_logits, teacher_logits, labels: {"loss": kd(student_logits, teacher_logits, labels)},
    ],
    ids=[
        "by name",
        "suffixes",
        "order",
        "star",
        "unnamed",
        "optional",
        "params",
        "required τ",
        "y",
        "sizes",
        "outputs",
        "tuple",
        "mapping",
    ],
)
def test_arguments_are_found_by_name_or_by_place(loss: Callable[..., Any]) -> None:
    terms = finding(check_loss(loss), "loss_identity").evidence["terms"]
    assert [(term["name"], term["temperature"]) for term in terms] == [("cross_entropy", None), ("kl", 4.0)]


MASKED_IN_HALF = """
import torch

def store(logits, taken):
    return logits.masked_fill(taken, {low}).half()

def kd(student_logits, teacher_logits):
    p = teacher_logits.float().softmax(-1)
    return (p * (teacher_logits.float().log_softmax(-1) - student_logits.log_softmax(-1))).sum(-1).mean()
"""


@pytest.mark.parametrize(("low", "problems"), [("-1e9", ["half_precision"]), ("-1e4", [])])
def test_classes_masked_with_what_half_precision_makes_infinite_are_a_problem(
    low: str, problems: list[str], tmp_path: Path
) -> None:
    (tmp_path / "masked.py").write_text(MASKED_IN_HALF.format(low=low))
    found = check_loss(load_loss(f"{tmp_path / 'masked.py'}:kd"), num_classes=10)
    assert [each.check for each in found.problems] == problems


class Softened(nn.Module):
    """A module whose temperature is an attribute and whose weight is a child's."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.tau = 2.0
        self.scale = nn.Parameter(torch.ones(num_classes))

    def forward(self, y_s: Tensor, y_t: Tensor) -> Tensor:
        log_q, p = F.log_softmax(self.scale * y_s / self.tau, 1), F.softmax(y_t / self.tau, 1)
        return F.kl_div(log_q, p, reduction="batchmean")


def test_a_class_is_made_and_a_module_stays_as_it_was() -> None:
    module = Softened(10)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    by_class, by_object = (finding(check_loss(each), "loss_identity").evidence["terms"] for each in (Softened, module))
    assert by_class == by_object
    assert by_object[0]["factor"] == pytest.approx(1 / 4)
    assert (module.tau, module.scale.dtype) == (2.0, torch.float32)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert module.scale.grad is None
    assert torch.equal(state, torch.get_rng_state())


def test_a_loss_of_stillroom_is_checked_as_it_is() -> None:
    terms = finding(check_loss(sr.KL(temperature=3)), "loss_identity").evidence["terms"]
    assert [(term["name"], term["temperature"], term["factor"]) for term in terms] == [("kl", 3.0, None)]
    with pytest.raises(BadInput, match="features"):
        check_loss(sr.FeatureMSE())


def test_a_constant_in_a_closure_or_a_file_is_varied_as_a_keyword_is() -> None:
    tau = 5.0

    def closed(s: Tensor, t: Tensor) -> Tensor:
        return tau * F.kl_div(F.log_softmax(s / tau, 1), F.softmax(t / tau, 1), reduction="batchmean")

    term = finding(check_loss(closed), "loss_identity").evidence["terms"][0]
    assert (term["factor"], term["usual"]) == (pytest.approx(1 / 5), pytest.approx(1.0))


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (lambda: 0.0, "Tried"),
        (lambda student, teacher: student @ teacher, "student=student, teacher=teacher"),
        (3, "function or a module"),
        (lambda student, teacher: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_what_cannot_be_called_is_refused_with_what_was_tried(loss: Any, text: str) -> None:
    with pytest.raises(BadInput, match="loss") as raised:
        check_loss(loss)
    assert text in str(raised.value)


@pytest.mark.parametrize("options", [{"num_classes": 1}, {"roles": {"a": "pupil"}}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        check_loss(lambda a, b: (a - b).sum(), **options)


def test_a_class_masked_by_infinity_and_hyperparameters_at_their_ends_are_tried() -> None:
    def divided(student: Tensor, teacher: Tensor, labels: Tensor, alpha: float = 0.5) -> Tensor:
        return F.cross_entropy(student, labels) / alpha + F.mse_loss(student, teacher)

    found = check_loss(divided)
    assert finding(found, "half_precision").evidence["a class masked by -inf"] == "not finite"
    at_ends = finding(found, "student_no_gradient")
    assert (at_ends.verdict, at_ends.evidence["ends"]["alpha = 0"]) == ("warning", "not finite")


def test_roles_can_be_given() -> None:
    found = check_loss(lambda u, v: F.mse_loss(v, u) + 0 * u.sum(), roles={"u": "teacher", "v": "student"})
    assert finding(found, "loss_identity").evidence["terms"][0]["name"] == "logit_mse"


def test_a_batch_of_a_loop_is_identified_from_its_tensors_alone() -> None:
    student, teacher = torch.randn(2, 64, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(64) % 10
    student.requires_grad_()
    value = kd(4 * student, 4 * teacher, labels)
    value.backward()
    sample = GradientSample.of(4 * student, 4 * teacher, labels, student.grad / 4, value.item())
    terms = name_terms(fit_terms([sample]), {"batch": 64, "classes": 10})
    assert [term.name for term in terms] == ["cross_entropy", "kl"]
    assert terms[1].factor == pytest.approx(1 / 160, rel=1e-2)


@pytest.mark.parametrize("power", [0, 1, 2])
@pytest.mark.parametrize("divisor", [1, 7])
def test_what_is_drawn_is_found_again(power: int, divisor: int) -> None:
    draw = np.random.default_rng(power + 10 * divisor)
    tau, alpha = float(draw.uniform(1.5, 9)), float(draw.uniform(0.1, 0.9))

    def loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        log_q, p = F.log_softmax(student / tau, 1), F.softmax(teacher / tau, 1)
        soft = F.kl_div(log_q, p, reduction="batchmean") * tau**power / divisor
        return alpha * soft + (1 - alpha) * F.cross_entropy(student, labels)

    term = finding(check_loss(loss, num_classes=7), "loss_identity").evidence["terms"][1]
    assert term["temperature"] == pytest.approx(tau, rel=1e-3)
    assert term["coefficient"] == pytest.approx(alpha * tau ** (power - 2) / divisor, rel=1e-3)


SOURCE = """
import torch.nn.functional as F
from dataclasses import dataclass

@dataclass
class Options:
    tau: float = 2.0

def kd_loss(student_logits, teacher_logits, tau=Options().tau):
    log_q, p = F.log_softmax(student_logits / tau, 1), F.softmax(teacher_logits / tau, 1)
    return F.kl_div(log_q, p)

def right(student_logits, teacher_logits):
    return F.mse_loss(student_logits, teacher_logits)

class Terms:
    def soft(self, student_logits, teacher_logits):
        return right(student_logits, teacher_logits)

if __name__ == "__main__":
    raise SystemExit("trained")
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_losses.py").write_text(SOURCE)
    return tmp_path


def test_a_method_is_that_of_an_object_made_with_defaults(script: Path) -> None:
    terms = finding(check_loss(load_loss("my_losses.py:Terms.soft")), "loss_identity").evidence["terms"]
    assert [term["name"] for term in terms] == ["logit_mse"]


@pytest.mark.parametrize("target", ["my_losses.py:kd_loss", "my_losses:kd_loss"])
def test_the_command_checks_a_file_or_a_module(script: Path, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", target, "--classes", "7", "--json"]) == 0
    out = capsys.readouterr().out
    content = json.loads(out)
    assert out.count("\n") == 1
    assert (content["kind"], content["target"], content["verdict"]) == ("loss", target, "problem")
    assert run(["check", target, "--classes", "7", "--strict"]) == 1
    assert "averaged over K = 7 classes" in capsys.readouterr().out


def test_the_command_passes_a_right_loss_and_writes_the_page(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "my_losses.py:right", "--strict", "--out", "out"]) == 0
    assert "Nothing is wrong with this loss" in capsys.readouterr().out
    assert (script / "out" / "diagnosis.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["my_losses.py:kd_los"], "kd_loss"),
        (["nowhere.py:kd"], "exists"),
        (["my_losses.py"], "FILE.py:FUNCTION"),
        (["my_losses.py:kd_loss", "--role", "student_logits"], "ARGUMENT=ROLE"),
        (["my_losses.py:kd_loss", "--features", "4by4"], "--features"),
        (["my_losses.py:kd_loss", "--classes", "1"], "classes"),
    ],
)
def test_bad_arguments_are_one_line(
    script: Path, arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["check", *arguments]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


def test_a_file_of_a_package_may_import_relatively(script: Path) -> None:
    (script / "package_of_losses").mkdir()
    (script / "package_of_losses" / "__init__.py").write_text("")
    (script / "package_of_losses" / "parts.py").write_text("def kd(student_logits, teacher_logits): ...\n")
    (script / "package_of_losses" / "losses.py").write_text("from .parts import kd\n")
    assert load_loss("package_of_losses/losses.py:kd").__name__ == "kd"


def test_a_script_that_parses_its_arguments_at_import_is_refused(
    script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (script / "train.py").write_text(
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('data')\np.parse_args()\n"
    )
    with pytest.raises(BadInput, match="__main__"):
        load_loss("train.py:kd")
    assert "usage: train.py" in capsys.readouterr().err


def raises(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    raise RuntimeError("a shape of my own")


def of_models(model: Any, teacher: Any, images: Tensor) -> Any:
    return F.mse_loss(model(images), teacher(images))


def of_a_queue(z_s: Tensor, z_t: Tensor, queue: Tensor) -> Tensor:
    bank = torch.cat([queue, z_t])
    return F.cross_entropy(z_s @ bank.T, (z_t @ bank.T).softmax(1))


@pytest.mark.parametrize(
    ("loss", "text"), [(raises, "--role"), (of_models, "stillroom audit"), (of_a_queue, "stillroom audit")]
)
def test_a_call_that_fails_says_what_was_tried_and_each_reason_once(loss: Any, text: str) -> None:
    with pytest.raises(BadInput, match=text) as failed:
        check_loss(loss)
    message = str(failed.value)
    assert "=student" in message
    assert message.count("a shape of my own") <= 1
    assert message.count("'Tensor' object is not callable") <= 1


def test_a_file_that_raises_is_refused(script: Path) -> None:
    (script / "broken.py").write_text("raise RuntimeError('no data here')")
    with pytest.raises(BadInput, match="no data here"):
        load_loss("broken.py:kd")


def test_a_function_that_makes_a_loss_is_no_faulty_loss() -> None:
    def make_loss(student_logits: Tensor, teacher_logits: Tensor) -> Callable[..., Tensor]:
        return F.mse_loss

    with pytest.raises(BadInput, match="this makes one"):
        sr.check_loss(make_loss)


def test_two_maps_of_attention_are_features_though_their_names_do_not_say_so() -> None:
    def attention(a: Tensor) -> Tensor:
        return F.normalize(a.pow(2).mean(1).flatten(1))

    def loss(a_s: Tensor, a_t: Tensor) -> Tensor:
        return (attention(a_s) - attention(a_t)).pow(2).mean()

    found = check_loss(loss, num_classes=10)
    assert not found.problems
    assert any(each.check == "loss_minimum" and each.verdict == "ok" for each in found.findings)


@pytest.mark.parametrize(
    ("soft", "verdict"), [("s[real], t[real]", "ok"), ("s.flatten(0, 1), t.flatten(0, 1)", "problem")]
)
def test_the_label_of_padding_may_be_another(tmp_path: Path, soft: str, verdict: str) -> None:
    file = tmp_path / "tokens.py"
    file.write_text(
        f"""import torch.nn.functional as F

def kl(s, t):
    return 4 * F.kl_div((s / 2).log_softmax(-1), (t / 2).softmax(-1), reduction="batchmean")

def token_kd(s, t, labels):
    "[B, L, K], [B, L, K], [B, L]: labels of padding are -1."
    real = labels.ne(-1)
    return 0.7 * kl({soft}) + 0.3 * F.cross_entropy(s[real], labels[real])
"""
    )
    found = {each.check: each.verdict for each in check_loss(load_loss(f"{file}:token_kd"), num_classes=10).findings}
    assert found["ignored_rows"] == verdict


@pytest.mark.parametrize(("says", "verdict"), [("", "warning"), ("# rows are padded to one length", "problem")])
def test_padding_is_a_problem_where_the_script_speaks_of_it(tmp_path: Path, says: str, verdict: str) -> None:
    file = tmp_path / "pairs.py"
    file.write_text(
        f"""{says}
import torch.nn.functional as F

def loss(logits, teacher_logits, labels):
    soft = F.kl_div((logits / 2).log_softmax(-1), (teacher_logits / 2).softmax(-1), reduction="none").sum(-1).mean()
    return 4 * soft + F.cross_entropy(logits.flatten(0, 1), labels.flatten())
"""
    )
    found = {each.check: each.verdict for each in check_loss(load_loss(f"{file}:loss"), num_classes=10).findings}
    assert found["ignored_rows"] == verdict


@pytest.mark.parametrize(
    ("caller", "verdict"),
    [
        ("", "problem"),
        ("loss = 0.5 * kd(z, t, T)", "problem"),
        ("value = kd(z, t, T)\n    loss = ce + args.T**2 * value", "ok"),
        ("loss = kd(z, t, T) * (T * T)", "ok"),
        ("loss = 0.1 * ce + 14.4 * kd(z, t, T)", "ok"),
        ("weight = 14.4\n    loss = ce + weight * kd(z, t, T)", "ok"),
        ("loss = ce + 4 * kd(z, t, T)", "problem"),
    ],
)
def test_a_power_of_the_temperature_may_be_where_the_file_calls_the_loss(
    tmp_path: Path, caller: str, verdict: str
) -> None:
    file = tmp_path / "train.py"
    file.write_text(
        f"""import torch.nn.functional as F

def kd(z, t, T=4.0):
    return F.kl_div((z / T).log_softmax(-1), (t / T).softmax(-1), reduction="batchmean")

def train(z, t, T, ce, args):
    {caller or "pass"}
"""
    )
    found = {each.check: each for each in check_loss(load_loss(f"{file}:kd"), num_classes=10).findings}
    assert found["loss_scale"].verdict == verdict
    assert ("a factor makes up" in found["loss_identity"].summary) == (verdict == "ok")


class TeachersTerm(nn.Module):
    """One of several losses that are called alike."""

    def __init__(self, temperature: float = 3.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        rows = labels.shape[0]
        log_q = F.log_softmax(student_logits / self.temperature, 1)
        p = F.softmax(teacher_logits / self.temperature, 1)
        return F.kl_div(log_q, p, reduction="sum") / rows * self.temperature**2


def forgets_labels(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, alpha: float = 0.3) -> Tensor:
    """alpha: the weight of the labels' term."""
    return (1 - alpha) * F.kl_div(F.log_softmax(student_logits, 1), F.softmax(teacher_logits, 1), reduction="batchmean")


def drops_labels(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    hard = F.cross_entropy(student_logits, labels)
    soft = F.kl_div(F.log_softmax(student_logits, 1), F.softmax(teacher_logits, 1), reduction="batchmean")
    return soft + 0.0 * hard.detach() if torch.is_inference_mode_enabled() else soft


@pytest.mark.parametrize(
    ("loss", "verdict"),
    [(TeachersTerm, "ok"), (TeachersTerm(), "ok"), (forgets_labels, "problem"), (drops_labels, "problem")],
)
def test_labels_that_a_teachers_term_takes_for_its_form_alone_may_be_unused(loss: Any, verdict: str) -> None:
    assert finding(check_loss(loss), "labels_unused").verdict == verdict


@pytest.mark.parametrize("label", [-100, -1, 255, 7000])
def test_labels_that_say_which_positions_count_are_used(tmp_path: Path, label: int) -> None:
    file = tmp_path / "pixels.py"
    file.write_text(
        f"""import torch.nn.functional as F

VOID = {label}

def pixel_kd(s, t, labels):
    keep = (labels != VOID).float()
    kl = F.kl_div(F.log_softmax(s, 1), F.softmax(t, 1), reduction="none").sum(1)
    return (kl * keep).sum() / keep.sum()
"""
    )
    diagnosis = check_loss(load_loss(f"{file}:pixel_kd"), num_classes=10)
    assert finding(diagnosis, "labels_unused").verdict == "ok"
    assert not diagnosis.problems


def mean_one(d: Tensor) -> Tensor:
    return d / d[d > 0].mean()


def whitened(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / x.std(0)


def similarities(x: Tensor, tau: float) -> Tensor:
    directions = F.normalize(x, dim=1)
    return directions @ directions.T / tau


# Losses of relations between rows, with the verdict on where they are smallest.
RELATIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "distances, both divided": (
        lambda s, t: F.smooth_l1_loss(mean_one(torch.cdist(s, s)), mean_one(torch.cdist(t, t))),
        "ok",
    ),
    "distances, the teacher's divided": (
        lambda s, t: F.mse_loss(torch.cdist(s, s), mean_one(torch.cdist(t, t))),
        "problem",
    ),
    "products, the teacher's divided": (lambda s, t: F.mse_loss(s @ s.T, t @ t.T / (t @ t.T).norm()), "problem"),
    "products, both divided": (
        lambda s, t: F.mse_loss(s @ s.T / (s @ s.T).norm(), t @ t.T / (t @ t.T).norm()),
        "ok",
    ),
    "whitened targets": (lambda s, t: F.mse_loss(s, whitened(t)), "warning"),
    "rows of length one as targets": (lambda s, t: F.mse_loss(s, F.normalize(t, dim=1)), "warning"),
    "sharper similarities of the teacher": (
        lambda s, t: F.kl_div(similarities(s, 0.1).log_softmax(1), similarities(t, 0.04).softmax(1), reduction="sum"),
        "warning",
    ),
}


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("name", RELATIONS)
def test_relations_are_normalised_on_both_sides(name: str, features: bool) -> None:
    loss, verdict = RELATIONS[name]

    def of_features(student_features: Tensor, teacher_features: Tensor) -> Tensor:
        return loss(student_features, teacher_features.detach())

    def of_logits(student: Tensor, teacher: Tensor) -> Tensor:
        return loss(student, teacher.detach())

    found = finding(check_loss(of_features if features else of_logits, num_classes=10), "loss_minimum")
    if features or verdict == "problem":
        assert found.verdict == verdict
    else:
        assert found.verdict != "problem" or "times the teacher's" not in found.summary


@pytest.mark.parametrize(("square", "problem"), [(" * T * T", []), ("", ["loss_scale"])])
@pytest.mark.parametrize("default", ["", "=4.0"])
def test_a_loss_of_probabilities_may_be_softened_at_its_temperature(
    tmp_path: Path, square: str, default: str, problem: list[str]
) -> None:
    """A committee's mean probability at T is no logit, and its name says so."""
    file = tmp_path / "committee.py"
    file.write_text(
        f"""import torch.nn.functional as F

def kd(student_logits, teacher_probs, T{default}):
    p = teacher_probs
    return F.kl_div(F.log_softmax(student_logits / T, 1), p, reduction="batchmean"){square}
"""
    )
    diagnosis = check_loss(load_loss(f"{file}:kd"), num_classes=10)
    assert [each.check for each in diagnosis.problems] == problem


@pytest.mark.parametrize("signature", ["*losses", "kd_loss, ce_loss", "kd_loss, ce_loss, alpha=0.5"])
def test_a_sum_of_losses_is_no_loss_of_logits(tmp_path: Path, signature: str) -> None:
    file = tmp_path / "sums.py"
    file.write_text(f"def total({signature}):\n    return 0\n")
    with pytest.raises(BadInput, match="not of losses that were computed before"):
        check_loss(load_loss(f"{file}:total"), num_classes=10)


def test_several_labels_by_binary_cross_entropy_are_labels() -> None:
    """`targets` are no teacher's where another argument is called so."""

    def several(logits: Tensor, targets: Tensor, teacher_logits: Tensor | None = None, alpha: float = 0.7) -> Tensor:
        hard = F.binary_cross_entropy_with_logits(logits, targets)
        if teacher_logits is None:
            return hard
        return (1 - alpha) * hard + alpha * F.binary_cross_entropy_with_logits(logits, torch.sigmoid(teacher_logits))

    diagnosis = check_loss(several)
    assert not diagnosis.problems
    assert {"labels_unused", "teacher_unused", "weights_swapped"} <= {
        each.check for each in diagnosis.findings if each.verdict == "ok"
    }

"""Parts of the checks of a recipe: statistics, parts that fail, remedies, what is skipped and why."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from diagnose import setups
from diagnose.setups import BASE, Setup
from stillroom.data.images import DataPair
from stillroom.diagnose.chance import is_larger, lower_bound, mcnemar
from stillroom.diagnose.check import rounded
from stillroom.diagnose.checks.recipe.context import open_context
from stillroom.diagnose.checks.recipe.input_repair import draw_sample, native_size
from stillroom.diagnose.checks.recipe.temperature import (
    TEMPERATURES,
    entropy,
    gradient_factors,
    left_over,
    soft_terms,
    spread,
)
from stillroom.diagnose.checks.teacher_changes import has_running_statistics, recalibrate
from stillroom.diagnose.recipe import CHECKS, diagnose_recipe
from stillroom.errors import BadInput
from stillroom.losses.targets import gradient_rescale
from stillroom.models.config import ModelConfig
from stillroom.models.preprocess import Preprocess, resolve_preprocess
from stillroom.models.registry import build
from stillroom.models.weights import save_weights, state_hash
from stillroom.recipe import parse_recipe
from stillroom.run.run import prepare
from stillroom.schema.diagnosis import Finding

pytestmark = pytest.mark.usefixtures("few_sizes")


@pytest.fixture(scope="module")
def raw() -> nn.Module:
    """An untrained teacher: its accuracy does not matter here."""
    torch.manual_seed(0)
    model = build(ModelConfig(name="resnet8", options={"width": 4}), num_classes=10, in_channels=1, image_size=8)
    return model.eval()


@pytest.fixture(scope="module")
def setup(raw: nn.Module) -> Setup:
    return Setup({**BASE, "teacher": {**BASE["teacher"], "options": {"width": 4}}}, raw, setups.digits())


def found(setup: Setup, *checks: str) -> dict[str, Finding]:
    chosen = [check for check in CHECKS if not checks or check.id in checks]
    findings = diagnose_recipe(setup.recipe, images=64, components=setup.components(), checks=chosen)
    return {finding.check: finding for finding in findings}


@pytest.mark.parametrize("target", ["class_relations", "true_class_relations"])
def test_a_loss_on_the_teachers_mean_answers_can_be_computed(setup: Setup, target: str) -> None:
    findings = found(setup.but(f"losses.kl.target={target}"), "loss_finite", "loss_balance", "teacher_unused")
    assert findings["loss_finite"].verdict == "ok", findings["loss_finite"].summary
    assert findings["loss_balance"].verdict != "skipped"
    assert findings["teacher_unused"].verdict == "skipped"
    assert "mean answers" in findings["teacher_unused"].summary


def test_few_images_prove_nothing_by_chance() -> None:
    assert mcnemar(10, 0) < 1e-3 < mcnemar(9, 1)
    generator = torch.Generator().manual_seed(0)
    alarms = 0
    for _ in range(400):
        draws = torch.rand(2, 512, generator=generator) < 0.2
        alarms += is_larger((int(draws[0].sum()), 512), (int(draws[1].sum()), 512))
    assert alarms <= 3


@pytest.mark.parametrize("share", [0.02, 0.3, 0.97])
def test_a_bound_holds_a_known_share(share: float) -> None:
    generator = torch.Generator().manual_seed(1)
    counts = (torch.rand(300, 512, generator=generator) < share).sum(1).tolist()
    assert sum(not lower_bound(count, 512) <= share for count in counts) <= 3


def test_a_sample_is_spread_from_its_first_image_on() -> None:
    data = setups.digits().train
    sample = draw_sample(data, 200)
    assert sorted(sample.labels[:10].tolist()) == list(range(10))
    assert torch.equal(data.labels[torch.from_numpy(sample.rows)], sample.labels)
    assert torch.equal(data.images[torch.from_numpy(sample.rows)], sample.images)
    assert (
        torch.bincount(sample.labels[sample.halves]).tolist() == torch.bincount(sample.labels[~sample.halves]).tolist()
    )


def test_omega_is_that_of_the_recipes_loss() -> None:
    """For L = a·CE + b·τ²·H(p, q_τ), by autograd, up to a factor that is the same for all images."""
    torch.manual_seed(0)
    teacher, labels = 3 * torch.randn(6, 5, dtype=torch.float64), torch.arange(6) % 5
    a, b, tau = 0.1, 0.9, 4.0
    student = torch.zeros(6, 5, dtype=torch.float64, requires_grad=True)
    soft = -((teacher / tau).softmax(1) * (student / tau).log_softmax(1)).sum()
    loss = a * nn.functional.cross_entropy(student, labels, reduction="sum") + b * tau**2 * soft
    (gradient,) = torch.autograd.grad(loss, student)
    (plain,) = torch.autograd.grad(nn.functional.cross_entropy(student, labels, reduction="sum"), student)
    wanted = (gradient / plain).gather(1, labels[:, None]).squeeze(1)
    omega = gradient_factors(teacher, labels, tau, b * tau**2 / (a + b * tau**2))
    assert torch.allclose(omega / omega[0], wanted / wanted[0])
    assert gradient_rescale(student, teacher, labels, temperature=tau, weight=0.5).shape == omega.shape


@pytest.mark.parametrize("alpha", [None, 0.3])
def test_lambda_at_another_temperature_is_that_of_the_recipe_at_that_temperature(
    setup: Setup, alpha: float | None
) -> None:
    """The term carries τ², so that λ of the same weights moves with τ² from one temperature to another."""
    term = {"name": "kl", "weight": 0.4} if alpha is None else {"name": "block_logit", "alpha": alpha, "weight": 0.4}

    def at(temperature: float) -> Setup:
        losses = [{"name": "cross_entropy", "weight": 0.6}, {**term, "temperature": temperature}]
        return Setup({**setup.content, "losses": losses}, setup.teacher, setup.data)

    evidence = found(at(2.0), "teacher_confidence")["teacher_confidence"].evidence["spread_by_temperature"]
    for temperature in (1.0, 4.0, 10.0):
        context = open_context(at(temperature).recipe, images=64, components=at(temperature).components())
        (soft,) = soft_terms(context)
        labels = 0.6 + 0.4 * (alpha or 0.0)
        beta = 1.0 if alpha is None else soft.term.config.kl_shares[1]
        assert soft.share == pytest.approx(0.4 * beta * temperature**2 / (labels + 0.4 * beta * temperature**2))
        omega = gradient_factors(context.teacher_logits, context.sample.labels, temperature, soft.share or 0.0)
        assert evidence[f"{temperature:g}"] == pytest.approx(spread(omega), rel=1e-3)
    assert {float(key) for key in evidence} == set(TEMPERATURES)


def test_softness_of_answers_that_are_known() -> None:
    sure = torch.zeros(3, 10).scatter(1, torch.tensor([[0], [1], [2]]), 60.0)
    assert 0 < left_over(sure, 1.0) < 1e-20  # and not rounded to 0
    assert entropy(torch.zeros(2, 7), 3.0) == pytest.approx(1.0)
    assert spread(torch.ones(5)) == 0.0


def test_a_confident_teacher_that_errs_points_to_the_temperature(setup: Setup) -> None:
    """It weighs images apart, as it errs on a third of them; of the other classes it says nothing."""

    def relabelled(data: DataPair) -> DataPair:
        pipe = Preprocess(resolve_preprocess("half", channels=1, is_pixels=True))
        with torch.no_grad():
            guess = setup.teacher(pipe(data.train.images)).argmax(1)
        return replace(data, train=replace(data.train, labels=torch.where(torch.arange(len(guess)) % 3 > 0, guess, 0)))

    sure = setup.with_teacher(setups.sharpened(1e5)).with_data(relabelled).but("losses.kl.temperature=1")
    findings = found(sure, "temperature", "teacher_confidence")
    assert findings["temperature"].verdict == "problem"
    assert findings["teacher_confidence"].verdict == "ok"


def test_the_size_of_a_loss_does_not_matter_where_the_optimizer_divides_by_it(setup: Setup) -> None:
    large = setup.but("losses.cross_entropy.weight=1", "losses.kl.weight=30000")
    assert found(large, "loss_balance")["loss_balance"].verdict == "problem"
    for change in ("training.optimizer={name: adamw, lr: 0.001}", "training.clip_norm=1"):
        assert found(large.but(change), "loss_balance")["loss_balance"].verdict == "warning", change


def test_fisher_weights_that_vanish_point_to_the_temperature(setup: Setup) -> None:
    losses = "losses=[{name: cross_entropy}, {name: logit_fisher, temperature: 1}]"
    findings = found(setup.with_teacher(setups.sharpened(1e4)).but(losses), "temperature", "loss_balance")
    assert (findings["temperature"].verdict, findings["loss_balance"].verdict) == ("problem", "warning")


def test_a_broken_part_harms_only_the_checks_that_need_it(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_term.py").write_text(
        "import stillroom as sr\n"
        "class Broken(sr.Loss[sr.LossConfig]):\n"
        "    requires = sr.Requires(teacher=True)\n"
        "    def forward(self, inputs): raise ValueError('no such thing')\n"
    )
    findings = found(setup.but("losses=[{name: cross_entropy}, {name: 'broken_term:Broken'}]"))
    assert findings["loss_finite"].verdict == "problem"
    assert "ValueError: no such thing at broken_term.py:4" in findings["loss_finite"].summary
    skipped = {name for name, finding in findings.items() if finding.verdict == "skipped"}
    softening = {"teacher_label_smoothing", "teacher_confidence", "temperature", "taps"}
    assert skipped == {"loss_balance", "teacher_unused", "disputed_labels", "teacher_channel_order", *softening}


def test_without_a_teacher_its_checks_are_skipped() -> None:
    recipe = parse_recipe({"student": {"name": "mlp"}, "training": {"device": "cpu"}})
    findings = diagnose_recipe(recipe, images=64)
    passed = {finding.check for finding in findings if finding.verdict == "ok"}
    data = {"leak", "duplicates", "imbalance"}
    assert passed == {*data, "teacher_logits", "loss_finite", "learning_rate", "budget", "regularisation"}
    assert {f.summary for f in findings if f.check == "class_order"} == {"The recipe has no teacher."}


def test_nothing_is_changed_by_a_diagnosis(setup: Setup) -> None:
    components = setup.components()
    before = state_hash(components.teachers["teacher"]), state_hash(components.student)
    drawn = torch.get_rng_state()
    diagnose_recipe(setup.recipe, images=64, components=components)
    assert (state_hash(components.teachers["teacher"]), state_hash(components.student)) == before
    assert torch.equal(torch.get_rng_state(), drawn)


def test_cached_outputs_are_compared_with_the_teacher(
    setup: Setup, raw: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    save_weights(raw, tmp_path / "teacher.safetensors")
    cached = setup.but(
        "data.train_limit=80", "cache.enabled=true", f"teacher.weights={tmp_path / 'teacher.safetensors'}"
    )

    def verdict(*overrides: str) -> Finding:
        recipe = cached.but(*overrides).recipe
        (finding,) = diagnose_recipe(recipe, images=32, checks=[c for c in CHECKS if c.id == "stale_cache"])
        return finding

    assert verdict().verdict == "ok"
    prepare(cached.recipe)
    assert verdict().summary.startswith("The cached outputs for 4 of 4 views ")
    for path in (tmp_path / "cache").rglob("*.bin"):
        content = bytearray(path.read_bytes())
        content[10] ^= 255
        path.write_bytes(content)
    finding = verdict()
    assert finding.verdict == "problem"
    assert finding.remedy is not None
    assert verdict(*finding.remedy.arguments()).verdict == "ok"


def test_a_teacher_of_other_classes_is_a_finding_and_no_error(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(ModelConfig(name="resnet8", options={"width": 2}), num_classes=7, in_channels=1, image_size=8)
    save_weights(model, tmp_path / "seven.safetensors")
    content: dict[str, Any] = copy.deepcopy(BASE)
    content["teacher"] |= {"weights": str(tmp_path / "seven.safetensors"), "options": {"width": 2}}
    findings = {f.check: f for f in diagnose_recipe(parse_recipe(content), images=64)}
    assert findings["class_order"].verdict == "problem"
    assert "7 logits for 10 classes" in findings["class_order"].summary
    assert findings["temperature"].summary == "The teacher gives 7 logits for 10 classes; see class_order."


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("teacher.weights=null", "teacher.weights"),
        ("teacher.weights=none.pt", "teacher.weights"),
        ("teacher.options.width=3", "teacher.weights"),
        ("student.name=resnt8", "student.name"),
        ("data.augmentation.cutout=9", "data.augmentation.cutout"),
        ("cache={enabled: true}", "cache.enabled"),
        ("teacher=null", "teacher"),
        ("losses=[{name: feature_mse, taps: [nowhere]}]", "losses.feature_mse.taps"),
    ],
)
def test_what_a_run_refuses_is_refused(raw: nn.Module, tmp_path: Path, override: str, field: str) -> None:
    save_weights(raw, tmp_path / "teacher.safetensors")
    data = setups.digits()
    content = {**BASE, "teacher": {**BASE["teacher"], "options": {"width": 4}}}
    setup = Setup(content, raw, data).but(f"teacher.weights={tmp_path / 'teacher.safetensors'}")
    if override.startswith("cache"):
        setup = setup.but("data.augmentation.views=0")
    with pytest.raises(BadInput) as error:
        open_context(setup.but(override).recipe, images=32)
    assert error.value.field == field


def test_taps_at_matching_depths_are_ok(setup: Setup) -> None:
    good = setup.but("losses=[{name: cross_entropy}, {name: feature_mse, taps: [layer2]}]")
    assert found(good, "taps")["taps"].verdict == "ok"


def test_recalibrating_leaves_weights_and_modes(raw: nn.Module) -> None:
    model = copy.deepcopy(raw)
    recalibrate(model, torch.randn(32, 1, 8, 8))
    assert has_running_statistics(model)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), raw.parameters(), strict=True))
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    assert native_size(setups.FourTimesLarger(raw)) == 32


def test_evidence_can_be_written_as_json() -> None:
    assert rounded({"a": torch.tensor(1 / 3), "b": (float("nan"), True, None)}) == {
        "a": 0.3333,
        "b": [None, True, None],
    }


def test_a_weight_counts_by_the_learning_rate_of_its_steps(setup: Setup) -> None:
    """A teacher that comes when the rate is nearly 0 moves nothing, however large its weight is then."""
    for late in ("{start: 0, end: 0.9, shape: step}", "{start: 0, end: 0.9, begin: 0.99}"):
        finding = found(setup.but("losses.cross_entropy.weight=1", f"losses.kl.weight={late}"), "loss_balance")
        assert finding["loss_balance"].verdict == "problem"
    growing = setup.but("losses.cross_entropy.weight=0.1", "losses.kl.weight={start: 0, end: 0.9}")
    assert found(growing, "loss_balance")["loss_balance"].verdict == "ok"


def test_most_units_dropped_is_a_problem(setup: Setup) -> None:
    student = "student={{name: mlp, options: {{hidden: [32], dropout: {}}}}}"
    for dropout, verdict in ((0.2, "ok"), (0.5, "ok"), (0.6, "warning"), (0.9, "problem")):
        finding = found(setup.but(student.format(dropout)), "regularisation")["regularisation"]
        assert finding.verdict == verdict
    assert finding.remedy is not None
    assert finding.remedy.overrides == {"student.options.dropout": 0.1}


def test_cached_test_logits_are_compared_with_the_teacher_too(
    setup: Setup, raw: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    save_weights(raw, tmp_path / "teacher.safetensors")
    cached = setup.but(
        "data.train_limit=80", "cache.enabled=true", f"teacher.weights={tmp_path / 'teacher.safetensors'}"
    )
    checks = [check for check in CHECKS if check.id == "stale_cache"]
    prepare(cached.recipe)
    before = {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*.bin")}
    for path, content in before.items():
        # Of the test split alone: ten numbers of float32 for each of 500 images.
        if 20_000 <= len(content) < 22_000:
            path.write_bytes(bytes([content[0] ^ 255]) + content[1:])
    (finding,) = diagnose_recipe(cached.recipe, images=32, checks=checks)
    assert finding.verdict == "problem"

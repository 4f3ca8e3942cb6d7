"""The depth × fidelity map: its statistics by hand, its members by hand, and what it says of small runs."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr
from torch import Tensor, nn

import stillroom.run.fidelity.measure as measuring
from stillroom.cli import run
from stillroom.files import CHECKSUMS
from stillroom.losses import functional
from stillroom.losses.connectors import MapConnector, connector, from_rows, to_rows
from stillroom.models.tail import tail_of
from stillroom.models.taps import Kind, Tap
from stillroom.observer import Observer
from stillroom.recipe import apply_override, parse_recipe
from stillroom.run.fidelity.mapping import map_fidelity
from stillroom.run.fidelity.measure import LeastSquares, at_logits, at_tap
from stillroom.run.fidelity.statistics import predictions, resampled, weighted_ranks
from stillroom.run.run import execute
from stillroom.schema.fidelity import WEIGHINGS
from stillroom.teachers.fisher import head_fisher, tail_fisher
from stillroom.teachers.tails import TeacherTail


class Watching(Observer):
    """Keeps what is said and how far it went."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.phases: list[tuple[str, int, int]] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    def phase(self, what: str, done: int, total: int) -> None:
        self.phases.append((what, done, total))


# Statistics


def test_weighted_ranks_give_spearmans_correlation_of_values_with_ties_that_are_there_several_times() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 8, 40).astype(float), rng.normal(size=40)
    counts = resampled(40, 3, seed=1)
    found = (weighted_ranks(x, counts) * weighted_ranks(y, counts)).sum(1)
    for row, value in zip(counts.astype(int), found, strict=True):
        expected = spearmanr(np.repeat(x, row), np.repeat(y, row)).statistic
        assert value == pytest.approx(expected, abs=1e-12)


def test_checkpoints_alone_can_carry_the_pooled_correlation_but_not_that_within() -> None:
    """Both fall from one checkpoint to the next, and within each they run against one another."""
    truth = np.array([[11.0, 12.0, 13.0, 14.0], [1.0, 2.0, 3.0, 4.0]])
    value = np.array([[14.0, 13.0, 12.0, 11.0], [4.0, 3.0, 2.0, 1.0]])
    ((found,),) = predictions(value[None], truth[None], resampled(4, 20, seed=0))
    assert found.by_checkpoint == (-1.0, -1.0)
    assert found.within.value == -1.0
    assert found.pooled.value == pytest.approx(spearmanr(value.ravel(), truth.ravel()).statistic)
    assert found.pooled.value > 0.5


def test_the_ratio_is_the_median_over_images_and_checkpoints() -> None:
    truth = np.array([[1.0, 2.0, 4.0, 0.0]])
    ((found,),) = predictions(np.array([[[2.0, 2.0, 2.0, 9.0]]]), truth[None], resampled(4, 5, seed=0))
    assert found.ratio == 1.0


def test_what_is_constant_has_no_correlation() -> None:
    truth = np.arange(8.0).reshape(2, 4)
    value = np.stack([np.ones((2, 4)), np.array([[1.0, 1, 1, 1], [1, 2, 3, 4]])])
    constant, half = predictions(value, truth[None], resampled(4, 5, seed=0))[0]
    assert constant.pooled.value is None
    assert constant.within.value is None
    assert half.by_checkpoint == (None, 1.0)
    assert half.within.value == 1.0, "the mean over those that have one"


def test_the_interval_is_of_images_and_narrows_with_them() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for images in (30, 300):
        truth = rng.normal(size=(2, images))
        ((found,),) = predictions((truth + rng.normal(size=truth.shape))[None], truth[None], resampled(images, 200, 0))
        assert found.pooled.low is not None
        assert found.pooled.high is not None
        assert found.pooled.value is not None
        assert found.pooled.low < found.pooled.value < found.pooled.high
        widths.append(found.pooled.high - found.pooled.low)
    assert widths[1] < widths[0] / 2


# Members


def linear_tail(weight: Tensor) -> TeacherTail:
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    head.weight.data.copy_(weight)
    return TeacherTail(tail_of(nn.Sequential(nn.ReLU(), head), "features", torch.randn(4, weight.shape[1])))


def test_members_before_a_linear_layer_as_worked_out_by_hand() -> None:
    """Two even classes and the rows (1, 1) and (−1, −1): F = ¼(1, −1; −1, 1), so that Jᵀ F J = (1, 1; 1, 1)."""
    weight = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    teacher, gap = torch.zeros(2, 2), torch.tensor([[1.0, 2.0], [1.0, -1.0]])
    logits = torch.zeros(2, 2)
    w = head_fisher(weight, logits, temperature=2.0)
    found = at_tap(teacher + gap, teacher, w, linear_tail(weight), logits, temperature=2.0)
    identity, diagonal, full, exact = found.T[0].tolist()
    assert identity == pytest.approx(2.5)
    assert diagonal == pytest.approx(2.5), "½(1·1 + 1·4)"
    assert full == pytest.approx(4.5), "½(1 + 2)²: the diagonal leaves out that both move the logits alike"
    assert exact == pytest.approx(4 * math.log(math.cosh(1.5)), rel=1e-6), "τ²·log cosh(3/τ)"
    assert found.T[1].tolist() == pytest.approx([1.0, 1.0, 0.0, 0.0], abs=1e-12), "what cancels out is no gap at all"


def test_members_are_the_losses_own_functions_of_each_image_alone() -> None:
    torch.manual_seed(0)
    tail = linear_tail(torch.randn(5, 3))
    teacher, student = torch.randn(6, 3), torch.randn(6, 3)
    z_t, z_s = tail(teacher), torch.randn(6, 5)
    w = tail_fisher(tail, teacher, temperature=3.0)
    p = torch.softmax(z_t / 3, 1)
    found = at_tap(student, teacher, w, tail, z_t, temperature=3.0).mean(1)
    expected = [
        functional.feature_mse(student, teacher),
        functional.feature_fisher(student, teacher, w),
        functional.half_variance(tail.jvp(teacher, student - teacher), p),
        functional.kl(tail(student), z_t, temperature=3.0),
    ]
    torch.testing.assert_close(found.float(), torch.stack(expected), rtol=1e-4, atol=1e-6)
    found = at_logits(z_s, z_t, temperature=3.0).mean(1)
    expected = [
        functional.logit_mse(z_s, z_t),
        functional.logit_fisher(z_s, z_t, temperature=3.0, diagonal=True),
        functional.logit_fisher(z_s, z_t, temperature=3.0),
        functional.kl(z_s, z_t, temperature=3.0),
    ]
    torch.testing.assert_close(found.float(), torch.stack(expected), rtol=1e-4, atol=1e-6)


def test_as_the_gap_shrinks_the_full_fisher_becomes_exact_and_the_diagonal_does_not() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 6, 3), nn.Softplus(), nn.Flatten(), nn.Linear(96, 4)
    ).eval()
    images = torch.randn(5, 1, 8, 8)
    tail = TeacherTail(tail_of(net, "1", images))
    h, z = net[:2](images).detach(), net(images).detach()
    w, gap = tail_fisher(tail, h, temperature=1.0), torch.randn_like(h)
    ratios = []
    for size in (1.0, 1e-2):
        _, diagonal, full, exact = at_tap(h + size * gap, h, w, tail, z, temperature=1.0)
        ratios.append([(full / exact - 1).abs().max().item(), (diagonal / exact - 1).abs().max().item()])
    assert ratios[1][0] < 0.05 < ratios[0][0]
    assert ratios[1][1] > 0.05


# The map between features


def tap(kind: Kind, *shape: int) -> Tap:
    return Tap(f"a_{kind}", shape, 0, 0.5, kind)


PAIRS = [
    (tap("map", 3, 4, 4), tap("vector", 7)),
    (tap("token", 5, 3), tap("vector", 7, 1, 1)),
    (tap("map", 3, 8, 2), tap("map", 6, 4, 5)),
    (tap("map", 4, 4, 3), tap("map", 8, 8, 6)),
    (tap("token", 17, 3), tap("map", 6, 8, 8)),
    (tap("map", 3, 8, 8), tap("token", 17, 6)),
]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0].shape}-{pair[1].shape}")
def test_places_are_brought_together_as_connectors_do(pair: tuple[Tap, Tap]) -> None:
    student, teacher = pair
    torch.manual_seed(0)
    made = connector(student, teacher)
    assert not isinstance(made, nn.Identity)
    learned = made.conv if isinstance(made, MapConnector) else made.linear
    if isinstance(made, MapConnector):
        made.norm = nn.Identity()
    weight = learned.weight.detach().flatten(1)
    features = torch.randn(2, *student.shape)
    rows = made.linear_input(features) @ weight.T + (0 if learned.bias is None else learned.bias)
    torch.testing.assert_close(from_rows(rows, teacher), made(features), rtol=1e-4, atol=1e-5)
    wanted = torch.randn(2, *teacher.shape)
    torch.testing.assert_close(from_rows(to_rows(wanted, teacher), teacher), wanted)


def test_the_map_is_the_least_squares_one_whatever_the_parts_it_was_shown_in() -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 3).double() + 5
    y = x @ torch.randn(3, 2).double() - 7 + 0.1 * torch.randn(200, 2)
    moments = LeastSquares()
    for part in (slice(0, 50), slice(50, 200)):
        moments.add(x[part], y[part])
    found = moments.solve(ridge=0.0)
    expected = torch.linalg.lstsq(torch.cat([x, torch.ones(200, 1)], 1), y).solution
    torch.testing.assert_close(torch.cat([found.weight, found.bias[None]]), expected)
    held = moments.solve(ridge=1e6)
    assert held.weight.abs().max() < 1e-4
    torch.testing.assert_close(held(x)[0].float(), y.mean(0).float(), rtol=1e-3, atol=1e-3)


def test_a_student_whose_features_are_constant_is_mapped_to_the_teachers_mean() -> None:
    moments = LeastSquares()
    moments.add(torch.ones(4, 2), torch.arange(4.0)[:, None])
    assert moments.solve()(torch.ones(1, 2)).item() == pytest.approx(1.5)


# Runs


def made(out: Path, weights: Path, *overrides: str) -> Path:
    """A finished run, taught by a ResNet."""
    content: dict[str, Any] = {
        "data": {"batch_size": 32},
        "teacher": {"name": "resnet8", "options": {"width": 8}, "weights": str(weights)},
        "losses": [{"name": "kl"}],
        "training": {"precision": "float32", "device": "cpu", "evaluate_every": 2},
    }
    for override in overrides:
        apply_override(content, override)
    execute(parse_recipe(content), out, latency=False)
    return out


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, teacher_weights: Path) -> Path:
    """A run of a perceptron that kept its beginning, its middle and its end; tests read it."""
    return made(
        tmp_path_factory.mktemp("fidelity") / "run",
        teacher_weights,
        *("data.train_limit=96", "data.test_limit=40", "training.epochs=2", "training.checkpoints=[0,1,2]"),
        "student={name: mlp, options: {hidden: [6]}}",
    )


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory, teacher_weights: Path) -> Path:
    """A run of a ResNet that kept nothing but its end."""
    return made(
        tmp_path_factory.mktemp("fidelity") / "maps",
        teacher_weights,
        *("data.train_limit=32", "data.test_limit=16", "training.epochs=1"),
        "student={name: resnet8, options: {width: 2}}",
    )


@pytest.fixture(scope="module")
def watching() -> Watching:
    return Watching()


@pytest.fixture(scope="module")
def mapped(finished: Path, watching: Watching) -> dict[str, Any]:
    return map_fidelity(finished, images=512, observer=watching).as_dict()


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_what_is_written_is_what_is_reported(finished: Path, mapped: dict[str, Any]) -> None:
    assert json.loads((finished / "fidelity.json").read_text()) == mapped
    assert (mapped["schema"], mapped["images"], mapped["fitted_on"]) == (1, 40, 80)
    assert [each["epoch"] for each in mapped["checkpoints"]] == [0.0, 1.0, 2.0], "the last is the trained student"
    names = [each["teacher"] for each in mapped["taps"]]
    assert names == ["features", "logits"], "a vector stands opposite no map"
    for each in mapped["taps"]:
        assert [member["weighing"] for member in each["members"]] == list(WEIGHINGS)
        assert len(each["divergence"]) == 3


def test_the_exact_member_is_the_divergence_and_kl_at_the_logits(finished: Path, mapped: dict[str, Any]) -> None:
    exact = [each["members"][-1] for each in mapped["taps"]]
    assert all(member["gap"]["pooled"]["value"] == member["gap"]["ratio"] == 1.0 for member in exact)
    assert exact[-1]["loss"] == "kl"
    assert exact[-1]["student"]["pooled"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    answers = load_file(finished / "predictions.safetensors")
    kl = functional.kl(answers["student_logits"].double(), answers["teacher_logits"].double(), temperature=4.0)
    assert mapped["checkpoints"][-1]["divergence"] == pytest.approx(kl.item(), rel=1e-4)
    assert mapped["taps"][-1]["divergence"] == [each["divergence"] for each in mapped["checkpoints"]]


def test_it_tells_how_far_it_is(mapped: dict[str, Any], watching: Watching) -> None:
    assert [each for each in watching.phases if each[1] == each[2]] == [
        ("fitting connectors", 80, 80),
        ("evaluating teacher and student", 40, 40),
    ]
    assert watching.said == ["data digits: 96 training and 40 test images, 10 classes"]


def test_maps_are_followed_from_every_depth(maps: Path) -> None:
    """Between two ResNets, whose taps have no linear head behind them but the last."""
    observer = Watching()
    reported = map_fidelity(maps, images=16, temperature=2.0, observer=observer).as_dict()
    assert reported["temperature"] == 2.0
    assert "training.checkpoints=" in observer.said[-1]
    assert len(reported["checkpoints"]) == 1
    assert [each["teacher"] for each in reported["taps"]] == ["layer1", "layer2", "layer3", "features", "logits"]
    assert all(each["drawn_classes"] == 0 for each in reported["taps"])
    pooled, within = (reported["taps"][0]["members"][2]["gap"][key] for key in ("pooled", "within"))
    assert pooled == within, "of one checkpoint, both are the same"


def test_of_many_classes_some_are_drawn_where_all_would_take_long(maps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_ALL_OF", 9)
    monkeypatch.setattr(measuring, "_AFFORDABLE", 0.0)
    drawn = [each["drawn_classes"] for each in map_fidelity(maps, images=16).as_dict()["taps"]]
    assert drawn[:2] == [4, 4]
    assert drawn[-2:] == [0, 0], "before the linear layer they are exact, and cost nothing"


# The command


def test_the_command_gives_the_same_bytes_and_makes_the_page_again(
    finished: Path, mapped: dict[str, Any], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "fidelity.json").unlink(missing_ok=True)
    assert run(["fidelity", str(copy), "--images", "40", "--json"]) == 0
    reported = json.loads(capsys.readouterr().out)
    assert {key: reported[key] for key in mapped} == mapped
    assert Path(reported["fidelity"]).read_bytes() == (finished / "fidelity.json").read_bytes()
    assert "Fidelity: how well each loss at each layer ranks images" in Path(reported["report"]).read_text(
        encoding="utf-8"
    )


def edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def altered(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def no_teacher(folder: Path) -> None:
    text = (folder / "recipe.yaml").read_text()
    start, end = text.index("teacher:"), text.index("student:")
    (folder / "recipe.yaml").write_text(f"{text[:start]}teacher: null\n{text[end:]}")


def elsewhere(folder: Path) -> None:
    text = (folder / "recipe.yaml").read_text()
    start, end = text.index("teacher:"), text.index("student:")
    (folder / "recipe.yaml").write_text(f"{text[:start]}teacher: {{name: far, logits: far}}\n{text[end:]}")


BAD: list[tuple[str, Callable[[Path], object], str]] = [
    ("unfinished", lambda folder: (folder / "summary.json").unlink(), "expected a finished run"),
    ("no recipe", lambda folder: (folder / "recipe.yaml").unlink(), "with a readable recipe.yaml"),
    ("no teacher", no_teacher, "teacher: got None; expected a run with a teacher"),
    ("elsewhere", elsewhere, "teacher.logits: got 'far'; expected a teacher that can be run here"),
    (
        "in Python",
        lambda folder: altered(folder / "recipe.yaml", "source: auto", "source: python"),
        "data: got 'python'; expected the images that the run had: `stillroom.load_run(folder, train=…, test=…)`",
    ),
    (
        "other data",
        lambda folder: altered(folder / "recipe.yaml", "train_limit: 96", "train_limit: 95"),
        "expected the images that the run had",
    ),
    (
        "another teacher",
        lambda folder: edited(folder / "summary.json", teachers={"teacher": {"model": "x", "weights_hash": "0" * 64}}),
        "expected the weights that the run's teacher had",
    ),
    (
        "a damaged checkpoint",
        lambda folder: (folder / "checkpoints" / "epoch-0001.safetensors").write_bytes(b"x"),
        "epoch-0001.safetensors",
    ),
    ("no student", lambda folder: (folder / "student.safetensors").unlink(), "student.weights"),
]


@pytest.mark.parametrize(("damage", "reported"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_a_run_that_cannot_be_looked_at(
    copy: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object], reported: str
) -> None:
    damage(copy)
    for name in ("fidelity.json", CHECKSUMS):  # an edit of one's own, not of the disk's
        (copy / name).unlink(missing_ok=True)
    assert run(["fidelity", str(copy)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [line for line in err.splitlines() if not line.startswith("data digits: ")]
    assert line.startswith("error: ")
    assert reported in line
    assert not (copy / "fidelity.json").exists()


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        (["nowhere"], "run: got 'nowhere'; expected a folder that exists"),
        (["nowhere", "--images", "15"], "--images: got 15; expected 16 or more"),
        (["nowhere", "--temperature", "0"], "--temperature: got 0.0; expected a number above 0"),
        (["nowhere", "--temperature", "nan"], "--temperature: got nan"),
        ([], "Missing argument 'RUN'"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: list[str], reported: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fidelity", *arguments]) == 2
    assert reported in capsys.readouterr().err

"""Runs in tasks: what they leave, what the old model keeps, what is refused before the first task."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from run.conftest import Stop, read_lines
from stillroom.cli import run as command
from stillroom.continual.exemplars import ExemplarMemory, herd, penultimate_features
from stillroom.continual.head import grow_head
from stillroom.continual.metrics import accuracy_after_each_task
from stillroom.continual.run import run_tasks
from stillroom.continual.sequence import TaskSequence
from stillroom.continual.summary import compare_with_joint
from stillroom.data.sources import load
from stillroom.errors import BadInput, RunFailed
from stillroom.files import write_json
from stillroom.losses import functional
from stillroom.losses.base import Loss, LossConfig, LossInputs, Requires
from stillroom.losses.cross_entropy import CrossEntropy
from stillroom.losses.kl import KL
from stillroom.losses.logit_mse import LogitMSE
from stillroom.models.config import PreprocessConfig
from stillroom.models.prepared import PreparedModel
from stillroom.models.preprocess import Preprocess
from stillroom.models.weights import read_state, state_hash
from stillroom.observer import Observer
from stillroom.recipe import Recipe, parse_recipe
from stillroom.run.export import load_student
from stillroom.run.run import execute
from stillroom.teachers.output import ModelOutput
from stillroom.train.step import DistillStep, check_not_silent

LABELS = [{"name": "cross_entropy"}]
KEPT = [*LABELS, {"name": "kl", "temperature": 2}]
CONTENT: dict[str, Any] = {
    "data": {"train_limit": 120, "test_limit": 60, "batch_size": 16, "augmentation": {"pad_crop": 1, "views": 2}},
    "student": {"name": "mlp", "options": {"hidden": [12, 8]}},
    "losses": KEPT,
    "incremental": {"tasks": 3, "memory": 20},
    "training": {"steps": 4, "log_every": 2, "evaluate_every": 99, "precision": "float32", "device": "cpu"},
}


def recipe(**changes: Any) -> Recipe:
    """Digits in three tasks of 4, 3 and 3 classes, four steps each."""
    return parse_recipe({**copy.deepcopy(CONTENT), **changes})


def everything(folder: Path) -> dict[str, bytes]:
    """Every file that must not depend on clocks or kills."""
    clocks = {"timing.jsonl", "environment.json", "checksums.sha256"}
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in clocks)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def record_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "incremental.json").read_text())
    return found


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of :func:`recipe`."""
    out = tmp_path_factory.mktemp("tasks") / "run"
    run_tasks(recipe(), out)
    return out


def test_it_leaves_a_run_and_a_run_for_each_task(done: Path) -> None:
    whole = {"recipe.yaml", "metrics.jsonl", "timing.jsonl", "summary.json", "environment.json", "student.safetensors",
             "predictions.safetensors"}  # fmt: skip
    assert {item.name for item in done.iterdir()} == {*whole, "incremental.json", "tasks", "checksums.sha256"}
    for task in ("01", "02", "03"):
        assert whole | {"memory.json"} <= {item.name for item in (done / "tasks" / task).iterdir()}
    summary, record = json.loads((done / "summary.json").read_text()), record_of(done)
    assert (summary["steps"], summary["count"], summary["data"]["train"], summary["teachers"]) == (12, 60, 120, {})
    assert summary["top1"] == 100 * summary["correct"] / 60
    assert {key: summary["incremental"][key] for key in record["metrics"]} == record["metrics"]
    assert [len(row) for row in record["matrix"]] == [1, 2, 3]
    assert [task["accuracy"] for task in record["tasks"]] == accuracy_after_each_task(record["matrix"])
    assert [len(task["classes"]) for task in record["tasks"]] == [4, 3, 3]
    assert sorted(record["class_order"]) == [*range(10)]
    # ⌊20 / 4⌋, ⌊20 / 7⌋ and ⌊20 / 10⌋ of each class; a digit has 64 pixels.
    assert [task["memory"]["exemplars"] for task in record["tasks"]] == [20, 14, 20]
    assert [task["memory"]["bytes"] for task in record["tasks"]] == [1280, 896, 1280]
    assert [task["old"] for task in record["tasks"]] == [0, 20, 14]
    lines = read_lines(done / "metrics.jsonl")
    assert [(line["step"], line["split"], line["task"]) for line in lines][:4] == [
        (2, "train", 1), (4, "train", 1), (4, "test", 1), (6, "train", 2),
    ]  # fmt: skip
    assert lines[-1]["top1"] == summary["top1"]
    assert ["loss/kl" in line for line in lines if line["split"] == "train"] == [False, False, True, True, True, True]


def test_a_row_of_the_matrix_is_what_the_tasks_own_answers_say(done: Path) -> None:
    order = record_of(done)["class_order"]
    found = load_file(done / "tasks" / "02" / "predictions.safetensors")
    answers = found["student_logits"].argmax(1)
    data = load(recipe().data).test
    names = [data.class_names[order[int(label)]] for label in found["labels"]]
    assert names == [data.class_names[int(label)] for label in data.labels if int(label) in order[:7]]
    for task, classes in enumerate(([0, 1, 2, 3], [4, 5, 6])):
        of_task = torch.isin(found["labels"], torch.tensor(classes))
        right = float((answers == found["labels"])[of_task].double().mean())
        assert record_of(done)["matrix"][1][task] == pytest.approx(100 * right)


def test_the_whole_answers_in_the_datas_own_classes(done: Path) -> None:
    data, found = load(recipe().data).test, load_file(done / "predictions.safetensors")
    assert torch.equal(found["labels"], data.labels)
    model, _, _ = load_student(done)
    settled = TaskSequence(recipe(), load(recipe().data)).recipe.student.preprocess
    logits = model(Preprocess(settled)(data.images))  # type: ignore[arg-type]
    assert torch.allclose(logits, found["student_logits"], atol=1e-5)
    last = load_file(done / "tasks" / "03" / "predictions.safetensors")["student_logits"]
    assert torch.equal(last, found["student_logits"][:, record_of(done)["class_order"]])


def test_the_first_task_is_labels_alone_whatever_keeps_the_old(done: Path, tmp_path: Path) -> None:
    floor = run_tasks(recipe(losses=LABELS, incremental={"tasks": 3}), tmp_path / "floor")
    first = [(folder / "tasks" / "01" / "student.safetensors").read_bytes() for folder in (done, tmp_path / "floor")]
    assert first[0] == first[1]
    hashes = json.loads((done / "summary.json").read_text())["hashes"]
    same = {name for name in hashes if hashes[name] == floor.summary["hashes"][name]}
    # The memory is other images to learn from, and no other budget.
    assert same == {"init", "budget", "threads", "views"}


def test_the_old_model_is_untouched_with_the_head_it_had(done: Path, tmp_path: Path) -> None:
    sequence = TaskSequence(recipe(), load(recipe().data))
    before = read_state(done / "tasks" / "01" / "student.safetensors")
    kept = ExemplarMemory(tuple(map(tuple, json.loads((done / "tasks/01/memory.json").read_text())["rows"])))
    components = sequence.components(2, sequence.tasks.task_data(2, kept), before)
    teacher, student = components.teachers["teacher"], components.student
    assert teacher is not None
    was = state_hash(teacher)
    assert teacher.state_dict()["linear.weight"].shape[0] == components.num_teacher_classes == 4
    # The student begins as the teacher, with three more logits.
    assert torch.equal(student.state_dict()["linear.weight"][:4], teacher.state_dict()["linear.weight"])
    finished = execute(sequence.task_recipe(2), tmp_path / "second", components=components, latency=False)
    assert state_hash(teacher) == was == finished.summary["teachers"]["teacher"]["weights_hash"]
    assert not torch.equal(student.state_dict()["linear.weight"][:4], teacher.state_dict()["linear.weight"])
    # And this is the very run that the sequence made.
    again = (tmp_path / "second" / "student.safetensors").read_bytes()
    assert again == (done / "tasks" / "02" / "student.safetensors").read_bytes()


def test_new_logits_are_drawn_by_the_seed_and_the_task(done: Path) -> None:
    data, before = load(recipe().data), read_state(done / "tasks" / "01" / "student.safetensors")

    def rows(seed: int) -> Tensor:
        sequence = TaskSequence(recipe(seed=seed, incremental={"tasks": 3, "class_seed": 0}), data)
        return sequence.components(2, sequence.tasks.task_data(2, ExemplarMemory()), before).student.state_dict()[
            "linear.weight"
        ][4:]

    assert torch.equal(rows(0), rows(0))
    assert not torch.equal(rows(0), rows(1))
    with pytest.raises(BadInput, match="only rows of the logit layer depend on the classes; 'body' does too"):
        grow_head({"body": torch.zeros(2, 4)}, {"body": torch.zeros(2, 5)})


def test_terms_that_read_the_teacher_see_old_classes_alone() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 5))
    images, labels, old = torch.rand(6, 1, 2, 2), torch.arange(6) % 5, torch.randn(6, 3)
    step = DistillStep(net, [CrossEntropy(), KL(temperature=2)], Preprocess(None), num_teacher_classes=3)
    _, values = step(images, labels, torch.arange(6), {"teacher": ModelOutput(old)}, 0.0)
    assert torch.equal(values[0], functional.cross_entropy(net(images), labels))
    assert torch.equal(values[1], functional.kl(net(images)[:, :3], old, temperature=2))
    gradient = torch.autograd.grad(values[1], net[1].weight)[0]
    assert gradient[:3].any()
    assert not gradient[3:].any()


def test_a_student_that_begins_as_its_teacher_is_looked_at_one_step_later() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    images, labels = torch.rand(6, 1, 2, 2), torch.arange(6) % 3
    step = DistillStep(net, [CrossEntropy(), LogitMSE()], Preprocess(None), num_teacher_classes=2)
    teachers = {"teacher": ModelOutput(net(images)[:, :2].detach())}
    _, values = step(images, labels, torch.arange(6), teachers, 0.0)
    check_not_silent(step, values, 0)
    with pytest.raises(RunFailed, match="loss 'logit_mse' gives the student no gradient at the second step"):
        check_not_silent(step, values, 1)


KEEPERS = [
    {"name": "kl", "target": {"name": "top_k", "k": 2}},
    {"name": "logit_mse"},
    {"name": "logit_fisher"},
    {"name": "feature_mse", "connector": "identity"},
    {"name": "feature_fisher", "connector": "identity", "scale": "mse"},
    {"name": "feature_fisher", "connector": "identity", "taps": "all"},
    {"name": "feature_full_fisher", "connector": "identity"},
    {"name": "block_logit", "alpha": 0, "connector": "identity"},
]


@pytest.mark.parametrize("keeper", KEEPERS, ids=lambda keeper: "-".join(map(str, keeper.values()))[:30])
def test_any_term_that_goes_by_classes_keeps_the_old(keeper: dict[str, Any], tmp_path: Path) -> None:
    made = recipe(losses=[*LABELS, keeper], incremental={"tasks": 2}, data={**CONTENT["data"], "train_limit": 60})
    run_tasks(made, tmp_path / "run", latency=False)
    losses = [line[f"loss/{keeper['name']}"] for line in read_lines(tmp_path / "run/tasks/02/metrics.jsonl")[:2]]
    # It begins as its teacher, and from then on differs.
    assert 0 <= losses[0] < 10
    assert losses[1] > 0


def test_labels_may_be_over_the_new_classes_alone(done: Path) -> None:
    sequence = TaskSequence(recipe(losses=None, incremental={"tasks": 3, "preset": "lwf"}), load(recipe().data))
    before = read_state(done / "tasks" / "01" / "student.safetensors")
    label_term, _ = sequence.components(2, sequence.tasks.task_data(2, ExemplarMemory()), before).losses
    logits, labels = torch.randn(5, 7, requires_grad=True), torch.tensor([4, 6, 5, 4, 6])

    def ask(logits: Tensor, labels: Tensor) -> Tensor:
        return label_term(LossInputs(ModelOutput(logits), None, labels, torch.arange(len(labels)), 0.0))

    value = ask(logits, labels)
    assert torch.equal(value, functional.cross_entropy(logits[:, 4:], labels - 4))
    assert not torch.autograd.grad(value, logits, retain_graph=True)[0][:, :4].any()
    # Exemplars of old classes among them add nothing.
    both = ask(torch.cat([logits, torch.randn(5, 7)]), torch.cat([labels, torch.tensor([0, 1, 2, 3, 0])]))
    assert both.item() == pytest.approx(value.item() / 2, rel=1e-6)
    (first_term,) = sequence.components(1, sequence.tasks.task_data(1, ExemplarMemory()), None).losses
    assert first_term.config.first_class is None


def test_weights_are_aligned_before_anything_reads_the_student(tmp_path: Path) -> None:
    settings = {"tasks": 3, "preset": "wa", "memory": 20}
    run = run_tasks(recipe(losses=None, incremental=settings), tmp_path / "run", latency=False).path
    found = [read_state(run / f"tasks/{task}/student.safetensors")["linear.weight"] for task in ("01", "02", "03")]
    # Task 3 begins with the aligned student of task 2, which is its teacher, too.
    data = load(recipe().data)
    sequence = TaskSequence(recipe(losses=None, incremental=settings), data)
    parts = sequence.components(3, sequence.tasks.task_data(3, ExemplarMemory()), sequence.read_student(run, 2))
    aligned = parts.teachers["teacher"].state_dict()["linear.weight"]  # type: ignore[union-attr]
    assert torch.equal(aligned[:4], found[1][:4])
    norms = aligned.norm(dim=1)
    assert norms[4:].mean().item() == pytest.approx(norms[:4].mean().item(), rel=1e-5)
    assert not torch.allclose(found[1][4:].norm(dim=1).mean(), found[1][:4].norm(dim=1).mean())
    assert torch.allclose(torch.nn.functional.cosine_similarity(aligned, found[1]), torch.ones(7))
    # λ is 4 of 7 old classes, then 7 of 10.
    weights = [[term.weight for term in sequence.task_recipe(task).losses] for task in (1, 2, 3)]
    assert weights == [[1.0], pytest.approx([3 / 7, 4 / 7]), pytest.approx([0.3, 0.7])]
    # What is scored is what is left behind.
    logits = load_student(run)[0](Preprocess(sequence.recipe.student.preprocess)(data.test.images))  # type: ignore[arg-type]
    predictions = load_file(run / "predictions.safetensors")["student_logits"]
    assert torch.allclose(logits, predictions, atol=1e-5)
    right = 100 * (logits.argmax(1) == data.test.labels).double().mean().item()
    assert json.loads((run / "summary.json").read_text())["top1"] == pytest.approx(right)


def test_joint_training_has_the_steps_of_a_sequence_without_a_memory(done: Path) -> None:
    by_epochs = {**CONTENT["training"], "epochs": 2, "steps": None}
    data = load(recipe().data)
    finetune = TaskSequence(recipe(losses=LABELS, training=by_epochs, incremental={"tasks": 3}), data)
    joint = TaskSequence(recipe(losses=LABELS, training=by_epochs, incremental={"tasks": 3, "joint": True}), data)
    assert joint.total_steps == finetune.total_steps > 0
    steps = [joint.task_recipe(task).training.steps for task in (1, 2, 3)]
    assert steps == [finetune.task_steps(task)[0] for task in (1, 2, 3)]


def test_answers_may_be_kept(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"incremental": {"tasks": 2}}
    live = run_tasks(recipe(**settings), tmp_path / "live", latency=False).path
    kept = recipe(**settings, cache={"enabled": True, "dtype": "float32"})
    run_tasks(kept, tmp_path / "kept", latency=False)
    students = [(folder / "student.safetensors").read_bytes() for folder in (live, tmp_path / "kept")]
    assert students[0] == students[1]
    events = read_lines(tmp_path / "kept" / "tasks" / "02" / "timing.jsonl")
    assert sum(event["views"] for event in events if event["event"] == "cache") == 2


class ByIndex(Loss[LossConfig]):
    """Goes by which sample it is."""

    requires = Requires(teacher=True, index=True)

    def forward(self, inputs: LossInputs) -> Tensor:
        return inputs.student.logits.sum()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": [{"name": "kl"}]}, "losses: got ['kl']; expected a term that reads labels alone"),
        ({"losses": [*LABELS, {"name": "kl", "target": "true_class"}]}, "losses.kl: got 'kl'; expected a term"),
        ({"losses": [*LABELS, {"name": "block_logit"}]}, "(alpha: 0 leaves the labels to another loss)"),
        (
            {"losses": [*LABELS, {"name": "continual.test_run:ByIndex", "options": {"name": "mine"}}]},
            "expected a term that does not go by a sample's index: in each task it means another image",
        ),
        ({"losses": [*LABELS, {"name": "kl", "target": {"name": "top_k", "k": 7}}]}, "expected 4 or less"),
        ({"losses": [*LABELS, {"name": "feature_mse", "taps": ["layer9"]}]}, "layer9"),
        ({"incremental": {"tasks": 10}}, "incremental.tasks: got 10; expected fewer tasks than the 10 classes"),
        ({"incremental": {"tasks": 3, "task": 2}}, "incremental.task: got 2; expected none"),
        ({"incremental": {"tasks": 3, "memory": 9}}, "incremental.memory: got 9; expected 0, or 10 or more"),
        ({"data": {"train_limit": 120, "test_limit": 5}}, "data.test_split: got 'digits'; expected test images of"),
    ],
)  # fmt: skip
def test_refused_before_the_first_task(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        run_tasks(recipe(**changes), tmp_path / "run")
    assert message in str(caught.value)
    # The corrected command finds a free folder.
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


OWN_PREPROCESS = """
from torch import nn
class Net(nn.Sequential):
    pretrained_cfg = {"mean": (0.25,), "std": (0.125,)}
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))
"""


def test_a_student_with_a_preprocess_of_its_own_keeps_it_over_the_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_preprocess.py").write_text(OWN_PREPROCESS)
    monkeypatch.syspath_prepend(str(tmp_path))
    whole = recipe(student={"name": "own_preprocess:Net"})
    sequence = TaskSequence(whole, load(whole.data))
    for settled in (sequence.recipe, sequence.task_recipe(2)):
        found = settled.student.preprocess
        assert isinstance(found, PreprocessConfig)
        assert (found.mean, found.std) == ((0.25,), (0.125,))
    teacher = sequence.task_recipe(2).teacher
    assert teacher is not None
    assert teacher.preprocess == sequence.recipe.student.preprocess


def test_other_commands_send_a_recipe_in_tasks_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe(losses=LABELS).to_yaml())
    assert command(["train", str(path), "--out", str(tmp_path / "run")]) == 2
    assert "`stillroom incremental` does a recipe whose classes come in tasks" in capsys.readouterr().err


class StopAt(Observer):
    """Crashes at a step of all tasks, or when a task is over."""

    def __init__(self, step: int = -1, note: str = "nothing") -> None:
        self._step, self._note = step, note

    def stepped(self, step: int) -> None:
        if step == self._step:
            raise Stop

    def note(self, text: str) -> None:
        if text.startswith(self._note):
            raise Stop


@pytest.mark.parametrize(
    "changes",
    [{}, {"losses": None, "incremental": {"tasks": 3, "preset": "icarl", "memory": 20}}],
    ids=["logits", "nearest-mean"],
)
def test_a_stopped_sequence_ends_as_one_never_stopped(changes: dict[str, Any], done: Path, tmp_path: Path) -> None:
    made, out = recipe(**changes, training={**CONTENT["training"], "save_seconds": 0}), tmp_path / "stopped"
    whole = run_tasks(made, tmp_path / "whole").path
    for stop in (StopAt(step=6), StopAt(note="task 2 of 3"), StopAt(step=11)):
        with pytest.raises(Stop):
            run_tasks(made, out, resume=True, observer=stop)
    run_tasks(made, out, resume=True)
    assert everything(out) == everything(whole)
    assert run_tasks(made, out, resume=True).summary == json.loads((whole / "summary.json").read_text())


def test_a_resumed_sequence_is_the_one_that_was_begun(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Stop):
        run_tasks(recipe(), out, observer=StopAt(note="task 1 of 3"))
    with pytest.raises(BadInput, match="a new or empty folder"):
        run_tasks(recipe(), out)
    for other, message in ((recipe(seed=1), "seed is 1, was 0"), (_with(class_seed=3), "incremental.class_seed is 3")):
        with pytest.raises(BadInput, match=message):
            run_tasks(other, out, resume=True)
    record = record_of(out)
    swapped = {**record, "class_order": record["class_order"][::-1]}
    write_json(out / "incremental.json", swapped, checksum=True)
    with pytest.raises(BadInput, match=r"--resume: .* expected the class order that it was started with"):
        run_tasks(recipe(), out, resume=True)
    write_json(out / "incremental.json", record, checksum=True)
    rows = json.loads((out / "tasks" / "01" / "memory.json").read_text())
    for damage in ({**rows, "rows": rows["rows"][1:]}, {**rows, "rows": [[999]] * 4}, {}):
        write_json(out / "tasks" / "01" / "memory.json", damage, checksum=True)
        with pytest.raises(BadInput, match="exemplars of every class seen"):
            run_tasks(recipe(), out, resume=True)


def _with(**options: Any) -> Recipe:
    return recipe(incremental={**CONTENT["incremental"], **options})


def test_exemplars_are_herded_by_the_student_of_their_task(done: Path) -> None:
    sequence = TaskSequence(recipe(), load(recipe().data))
    rows = json.loads((done / "tasks" / "02" / "memory.json").read_text())["rows"]
    first = json.loads((done / "tasks" / "01" / "memory.json").read_text())["rows"]
    assert [len(each) for each in rows] == [2] * 7
    assert rows[:4] == [each[:2] for each in first]
    model = sequence.empty_student(2)
    model.load_state_dict(read_state(done / "tasks" / "02" / "student.safetensors"))
    images = sequence.tasks.class_rows(5)
    prepared = PreparedModel(model, sequence.recipe.student.preprocess, True, "mlp")  # type: ignore[arg-type]
    features = penultimate_features(prepared, sequence.tasks.data.train.images[torch.from_numpy(images)])
    assert rows[5] == images[herd(features, 2).numpy()].tolist()


def test_random_exemplars_are_drawn_by_the_seed(tmp_path: Path) -> None:
    made = _with(selection="random")
    run_tasks(made, tmp_path / "run", latency=False)
    rows = json.loads((tmp_path / "run" / "tasks" / "03" / "memory.json").read_text())["rows"]
    labels = load(made.data).train.labels
    order = record_of(tmp_path / "run")["class_order"]
    assert [np.unique(labels[each]).tolist() for each in rows] == [[number] for number in order]


def test_omega_compares_with_joint_training(done: Path, tmp_path: Path) -> None:
    joint = run_tasks(recipe(losses=None, incremental={"tasks": 3, "preset": "joint"}), tmp_path / "joint").path
    assert record_of(joint)["tasks"][0]["old"] == 0
    assert sum(task["new"] for task in record_of(joint)["tasks"]) == 120
    assert record_of(joint)["tasks"][2]["train"] == 120
    run = shutil.copytree(done, tmp_path / "run")
    comparison = compare_with_joint(run, joint)
    mine, theirs = ([task["accuracy"] for task in record_of(folder)["tasks"]] for folder in (run, joint))
    assert comparison.omega == pytest.approx(np.mean(np.array(mine) / np.array(theirs)))
    assert compare_with_joint(joint, joint).omega == 1
    with pytest.raises(BadInput, match="a run of joint training"):
        compare_with_joint(joint, run)
    other = run_tasks(recipe(seed=1, losses=None, incremental={"tasks": 3, "preset": "joint"}), tmp_path / "other").path
    with pytest.raises(BadInput, match="the same classes in the same order"):
        compare_with_joint(run, other)
    with pytest.raises(BadInput, match="the folder of a finished run in tasks"):
        compare_with_joint(run, tmp_path)


def test_one_bar_over_all_tasks(tmp_path: Path) -> None:
    class Bar(Observer):
        def __init__(self) -> None:
            self.begun: list[tuple[int, int]] = []
            self.steps: list[int] = []
            self.ended = 0

        def run_started(self, title: str, total_steps: int, done: int) -> None:
            self.begun.append((total_steps, done))

        def stepped(self, step: int) -> None:
            self.steps.append(step)

        def run_ended(self) -> None:
            self.ended += 1

    bar = Bar()
    run_tasks(recipe(), tmp_path / "run", observer=bar, latency=False)
    assert bar.begun == [(12, 0)]
    assert sorted(set(bar.steps)) == [*range(1, 13)]
    assert bar.ended == 1

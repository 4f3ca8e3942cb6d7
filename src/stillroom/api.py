"""The commands in Python: the same runs, folders and reports, of your own modules and datasets, too."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from stillroom.cli.live import LiveStudy
from stillroom.cli.terminal import ProgressBar
from stillroom.data.dataset import from_dataset, from_images
from stillroom.data.images import DataPair, ImageSet, LazyImages, add_unlabelled, make_pair
from stillroom.data.sources import load_split, parse_data_argument
from stillroom.diagnose.diagnosis import Diagnosis
from stillroom.diagnose.recipe import diagnose_recipe, quick_line
from stillroom.diagnose.run import diagnose_run, in_python
from stillroom.diagnose.study import diagnose_study
from stillroom.diagnose.verify import verify_remedies
from stillroom.errors import BadInput, nearest
from stillroom.explain.explanation import explain as explain_runs
from stillroom.explain.runs import is_of_texts, runs_in
from stillroom.explain.words import explain_words
from stillroom.losses.base import Loss
from stillroom.losses.from_python import as_losses
from stillroom.losses.registry import default_losses, describe
from stillroom.models.config import ModelConfig
from stillroom.models.modes import copy_model, device_of
from stillroom.models.prepared import PreparedModel, predict, with_layout
from stillroom.models.preprocess import Preprocess, preprocess_choices
from stillroom.models.weights import state_hash
from stillroom.observer import Observer
from stillroom.recipe import Recipe, load_recipe, parse_recipe
from stillroom.report.explain.page import write_explanation
from stillroom.report.explain.words import write_word_explanation
from stillroom.report.run.page import write_report
from stillroom.report.study.page import rewrite_run_page, write_run_pages, write_study_report
from stillroom.run.components import RunComponents, RunObjects
from stillroom.run.export import evaluate_model, export_run, load_student
from stillroom.run.fidelity.mapping import map_fidelity
from stillroom.run.hub import push_run
from stillroom.run.latency import measure_latency
from stillroom.run.records import load_run_recipe, output_folder
from stillroom.run.run import execute
from stillroom.run.trackers import TrackedRun
from stillroom.schema.base import read_json
from stillroom.schema.diagnosis import Kind, kind_of
from stillroom.schema.explanation import Explanation, WordExplanation
from stillroom.schema.fidelity import Fidelity
from stillroom.schema.run import SUMMARY, RunSummary
from stillroom.study.compare import compare as run_study
from stillroom.study.config import load_study, parse_study
from stillroom.study.dissect import dissecting, write_dissection
from stillroom.study.engine import engine_maker
from stillroom.study.plan import StudyFolder
from stillroom.study.progress import StudyObserver
from stillroom.tasks import Task
from stillroom.teachers.config import TeacherConfig
from stillroom.train.device import exact_float32
from stillroom.train.optimisation import OwnOptimisation, Parameters
from stillroom.train.recorders import StepHook, StepInfo, as_hooks

ExportForm = Literal["safetensors", "onnx", "onnx-int8", "pt2"]


@dataclass(frozen=True)
class DistillResult:
    """What :func:`distill` returns: a finished run.

    Attributes:
        path: its folder.
        summary: the result: ``top1``, ``agreement``, ``teachers`` and what else ``summary.json`` holds.
        prepared: the trained student with its preprocess.
        objects: the modules, losses and images that were given, which no recipe can make again.
        peers: students that learned with it, by their names as its teachers.
    """

    path: Path
    summary: dict[str, Any]
    prepared: PreparedModel = field(repr=False)
    objects: RunObjects = field(default_factory=RunObjects, repr=False)
    peers: Mapping[str, nn.Module] = field(default_factory=dict, repr=False)

    @property
    def student(self) -> nn.Module:
        """The trained student, in eval mode: your own module. It takes what :attr:`preprocess` gives."""
        return self.prepared.model

    @property
    def preprocess(self) -> Preprocess:
        """From images to the student's input, as stated for the run; floats pass as they are where none was."""
        return self.prepared.preprocess().to(device_of(self.student))

    def predict(self, images: Any) -> Tensor:
        """The student's logits for images of the form that it was trained on, as a run scores them.

        Args:
            images: a tensor [N, …], or images one after another: Pillow images, arrays, tensors.

        Returns:
            float32 [N, K] on the CPU, in the data's class order. Without a stated preprocess it is ``student(images)``.

        Raises:
            BadInput: bytes for a student of floats, or floats for one of bytes.
        """
        given = from_images(images)
        if (given.dtype == torch.uint8) != self.prepared.is_pixels:
            kind = "bytes" if self.prepared.is_pixels else "floats"
            raise BadInput("images", str(given.dtype), f"{kind}, as the run was trained on")
        with exact_float32():
            return predict(self.student, self.preprocess, given, device=device_of(self.student))

    def evaluate(self, data: Dataset[Any] | str | Path | None = None, *, split: str = "test") -> dict[str, Any]:
        """Score the student on a dataset of (image, label), or on the run's own test images; see :func:`evaluate`."""
        if data is None:
            images = self.objects.load_data(load_run_recipe(self.path), self.summary["data"]["fingerprint"]).test
        else:
            task = None if isinstance(data, str | Path) else load_run_recipe(self.path).data.task
            images = _images(data, split, task)
        config = ModelConfig(name=self.prepared.name, preprocess=self.prepared.preprocess_config or "none")
        return evaluate_model(config, images, model=self.student)

    def export(self, form: ExportForm = "safetensors", out: str | Path | None = None, **options: Any) -> dict[str, Any]:
        """Write the student to a file; see :func:`export`."""
        return export(self, form, out, **options)

    def push_to_hub(self, name: str, *, private: bool = True) -> dict[str, Any]:
        """Upload weights, recipe and a model card to the Hugging Face hub; see :func:`stillroom.run.hub.push_run`."""
        return push_run(self.path, name, private=private)

    def diagnose(self, **options: Any) -> Diagnosis:
        """Say what is wrong with the run, the teacher's input included; see :func:`diagnose`."""
        return diagnose(self, **options)

    def explain(self, *baselines: DistillResult | Path | str, **options: Any) -> Explanation | WordExplanation:
        """Say what distilling changed inside the student, against the same student from labels; see :func:`explain`."""
        return explain(self, baselines, **options)

    def fidelity(self, **options: Any) -> Fidelity:
        """Measure how well each loss ranks images by their divergence; see :func:`fidelity`."""
        return fidelity(self, **options)

    def report(self, *others: DistillResult | Path | str) -> Path:
        """Write the page ``report.html`` of this run, compared with others if given; returns its path."""
        paths = [run.path if isinstance(run, DistillResult) else Path(run) for run in others]
        for run in (self, *others):
            measure_latency(*_run(run))
        return write_report([self.path, *paths])


@dataclass(frozen=True)
class Ensemble:
    """The weighted mean of the probabilities of several teachers of :func:`distill`.

    Args:
        members: names of the other teachers, each with its weight; or names alone, for equal weights.
        temperature: τ at which probabilities are averaged; left out: that of the losses that read it.

    >>> import torch, tempfile, stillroom as sr
    >>> data = torch.utils.data.TensorDataset(torch.rand(32, 4), torch.arange(32) % 2)
    >>> teachers = {"a": nn.Linear(4, 2), "b": nn.Linear(4, 2), "both": sr.Ensemble({"a": 1, "b": 3})}
    >>> student, out = nn.Linear(4, 2), tempfile.mkdtemp()
    >>> run = sr.distill(teachers, student, data, data, ["kl"], epochs=1, out=out, progress=False)
    >>> run.summary["teachers"]["both"]["model"]
    'mean of Linear + Linear'
    """

    members: Mapping[str, float]
    temperature: float | None = None

    def __init__(self, members: Mapping[str, float] | Sequence[str], temperature: float | None = None) -> None:
        weights = dict(members) if isinstance(members, Mapping) else dict.fromkeys(members, 1.0)
        object.__setattr__(self, "members", weights)
        object.__setattr__(self, "temperature", temperature)


@dataclass(frozen=True)
class SelfTeacher:
    """The student's own moving average, or its last snapshot, as the teacher of :func:`distill`.

    Args:
        ema: decay of the average a step, such as .99 (mean teacher).
        snapshot: in its place, epochs from one snapshot to the next.
    """

    ema: float | None = None
    snapshot: int | None = None


@dataclass(frozen=True)
class Peer:
    """A second student, which learns from the first while it teaches it, as the teacher of :func:`distill`.

    Args:
        model: a copy of it is trained; it comes back in ``run.peers``.
    """

    model: nn.Module


Teachers = nn.Module | str | Path | Ensemble | SelfTeacher | Peer


def distill(
    teacher: Teachers | Mapping[str, Teachers] | None,
    student: nn.Module,
    train: Dataset[Any],
    test: Dataset[Any],
    losses: Sequence[Loss[Any] | str | Mapping[str, Any] | Callable[..., Any]] | None = None,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 128,
    augmentation: dict[str, Any] | None = None,
    teacher_preprocess: str | dict[str, Any] | None = None,
    student_preprocess: str | dict[str, Any] | None = None,
    teacher_options: Mapping[str, Any] | None = None,
    unlabelled: Any = None,
    validation: Dataset[Any] | None = None,
    task: Task | None = None,
    training: dict[str, Any] | None = None,
    optimizer: Callable[[Parameters], torch.optim.Optimizer] | None = None,
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
    cache: dict[str, Any] | None = None,
    seed: int = 0,
    name: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    hooks: Sequence[StepHook | Callable[[StepInfo], Any]] = (),
    track: Sequence[str] = (),
    progress: bool = True,
) -> DistillResult:
    """Distil a teacher into a student, leaving a run folder; the modules given are left as they were.

    Args:
        teacher: the model that teaches; or a folder of logits of one that cannot be run here (`stillroom
            export-inputs`); or several of these by names, of which each loss then names its own (``KL(teacher="a")``),
            an :class:`Ensemble` of others among them; or :class:`SelfTeacher`, or a :class:`Peer`;
            None trains from labels alone.
        student: the model that learns; a copy of it is trained and comes back as ``run.student``.
        train: dataset of (image, label), read once into memory; a label is a class number, a vector of 0 and 1, or
            numbers (see ``task``). Floats go to both models as they are, whatever their
            values: ``run.student(x)`` is what was scored. Bytes (PIL images, uint8 tensors or arrays) need a stated
            preprocess for each model.
        test: the like, for evaluation.
        losses: the terms of the loss; default: ``[CrossEntropy(weight=0.1), KL(weight=0.9, temperature=4)]``; of
            multi-label data ``BinaryCrossEntropy`` and ``BCEKL``, of a regression ``TargetMSE`` and ``LogitMSE``.
            Besides losses, a name (``"kl"``), options (``{"name": "kl", "temperature": 2}``), a loss of torch that
            takes logits (``nn.MSELoss()``, ``nn.CrossEntropyLoss()``), or a function of (student_logits,
            teacher_logits) or (student_logits, teacher_logits, labels) that gives a scalar; :class:`FunctionLoss` gives
            it a weight.
        epochs: passes over the training images; default 10, unless ``steps`` is given.
        steps: optimizer steps, in place of epochs.
        batch_size: images a step.
        augmentation: options of ``data.augmentation``, such as ``{"pad_crop": 4, "flip": True}``; of bytes and floats.
        teacher_preprocess: what the images go through on their way to the teacher: ``"unit"`` (x/255), ``"half"``,
            ``"imagenet"``, ``"none"``, or ``{"mean": …, "std": …}``; floats are not divided by 255. Left out: nothing,
            which bytes do not allow. Of several teachers a mapping by their names.
        student_preprocess: the like for the student. ``run.predict(images)`` applies it; ``run.student`` is the bare
            module.
        teacher_options: further options of the teacher's entry in a recipe, such as ``{"class_names": ["cat", "dog"]}``
            of one whose classes are others than the data's. Of several teachers a mapping by their names.
        unlabelled: further training images, without labels, of the form of those of ``train``: a tensor [N, …], or
            images one after another. The losses that read labels leave them out, and those that ``train`` gives with
            the label None.
        validation: dataset of (image, label) that is measured after each epoch; ``test`` is then looked at once, at the
            end, and ``training={"patience": 3}`` may stop early.
        task: what the labels are: ``"single_label"`` (a class number), ``"multi_label"`` (0 or 1 for each class) or
            ``"regression"`` (floats). Left out: what they look like, which a line says.
        training: further options of ``training``, such as ``{"precision": "float32", "ema": 0.999}``.
        optimizer: makes an optimizer of the trained parameters, such as ``lambda params: torch.optim.Adam(params,
            lr=1e-3)``, in place of ``training["optimizer"]``. Its rates stay as they are, unless ``scheduler`` or
            ``training["schedule"]`` is given.
        scheduler: makes a scheduler of the optimizer, such as ``lambda opt: StepLR(opt, 1000)``; it is stepped after
            every optimizer step.
        cache: options of ``cache``, such as ``{"enabled": False}``; default: the teacher runs once on each view
            of each image where that saves passes.
        seed: of the order of images and of dropout.
        name: what reports call the run.
        out: the run folder; default: a new one under ``runs/``.
        resume: continue the run in the folder.
        hooks: each a :class:`StepHook`, or a function that is called with a :class:`StepInfo` after each optimizer
            step; ``StepHook.after_evaluation`` is given each evaluation.
        track: experiment trackers that also get the figures: ``"tensorboard"``, ``"wandb"``, ``"mlflow"``,
            ``"trackio"``.
        progress: show a progress bar on standard error, and before the training, in a line, what quick checks of
            teacher and loss find; both change no result.

    Returns:
        The finished run.

    Raises:
        BadInput: something given cannot be used; the message names it.
        RunFailed: the training cannot continue.

    >>> import torch, tempfile, stillroom as sr
    >>> data = torch.utils.data.TensorDataset(torch.rand(64, 1, 8, 8), torch.arange(64) % 4)
    >>> net = lambda width: nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 4))
    >>> run = sr.distill(net(32), net(4), data, data, epochs=2, out=tempfile.mkdtemp(), progress=False)
    >>> run.summary["steps"], run.summary["teachers"]["teacher"]["parameters"]
    (2, 2212)
    """
    data = _pair(train, test, unlabelled, task, validation)
    if losses is None:
        losses = default_losses(data.train.task, teacher=teacher is not None)
    terms, own_hooks = as_losses(losses), as_hooks(hooks)
    if resume and out is None:
        raise BadInput("resume", resume, "the run's folder by out=")
    options = dict(training or {})
    for key, value in (("epochs", epochs), ("steps", steps)):
        if value is not None:
            if key in options:
                raise BadInput(f"training.{key}", options[key], f"one value, but {key}={value} is given too")
            options[key] = value
    optimisation = OwnOptimisation(optimizer, scheduler)
    custom: dict[str, str] = {}
    if optimizer is not None or scheduler is not None:
        given, custom = optimisation.describe(_module(student, "student"))
        for key, argument in (("optimizer", optimizer), ("schedule", scheduler)):
            if argument is not None and key in options:
                raise BadInput(f"training.{key}", options[key], f"none together with {key.replace('ule', 'uler')}=")
        options = {**given, **options}
    teachers = _named_teachers(teacher)
    recipe = parse_recipe(
        {
            "name": name,
            "data": {
                "source": "python",
                "batch_size": batch_size,
                "augmentation": augmentation or {},
                **({} if data.train.task == "single_label" else {"task": data.train.task}),
            },
            **_teacher_entries(
                teachers, teacher_preprocess, teacher_options or {}, several=isinstance(teacher, Mapping)
            ),
            "student": _entry(_module(student, "student"), student_preprocess, "student"),
            "losses": [describe(loss) for loss in terms],
            "training": options,
            "cache": cache or {},
            "seed": seed,
        }
    )
    if isinstance(data.train.images, LazyImages) and data.train.images.has_views:
        views = recipe.data.augmentation.model_copy(update={"of_dataset": True})
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"augmentation": views})})
    _require_preprocess(recipe, data.train)
    # The classes' own config goes with the objects; the recipe's entries only say how to make them again.
    modules = {
        key: model.model if isinstance(model, Peer) else model
        for key, model in teachers.items()
        if isinstance(model, nn.Module | Peer)
    }
    objects = RunObjects(data, student, modules, tuple(terms), optimisation, custom)

    # Copies of the modules: a run moves them to its device, and keeps its hands off the user's.
    def copies(**options: Any) -> RunComponents:
        models = {key: copy_model(model) for key, model in modules.items()}
        return RunComponents(data, copy_model(student), [copy.deepcopy(loss) for loss in terms], models, **options)

    components = copies(optimisation=optimisation, custom=custom)
    observer = ProgressBar() if progress else Observer()
    if progress and not resume and (line := quick_line(recipe, copies())) is not None:
        observer.note(line)
    with output_folder(None if out is None else Path(out), name or "run") as folder:
        if track:
            observer = TrackedRun(observer, track, folder)
        finished = execute(recipe, folder, resume=resume, observer=observer, components=components, hooks=own_hooks)
    prepared = with_layout(finished.student, recipe.student, data.train, "student")
    return DistillResult(finished.path, finished.summary, prepared, objects, finished.peers)


def load_run(
    folder: str | Path,
    *,
    student: nn.Module | None = None,
    teacher: nn.Module | Mapping[str, nn.Module] | None = None,
    train: Dataset[Any] | None = None,
    test: Dataset[Any] | None = None,
    unlabelled: Any = None,
) -> DistillResult:
    """A finished run again, from its folder.

    Args:
        folder: the run's.
        student: for a run made in Python, a module of the class that was trained; its weights are loaded into a copy.
        teacher: the module that taught, or several by their names; needed to explain, diagnose and measure fidelity.
        train: the training images of a run made in Python; needed for the same.
        test: its test images.
        unlabelled: its further training images, where it had some.

    Raises:
        BadInput: the run is not finished, a module does not fit, or teacher or images are not those of the run.
    """
    path = Path(folder)
    teachers = dict(teacher) if isinstance(teacher, Mapping) else {} if teacher is None else {"teacher": teacher}
    if (train is None) != (test is None):
        raise BadInput("test" if test is None else "train", None, "both splits of the run, or neither")
    found = load_run_recipe(path).data.task if train is not None else None
    data = _pair(train, test, unlabelled, found) if train is not None and test is not None else None
    objects = RunObjects(data, student, teachers)
    model, recipe, facts = load_student(path, objects)
    summary = read_json(RunSummary, path / SUMMARY)
    if data is not None:
        objects.load_data(recipe, summary.data.fingerprint)
    for name, module in teachers.items():
        if name not in summary.teachers:
            raise BadInput("teacher", name, f"a teacher of the run: {', '.join(summary.teachers) or 'it had none'}")
        if summary.teachers[name].weights_hash != state_hash(module):
            raise BadInput("teacher", type(module).__name__, "the weights that the run's teacher had; these are others")
    prepared = with_layout(model, recipe.student, facts.examples(2), "student")
    return DistillResult(path, summary.as_dict(), prepared, objects)


def evaluate(
    model: nn.Module | str | DistillResult,
    data: Dataset[Any] | str | Path,
    *,
    weights: str | Path | None = None,
    preprocess: str | dict[str, Any] | None = None,
    split: str = "test",
    task: Task | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Score a model on a split, in float32, as ``stillroom evaluate`` does.

    Args:
        model: a module, which is left as it was; a model's name, with ``weights``; or a run, whose student is meant.
        data: a dataset of (image, label); or a folder or a name, as for ``--data``.
        weights: the file of a named model.
        preprocess: as ``teacher_preprocess`` of :func:`distill`.
        split: of a folder.
        task: what the labels are, as of :func:`distill`.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        ``top1`` in per cent, ``correct``, ``count``, ``top5`` where there are more than 5 classes, ``nll``, ``ece``; of
        multi-label data ``map``, ``macro_f1`` and ``micro_f1`` in per cent, ``bce``, ``class_ap``; of a regression
        ``r2``, ``mae``, ``mse``, ``target_r2``.

    Raises:
        BadInput: something given cannot be used.

    >>> import stillroom as sr
    >>> net = nn.Linear(2, 2)
    >>> _ = net.weight.data.copy_(torch.eye(2)), net.bias.data.zero_()
    >>> sr.evaluate(net, [(torch.tensor([3.0, 1.0]), 0), (torch.tensor([3.0, 1.0]), 1)])["top1"]
    50.0
    """
    if isinstance(model, DistillResult):
        return model.evaluate(data, split=split)
    images = _images(data, split, task)
    content: dict[str, Any] = {"preprocess": preprocess}
    if isinstance(model, nn.Module):
        content["name"] = _name_of(model)
        if weights is not None:
            raise BadInput("weights", str(weights), "none for a module, which has its own")
        if images.is_pixels and preprocess is None:
            raise BadInput("preprocess", None, _choices("model", images))
    else:
        content |= {"name": model, "weights": None if weights is None else str(weights)}
    config = parse_recipe({"student": content}).student
    return evaluate_model(config, images, device=device, model=model if isinstance(model, nn.Module) else None)


def export(
    run: DistillResult | str | Path,
    form: ExportForm = "safetensors",
    out: str | Path | None = None,
    *,
    pixels: bool = False,
) -> dict[str, Any]:
    """Write the student of a finished run to a file, as ``stillroom export`` does.

    Args:
        run: a run, or its folder; a graph of a run made in Python needs the run itself, or :func:`load_run`.
        form: ``safetensors`` (weights), ``onnx``, ``onnx-int8`` (weights of 8 bits, measured against ``onnx``),
            or ``pt2`` (a program of ``torch.export``).
        out: the file; left out: in the run's ``export/``.
        pixels: let the graph take uint8 images and preprocess them.

    Returns:
        ``path``, ``bytes``, and for graphs ``max_abs_error``, ``max_rel_error`` and ``tolerance`` against the module.

    Raises:
        BadInput: the run or the file cannot be used.
        RunFailed: the graph gives other logits than the student; nothing was written.
    """
    path, objects = _run(run)
    return export_run(path, form, None if out is None else Path(out), pixels=pixels, objects=objects)


def diagnose(
    target: DistillResult | Recipe | str | Path | dict[str, Any],
    *,
    images: int = 1024,
    verify: bool = False,
    out: str | Path | None = None,
    progress: bool = False,
) -> Diagnosis:
    """Say what is wrong with a recipe, a run or a study, as ``stillroom diagnose`` does.

    Args:
        target: a recipe (its file, or its content); a run; the folder of a run or a study. Of a run made in Python the
            run itself, or :func:`load_run` with its modules and images, is looked at with the teacher's input.
        images: training images that a recipe's teacher classifies.
        verify: train with each remedy and without, three seeds each, for as long as the recipe or the run did; what
            each regains is the diagnosis's ``verification``. A run made in Python is trained in this process, from
            its student's own weights whatever the seed.
        out: the folder of that training and its page; left out: a new one under ``runs/``. The same call goes on in it.
        progress: show the progress on standard error.

    Raises:
        BadInput: there is nothing to diagnose, or its remedies cannot be trained.

    >>> import stillroom as sr
    >>> found = sr.diagnose({"student": {"name": "mlp"}, "training": {"steps": 5, "device": "cpu"}}, images=64)
    >>> found.problems[0].check
    'budget'
    """
    observer = ProgressBar() if progress else Observer()
    recipe, objects, name = None, None, str(target)
    kind: Kind = "run"
    if isinstance(target, DistillResult):
        path, name, objects = target.path, str(target.path), target.objects
    elif isinstance(target, Recipe | dict):
        kind, recipe = "recipe", target if isinstance(target, Recipe) else parse_recipe(target)
        name = recipe.name or "recipe"
    else:
        kind, path = kind_of(str(target)), Path(target)
        recipe = load_recipe(path) if kind == "recipe" else None
    if verify and kind == "study":
        raise BadInput("verify", name, "a recipe or a run; of a study, one of its runs/…/seed-N")
    if recipe is not None:
        findings = diagnose_recipe(recipe, images=images, observer=observer)
    elif kind == "study":
        findings = diagnose_study(path)
    else:
        findings = diagnose_run(path, objects, as_code=not verify)
    if not verify:
        return Diagnosis.of(name, findings, kind=kind)
    own: RunObjects | None = None
    if recipe is None:
        recipe = load_run_recipe(path)
        if recipe.data.source == "python":
            own = objects or RunObjects()
            own.require_run(recipe, read_json(RunSummary, path / SUMMARY))
    with output_folder(None if out is None else Path(out), f"diagnosis-{Path(name).stem}") as folder:
        study_observer = LiveStudy() if progress else StudyObserver()
        verification = verify_remedies(recipe, findings, folder, observer=study_observer, objects=own)
        found = Diagnosis.of(name, findings if own is None else map(in_python, findings), verification, kind=kind)
        found.save(folder)
    return found


def explain(
    runs: DistillResult | str | Path | Sequence[DistillResult | str | Path],
    baselines: DistillResult | str | Path | Sequence[DistillResult | str | Path] = (),
    *,
    progress: bool = False,
    **options: Any,
) -> Explanation | WordExplanation:
    """Say what distillation changed inside the student, as ``stillroom explain`` does; writes the page.

    Args:
        runs: finished runs with checkpoints, one a seed; or folders.
        baselines: the same student from labels, one for each of ``runs``.
        progress: show the progress on standard error.
        options: ``tap``, ``images``, ``grid``, ``weight``, ``mask``, ``passes``, ``seed``, ``attribute``; see
            :func:`stillroom.explain.explanation.explain`; of texts ``tap`` and ``texts``.

    Returns:
        What ``explain.json``, of texts ``explain-words.json``, in the first run's folder holds; ``explain.html`` is
        next to it.

    Raises:
        BadInput: runs, images or options cannot be used.
    """
    given = [[_run(one) for one in _several(each)] for each in (runs, baselines)]
    paths, others = ([path for path, _ in each] for each in given)
    observer, objects = ProgressBar() if progress else Observer(), {path: held for each in given for path, held in each}
    first = runs_in(paths)[0]
    if is_of_texts(first):
        words = explain_words(paths, others, observer=observer, objects=objects, **options)
        write_word_explanation(first)
        return words
    found = explain_runs(paths, others, observer=observer, objects=objects, **options)
    write_explanation(first)
    return found


def fidelity(
    run: DistillResult | str | Path,
    *,
    images: int = 512,
    temperature: float = 4.0,
    teacher: str | None = None,
    progress: bool = False,
) -> Fidelity:
    """Measure how well each loss of the KL family, at each tap, ranks images by their divergence: ``fidelity.json``.

    Args:
        run: a finished run with a teacher, or its folder.
        images: test images, evenly spread.
        temperature: τ of the divergences.
        teacher: which of several teachers, by its name; default: the most accurate.
        progress: show the progress on standard error.

    Raises:
        BadInput: the run, its teacher, its images or an option cannot be used.
    """
    path, objects = _run(run)
    observer = ProgressBar() if progress else Observer()
    found = map_fidelity(
        path, images=images, temperature=temperature, observer=observer, objects=objects, teacher=teacher
    )
    rewrite_run_page(path)
    return found


@dataclass(frozen=True)
class StudyResult:
    """A study that was done.

    Attributes:
        path: its folder.
        results: what ``results.json`` holds: cells with intervals, families of paired differences, inequalities.
        sound: whether every run is there and all were equal, so that the table can be believed.
        dissection: of :func:`dissect`, the gain of each part of the teacher's output.
    """

    path: Path
    results: dict[str, Any]
    sound: bool
    dissection: dict[str, Any] | None = None

    def report(self) -> Path:
        """Write the page ``report.html`` of the study, and one of each run that it links to; returns its path."""
        write_run_pages(self.path)
        return write_study_report(self.path)


def compare(
    study: str | Path | dict[str, Any],
    out: str | Path,
    *,
    workers: int | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    progress: bool = True,
) -> StudyResult:
    """Compare training methods: methods × model pairs × seeds under one budget; a stopped study continues.

    Args:
        study: a study file, or its content.
        out: the study's folder.
        workers: runs at a time; default: as many as the cores allow.
        engine: processes of this machine, or a Ray cluster.
        address: of the Ray cluster; default: a new local one.
        progress: show the progress on standard error.

    Raises:
        BadInput: something in the study cannot be used, or another process works on the folder.
        RunFailed: what all runs need could not be done.

    >>> import tempfile, stillroom as sr
    >>> found = sr.compare({
    ...     "name": "widths", "seeds": [0], "budget": {"steps": 2},
    ...     "recipe": {"data": {"train_limit": 64, "test_limit": 64}, "student": {"name": "mlp"}},
    ...     "methods": [
    ...         {"name": "labels"}, {"name": "smoothed", "set": {"losses": [{"name": "label_smoothing"}]}}],
    ... }, tempfile.mkdtemp(), workers=1, progress=False)
    >>> found.sound, [cell["why"] for cell in found.results["cells"]]
    (True, ['one seed: no interval', 'one seed: no interval'])
    """
    settled = parse_study(study) if isinstance(study, dict) else load_study(Path(study))
    observer = LiveStudy() if progress else StudyObserver()
    found = run_study(settled, Path(out), engine_maker(engine, workers, address), observer)
    return StudyResult(found.path, found.results, found.sound)


def dissect(
    recipe: Recipe | str | Path | dict[str, Any],
    out: str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    trials: int = 0,
    workers: int | None = None,
    engine: Literal["local", "ray"] = "local",
    progress: bool = True,
) -> StudyResult:
    """Ablate the teacher's output: what each level of it brings, as ``stillroom dissect`` does.

    Args:
        recipe: of a distillation by ``kl``: its file or its content.
        out: the study's folder.
        seeds: of each level.
        trials: of the full output, whose learning rate and temperature all levels use; 0 for none.
        workers: runs at a time; default: as many as the cores allow.
        engine: processes of this machine, or a Ray cluster.
        progress: show the progress on standard error.

    Returns:
        The study; ``dissection`` holds what ``dissection.json`` does.

    Raises:
        BadInput: the recipe has no teacher that can be run, or no ``kl``.
        RunFailed: what all runs need could not be done.
    """
    if not isinstance(recipe, Recipe):
        recipe = parse_recipe(recipe) if isinstance(recipe, dict) else load_recipe(Path(recipe))
    study = dissecting(recipe, seeds=tuple(seeds), trials=trials)
    observer = LiveStudy() if progress else StudyObserver()
    found = run_study(study, Path(out), engine_maker(engine, workers, None), observer)
    dissection = write_dissection(StudyFolder(found.path), found.results)
    return StudyResult(found.path, found.results, found.sound, dissection)


def _require_preprocess(recipe: Recipe, images: ImageSet) -> None:
    """Refuse bytes for a module whose preprocess is not stated: what is right for it nobody but the user knows."""
    given = {recipe.teacher_field(name): config for name, config in recipe.all_teachers.items()}
    for place, config in {**given, "student": recipe.student}.items():
        is_run = not isinstance(config, TeacherConfig) or config.is_network
        if images.is_pixels and config.preprocess is None and is_run:
            name = place.partition(".")[2]
            argument = f"teacher_preprocess[{name!r}]" if name else f"{place}_preprocess"
            raise BadInput(argument, None, _choices(place, images))


def _choices(place: str, images: ImageSet) -> str:
    choices = preprocess_choices(images.channels)
    return f"what the {place} takes, as the images are bytes: {choices}; or give floats, which go in as they are"


def _pair(
    train: Dataset[Any],
    test: Dataset[Any],
    unlabelled: Any,
    task: Task | None = None,
    validation: Dataset[Any] | None = None,
) -> DataPair:
    learned = from_dataset(train, name="train", field="train", views=True, task=task)
    # Of test images alone 0.0 and 1.0 may be numbers, too.
    seen = learned.task if learned.labelled and learned.task != "single_label" else task
    data = make_pair(learned, from_dataset(test, name="test", field="test", task=seen))
    learned, held = data.train, None
    if validation is not None:
        held = make_pair(learned, from_dataset(validation, name="validation", field="validation", task=seen)).test
    if unlabelled is not None:
        learned = add_unlabelled(learned, from_images(unlabelled, field="unlabelled"))
    return DataPair(learned, data.test, held)


def _images(data: Dataset[Any] | str | Path, split: str, task: Task | None = None) -> ImageSet:
    if isinstance(data, str | Path):
        return load_split(parse_data_argument(str(data)).with_task(task), split)
    return from_dataset(data, task=task)


def _run(run: DistillResult | str | Path) -> tuple[Path, RunObjects]:
    return (run.path, run.objects) if isinstance(run, DistillResult) else (Path(run), RunObjects())


def _module(model: object, field: str) -> nn.Module:
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise BadInput(field, model, f"a module, such as {model.__name__}(), not its class")
    if not isinstance(model, nn.Module):
        raise BadInput(field, model, "an nn.Module")
    return model


def _several(
    runs: DistillResult | str | Path | Sequence[DistillResult | str | Path],
) -> Sequence[DistillResult | str | Path]:
    return [runs] if isinstance(runs, DistillResult | str | Path) else runs


def _name_of(model: nn.Module) -> str:
    kind = type(getattr(model, "_orig_mod", model))
    return f"{kind.__module__}:{kind.__qualname__}"


def _entry(model: object, preprocess: str | dict[str, Any] | None, field: str) -> dict[str, Any] | None:
    if model is None:
        return None
    model = _module(model, field)
    return {"name": _name_of(model), "preprocess": preprocess}


def _named_teachers(teacher: object) -> dict[str, object]:
    """Every teacher by its name; a single one is named ``teacher``."""
    if isinstance(teacher, Mapping):
        return dict(teacher)
    return {} if teacher is None else {"teacher": teacher}


def _teacher_entries(
    teachers: Mapping[str, object],
    preprocess: str | dict[str, Any] | None,
    options: Mapping[str, Any],
    *,
    several: bool,
) -> dict[str, Any]:
    """The recipe's ``teacher``, or ``teachers``, whose preprocess and options then go by their names."""
    if not several:
        entries = (_teacher_entry(teacher, preprocess, options) for teacher in teachers.values())
        return {"teacher": next(entries, None)}
    if isinstance(preprocess, str):
        raise BadInput("teacher_preprocess", preprocess, "a mapping by the teachers' names")
    for argument, given in (("teacher_preprocess", preprocess or {}), ("teacher_options", options)):
        for name in given:
            if name not in teachers:
                raise BadInput(argument, name, f"the name of a teacher: {nearest(name, teachers)}")
    own = preprocess or {}
    return {
        "teachers": {
            name: _teacher_entry(teacher, own.get(name), options.get(name, {})) for name, teacher in teachers.items()
        }
    }


def _teacher_entry(
    teacher: object, preprocess: str | dict[str, Any] | None, options: Mapping[str, Any]
) -> dict[str, Any] | None:
    if isinstance(teacher, Ensemble):
        return {
            "members": teacher.members,
            "mean_temperature": teacher.temperature,
            "preprocess": preprocess,
            **options,
        }
    if isinstance(teacher, SelfTeacher):
        return {"ema": teacher.ema, "snapshot": teacher.snapshot, "preprocess": preprocess, **options}
    if isinstance(teacher, Peer):
        return {**(_entry(teacher.model, preprocess, "teacher") or {}), "learns": True, **options}
    if isinstance(teacher, str | Path):
        return {"name": Path(teacher).name, "logits": str(teacher), "preprocess": preprocess, **options}
    entry = _entry(teacher, preprocess, "teacher")
    return None if entry is None else {**entry, **options}

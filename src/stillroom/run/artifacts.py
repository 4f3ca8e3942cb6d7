"""The files of a finished run: its summary, its test logits, the latencies of its models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from stillroom.data.images import DataPair, Images, ImageSet
from stillroom.data.quality import measure_quality
from stillroom.data.tokens import is_tokens
from stillroom.files import canonical_json, digest, write_bytes
from stillroom.models.cost import latency
from stillroom.models.modes import TrainedPart
from stillroom.models.prepared import PreparedModel, size_of
from stillroom.models.running_statistics import starting_share
from stillroom.run.build import RunParts
from stillroom.run.records import budget_hash
from stillroom.schema.measures import figures_of, measure_outputs
from stillroom.schema.run import RunSummary
from stillroom.tasks import TASK_INFO, Task
from stillroom.teachers.source import TeacherSource
from stillroom.train.device import threads
from stillroom.train.evaluation import compare, score_outputs
from stillroom.train.loop import Progress

EXAMPLES = 36
LATENCY_BATCHES = (1, 64)
LATENCY_LENGTHS = (8, 16, 32, 64, 128, 256, 512)  # tokens of a text, at batch 1

# Less of the starting values in running statistics is not worth a line.
_STARTING = 0.01

TeacherLogits = Mapping[str, Tensor | None]


def data_facts(data: DataPair, fingerprint: str) -> dict[str, Any]:
    """The data of a run, as its summary records them; ``shape`` is [C, H, W]."""
    train, test = data.train, data.test
    skipped = {"train": list(train.skipped), "test": list(test.skipped)}
    dtype = str(train.images.dtype).removeprefix("torch.")
    return {
        "name": train.name,
        **({} if train.task == "single_label" else {"task": train.task}),
        "classes": train.num_classes,
        "train": len(train),
        **({} if train.labelled == len(train) else {"labelled": train.labelled}),
        **({} if data.validation is None else {"validation": len(data.validation)}),
        "test": len(test),
        "shape": list(train.images.shape[1:]),
        "pixels": train.is_pixels,
        **({} if dtype in ("uint8", "float32") else {"dtype": dtype}),
        **({} if train.vocabulary is None else {"vocabulary": train.vocabulary}),
        "fingerprint": fingerprint,
        "quality": measure_quality(data).as_dict(),
        **({"skipped": skipped} if train.skipped or test.skipped else {}),
    }


def run_summary(
    parts: RunParts,
    trained: PreparedModel,
    progress: Progress,
    figures: Mapping[str, float],
    logits: Tensor,
    teacher_logits: TeacherLogits,
) -> dict[str, Any]:
    """``summary.json`` of a finished run."""
    recipe, test = parts.recipe, parts.test
    processes = parts.context.processes.count
    budget = budget_hash(
        steps=progress.step,
        batch_size=recipe.data.batch_size,
        accumulate=progress.parts,
        processes=processes,
        data=parts.hashes["data"],
    )
    content = {
        "schema": 1,
        "name": _title(parts),
        "recipe_hash": recipe.hash(),
        "seed": recipe.seed,
        "steps": progress.step,
        "epochs": round(progress.step / parts.sampler.steps_per_epoch, 6),
        **measured(logits, test, {name: value for name, value in figures.items() if "/" not in name}),
        "model": shown_model(parts.student.name, recipe.data.source),
        **size_of(trained, test),
        "teachers": {
            name: teacher_facts(source, teacher_logits[name], test, _of_teacher(figures, name))
            | {"model": shown_model(source.name, recipe.data.source)}
            for name, source in parts.teachers.items()
        },
        "distilled": parts.step.reads_teacher,
        "losses": [
            {"name": loss.name, "reads_teacher": loss.requires.teacher, "reads_labels": loss.requires.labels}
            for loss in parts.losses
        ],
        "data": data_facts(parts.context.data, parts.hashes["data"]),
        "relations": parts.relations.summary(trained.model) if parts.relations is not None else None,
        **({"custom": dict(parts.custom)} if parts.custom else {}),
        **({"stopped": _stopped(parts, progress)} if progress.stopped else {}),
        **({"trained": trained_facts(parts.trained)} if parts.trained is not None else {}),
        **_batch_norm(parts, progress),
        "device": recipe.training.device,
        "precision": recipe.training.precision,
        "threads": torch.get_num_threads(),
        "processes": processes,
        "accumulate": progress.parts,
        "hashes": {
            "init": parts.hashes["init"],
            "order": progress.order,
            "views": progress.views,
            "budget": budget,
            "threads": digest(canonical_json(torch.get_num_threads())),
        },
    }
    return RunSummary.model_validate(content).as_dict()


def _stopped(parts: RunParts, progress: Progress) -> dict[str, Any]:
    return {
        "after": round(progress.step / parts.sampler.steps_per_epoch, 6),
        "of": round(parts.total_steps / parts.sampler.steps_per_epoch, 6),
        "patience": parts.recipe.training.patience,
        "measure": TASK_INFO[parts.train.task].primary.name,
        "best": progress.best,
    }


def _batch_norm(parts: RunParts, progress: Progress) -> dict[str, Any]:
    """Where the running statistics of the student still hold their starting values."""
    momentum, batches = parts.norm_momentum, progress.step * progress.parts
    if parts.recipe.training.recompute_batch_norm is not None or starting_share(momentum, batches) < _STARTING:
        return {}
    return {"batch_norm": {"momentum": momentum, "batches": batches}}


def trained_facts(part: TrainedPart) -> dict[str, Any]:
    """What the summary says of a student of which a part was trained."""
    return {"modules": list(part.modules), "parameters": part.parameters, "of": part.of}


def teacher_facts(
    source: TeacherSource, logits: Tensor | None, test: ImageSet, compared: Mapping[str, float]
) -> dict[str, Any]:
    """What the summary says of a teacher; of one without test logits, its name and hash alone."""
    figures = score_outputs(logits, test.labels, test.task, test.class_names) if logits is not None else {}
    scored = measured(logits, test, figures) if logits is not None else {}
    sizes = size_of(source.prepared, test) if source.prepared is not None and logits is not None else {}
    files = {"files": dict(source.files)} if source.files else {}
    changes = {"follows_student" if source.follows_student else "peer": True} if source.changes else {}
    return {"model": source.name, **scored, **sizes, "weights_hash": source.fingerprint, **files, **changes, **compared}


def measured(outputs: Tensor, data: ImageSet, figures: Mapping[str, float]) -> dict[str, Any]:
    """Figures as a summary has them: those of multi-label and regression data are ``measures``, with each output's."""
    if data.task == "single_label":
        return dict(figures)
    found = measure_outputs(data.task, outputs.cpu().numpy(), data.labels.numpy(), data.class_names)
    own = figures_of(found)
    return {**{name: value for name, value in figures.items() if name not in own}, "measures": found.model_dump()}


def _of_teacher(figures: Mapping[str, float], name: str) -> dict[str, float]:
    """The figures that compare the student with one of several teachers."""
    return {key.partition("/")[0]: value for key, value in figures.items() if key.endswith(f"/{name}")}


def compare_with_teachers(
    logits: Tensor, teacher_logits: TeacherLogits, task: Task = "single_label"
) -> dict[str, float]:
    """How close a student's logits are to its teacher's: ``agreement`` and ``teacher_kl``; see :func:`compare`.

    With several teachers each key ends in ``/NAME``.
    """
    figures: dict[str, float] = {}
    for name, theirs in teacher_logits.items():
        if theirs is not None:
            found = compare(logits, theirs, task)
            figures |= found if len(teacher_logits) == 1 else {f"{key}/{name}": found[key] for key in found}
    return figures


def _title(parts: RunParts) -> str:
    """What reports call the run."""
    if parts.recipe.name:
        return parts.recipe.name
    if read := parts.teachers_read:
        teachers = " + ".join(shown_model(source.name, parts.recipe.data.source) for source in read.values())
        return f"{shown_model(parts.student.name, parts.recipe.data.source)} ← {teachers}"
    return f"{shown_model(parts.student.name, parts.recipe.data.source)} from labels"


def shown_model(name: str, source: str) -> str:
    """What reports call a model: one that was given in Python, by its class alone.

    >>> shown_model("torch.nn.modules.container:Sequential", "python")
    'Sequential'
    >>> shown_model("timm:resnet18", "digits")
    'timm:resnet18'
    """
    return re.sub(r"[\w.]+:(?:[\w<>]+\.)*(\w+)", r"\1", name) if source == "python" else name


def write_predictions(
    out: Path, test: ImageSet, logits: Tensor, teacher_logits: TeacherLogits, reference: str | None = "teacher"
) -> None:
    """Write ``predictions.safetensors``: labels and logits, and of single-label data the images that changed most.

    The only teacher's are ``teacher_logits``; of several, each has ``teacher_logits/NAME``. The images compare with the
    reference, the name of one of them.
    """
    tensors = {"labels": test.labels, "student_logits": logits}
    known = {name: theirs for name, theirs in teacher_logits.items() if theirs is not None}
    several = len(teacher_logits) > 1
    tensors |= {f"teacher_logits/{name}" if several else "teacher_logits": theirs for name, theirs in known.items()}
    shown = test.tokens is not None or test.is_pixels or _is_picture(test.images)
    if reference in known and test.task == "single_label" and shown:
        rows = test.labels[:, None]
        before = known[reference].softmax(1).gather(1, rows)
        after = logits.softmax(1).gather(1, rows)
        changed = changed_most((after - before).squeeze(1), EXAMPLES)
        tensors["example_indices"] = changed
        if test.tokens is not None:
            texts = [test.tokens.decode(ids) for ids in test.images[changed]]
            tensors["example_texts"] = torch.tensor(list(json.dumps(texts).encode()), dtype=torch.uint8)
        else:
            tensors["example_images"] = _as_bytes(test.images[changed]).contiguous()
    # One entry: safetensors writes several in an order that differs from process to process.
    key = "class_names" if test.task == "single_label" else f"{test.task}_names"
    metadata = {key: json.dumps(list(test.class_names), ensure_ascii=False)}
    write_bytes(out / "predictions.safetensors", save(tensors, metadata=metadata), checksum=True)


def _is_picture(images: Images) -> bool:
    """Whether floats can be shown as pictures, grey or in colour."""
    return images.ndim == 4 and images.shape[1] in (1, 3) and min(images.shape[2:]) > 1


def _as_bytes(images: Tensor) -> Tensor:
    """Images for the page, uint8: floats of 0 … 1 times 255, others from their least value to their largest."""
    if images.dtype == torch.uint8:
        return images
    x = images.float()
    low, high = (float(each) for each in torch.aminmax(x))
    if low < 0 or high > 1:
        x = (x - low) / max(high - low, 1e-12)
    return (255 * x).round().to(torch.uint8)


def changed_most(change: Tensor, count: int) -> Tensor:
    """Indices of the largest losses and of the largest gains, half and half, the largest change first.

    Were both ranked together, a weaker student would show losses alone.

    >>> changed_most(torch.tensor([-0.9, -0.8, 0.1, 0.3, -0.7]), 4).tolist()
    [0, 1, 3, 2]
    """
    # Stable, so that ties fall the same way in every run.
    ranked = change.sort(stable=True).indices
    count = min(count, len(change))
    ends = torch.cat([ranked[: count - count // 2], ranked[len(ranked) - count // 2 :]])
    return ends[change[ends].abs().sort(descending=True, stable=True).indices]


def latencies(models: Mapping[str, PreparedModel | None], data: ImageSet) -> Iterator[dict[str, Any]]:
    """Lines of ``timing.jsonl``: the latency of each model, as it would be used in float32 on one thread.

    Several threads wait for the slowest of them: on a busy machine for whatever else has its core.
    """
    with threads(1):
        for who, prepared in models.items():
            if prepared is None:
                continue
            example = prepared.inputs(data.images[:1])
            took = {str(batch): round(latency(prepared.model, example, batch), 4) for batch in LATENCY_BATCHES}
            line = {"event": "latency", "who": who, "milliseconds": took, "threads": torch.get_num_threads()}
            if is_tokens(example):
                # Any ids will do: texts of tokens alone, of some lengths up to that of the data.
                whole = example.clamp_min(0)
                line["by_tokens"] = {
                    str(length): round(latency(prepared.model, whole[:, :length], 1), 4)
                    for length in sorted({min(each, example.shape[1]) for each in LATENCY_LENGTHS})
                }
            yield line

"""What a finished run leaves for its report, beside the summary: answers to the test images, latencies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from stillroom.data.images import ImageSet
from stillroom.files import write_bytes
from stillroom.models.cost import latency
from stillroom.models.modes import device_of
from stillroom.models.prepared import PreparedModel
from stillroom.train.folder import RunFolder

EXAMPLES = 36
LATENCY_BATCHES = (1, 64)


def write_predictions(out: Path, test: ImageSet, student_logits: Tensor, teacher_logits: Tensor | None) -> None:
    """Write ``predictions.safetensors``: the answers, and the images whose true class changed most in probability."""
    tensors = {"labels": test.labels, "student_logits": student_logits}
    if teacher_logits is not None:
        tensors["teacher_logits"] = teacher_logits
        if test.is_pixels:
            rows = test.labels[:, None]
            before = teacher_logits.softmax(1).gather(1, rows)
            after = student_logits.softmax(1).gather(1, rows)
            changed = changed_most((after - before).squeeze(1), EXAMPLES)
            tensors["example_indices"] = changed
            tensors["example_images"] = test.images[changed].contiguous()
    names = json.dumps(list(test.class_names), ensure_ascii=False)
    write_bytes(out / "predictions.safetensors", save(tensors, metadata={"class_names": names}))


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


def time_models(folder: RunFolder, models: Mapping[str, PreparedModel | None], data: ImageSet) -> None:
    """Write the median latency of each model, as it would be used in float32, to ``timing.jsonl``."""
    for who, prepared in models.items():
        if prepared is None:
            continue
        example = prepared.preprocess()(data.images[:1]).to(device_of(prepared.model))
        took = {str(batch): round(latency(prepared.model, example, batch), 4) for batch in LATENCY_BATCHES}
        line = {"event": "latency", "who": who, "milliseconds": took, "threads": torch.get_num_threads()}
        folder.append("timing.jsonl", line)

"""The growing head: a student's logit layer gets rows for new classes, and at the end the data's class order."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stillroom.continual.exemplars import Rows
from stillroom.data.images import ImageSet
from stillroom.errors import BadInput
from stillroom.models.config import ModelConfig
from stillroom.randomness import seed_rng
from stillroom.run.components import build_model
from stillroom.run.export import SummaryFacts

State = Mapping[str, Tensor]


def build_for_classes(config: ModelConfig, data: ImageSet, classes: int) -> nn.Module:
    """The model a config names, with ``classes`` logits; its weights are drawn from the global generator."""
    facts = SummaryFacts(classes, data.shape, data.is_pixels, data.images.dtype, data.vocabulary)
    return build_model(config, facts, "student")


def student_for_task(
    config: ModelConfig, data: ImageSet, classes: int, seed: int, before: State | None, task: int
) -> nn.Module:
    """The student at the beginning of a task.

    Args:
        seed: the run's; draws all weights in the first task, those of the new logits in later ones.
        before: the weights of the student of the task before; None in the first.

    Raises:
        BadInput: the number of classes changes more of the model than its logit layer.
    """
    if before is None:
        with seed_rng(seed, "student-init"):
            return build_for_classes(config, data, classes)
    with seed_rng(seed, "student-init", task):
        model = build_for_classes(config.without_weights(), data, classes)
    model.load_state_dict(grow_head(before, model.state_dict(), field=config.name))
    return model


def grow_head(before: State, fresh: State, *, field: str = "student") -> dict[str, Tensor]:
    """A student's weights with a logit for each new class: old rows copied, new rows as drawn.

    Raises:
        BadInput: the two differ in more than the first dimension of some tensors.

    >>> before, fresh = {"w": torch.ones(1, 2), "b": torch.ones(3)}, {"w": torch.zeros(2, 2), "b": torch.zeros(3)}
    >>> {name: tensor.tolist() for name, tensor in grow_head(before, fresh).items()}
    {'w': [[1.0, 1.0], [0.0, 0.0]], 'b': [1.0, 1.0, 1.0]}
    """
    for name in {**before, **fresh}:
        old, new = before.get(name), fresh.get(name)
        if old is None or new is None or not _only_rows_grow(old, new):
            expected = f"a model of whose tensors only rows of the logit layer depend on the classes; {name!r} does too"
            raise BadInput("student", field, expected)
    return {
        name: before[name] if before[name].shape == new.shape else torch.cat([before[name], new[len(before[name]) :]])
        for name, new in fresh.items()
    }


def align_head(before: State, last: State) -> dict[str, Tensor]:
    """A student's weights with those of its new logits scaled to the norm of the old ones.

    Formula: ``w_new ← γ·w_new``, ``γ = mean_{c old} ‖w_c‖ / mean_{c new} ‖w_c‖``; the bias is left as it is.

    Args:
        before: the state of the student of the task before, which shows what grew.

    Paper: Zhao et al., Maintaining Discrimination and Fairness in Class Incremental Learning, arXiv 1911.07053.

    >>> before, last = {"w": torch.tensor([[3.0, 4.0]])}, {"w": torch.tensor([[0.0, 5.0], [0.0, 10.0]])}
    >>> align_head(before, last)["w"].tolist()
    [[0.0, 5.0], [0.0, 5.0]]
    """
    aligned = dict(last)
    for name, tensor in last.items():
        old = len(before[name]) if tensor.dim() else 0
        if tensor.dim() < 2 or before[name].shape == tensor.shape:
            continue
        norms = tensor.double().flatten(1).norm(dim=1)
        scale = norms[:old].mean() / norms[old:].mean().clamp_min(1e-12)
        aligned[name] = torch.cat([tensor[:old], (tensor[old:].double() * scale).to(tensor.dtype)])
    return aligned


def reorder_head(before: State, last: State, positions: Rows) -> dict[str, Tensor]:
    """The last student's weights with its logits in the order of the data's classes.

    Args:
        before: the state of the student of the task before, which shows what grew.
        positions: for each of the data's classes, its position in the order of classes.
    """
    index = torch.from_numpy(positions)
    return {
        name: tensor if before[name].shape == tensor.shape else tensor.index_select(0, index)
        for name, tensor in last.items()
    }


def _only_rows_grow(old: Tensor, new: Tensor) -> bool:
    same_width = old.shape[1:] == new.shape[1:] and old.dim() == new.dim()
    return same_width and (old.dim() == 0 or len(old) <= len(new))

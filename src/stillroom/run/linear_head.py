"""The last layer of a pretrained model for other classes, fitted on what the rest computes, in one pass."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillroom.data.images import DataPair, ImageSet, has_label
from stillroom.models.config import ModelConfig
from stillroom.models.prepared import logits_of, prepare_model
from stillroom.models.tail import find_head
from stillroom.models.weights import save_weights
from stillroom.observer import Observer
from stillroom.randomness import seed_rng
from stillroom.run.components import build_model
from stillroom.train.config import TrainingConfig
from stillroom.train.device import exact_float32, resolve_device, resolve_threads, threads

# Weight of ½|W|² on features of variance 1, next to the mean cross-entropy.
_DECAY = 0.01


def fit_head(config: ModelConfig, data: DataPair, training: TrainingConfig, out: Path, observer: Observer) -> bool:
    """Write a model's weights with a last layer for the data's classes, fitted by logistic regression.

    The features of every training image, as it is without augmentation, are computed once; all but the last layer
    stays as it was.

    Args:
        config: the model, with weights of other classes.
        data: single-label images.
        training: device and threads.
        out: the file of weights.
        observer: follows the pass; gets a line about the fitted layer.

    Returns:
        Whether the model ends in a linear layer with biases; else nothing is written.
    """
    device = resolve_device(training.device)
    with threads(resolve_threads(training.threads)), exact_float32(), seed_rng(0, "student-init"):
        made = build_model(config.model_copy(update={"head": "new"}), data.train, "teacher", observer.note)
        prepared = prepare_model(made.to(device), config, data.train, "teacher")
        path = find_head(prepared.model, prepared.inputs(data.train.images[:2]))
        head = prepared.model.get_submodule(path) if path is not None else None
        if not isinstance(head, nn.Linear) or head.bias is None:
            return False
        read: list[Tensor] = []

        def features(images: ImageSet) -> Tensor:
            read.clear()
            logits_of(prepared, images, device, observer, "features")
            return torch.cat(read)

        handle = head.register_forward_pre_hook(lambda module, given: read.append(given[0].detach().float().cpu()))
        try:
            weight, bias = fit_linear(features(data.train), data.train.labels, data.train.num_classes)
            with torch.no_grad():
                head.weight.copy_(weight)
                head.bias.copy_(bias)
            if data.validation is not None:
                guessed = (features(data.validation) @ weight.T + bias).argmax(1)
                right = 100 * float((guessed == data.validation.labels).float().mean())
                held = f"{right:.1f}% of {len(guessed)} validation images"
                observer.note(f"a new last layer on the model's features as they are: {held}")
        finally:
            handle.remove()
        save_weights(made, out, checksum=True)
    return True


def fit_linear(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression: weights [K, d] and biases [K], float32, least mean cross-entropy + ½λ|W|².

    Args:
        features: [N, d]; scaled to mean 0 and variance 1 for the fit.
        labels: class numbers, [N]; those without a label are left out.

    >>> weight, bias = fit_linear(torch.tensor([[0.0], [1.0], [4.0], [5.0]]), torch.tensor([0, 0, 1, 1]), 2)
    >>> (torch.tensor([[0.5], [4.5]]) @ weight.T + bias).argmax(1).tolist()
    [0, 1]
    """
    known = has_label(labels)
    x, y = features[known].double(), labels[known]
    mean, deviation = x.mean(0), x.std(0, correction=0).clamp_min(1e-6)
    x = (x - mean) / deviation
    weight = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, y) + 0.5 * _DECAY * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        scaled = weight / deviation
        return scaled.float(), (bias - scaled @ mean).float()

"""A student's penultimate features of images, by which exemplars are chosen and their means answer."""

from __future__ import annotations

import torch
from torch import Tensor

from stillroom.data.images import Images
from stillroom.models.modes import device_of, eval_mode
from stillroom.models.prepared import EVALUATION_BATCH, PreparedModel
from stillroom.models.reader import FEATURES, TapReader


@torch.no_grad()
def features_of(prepared: PreparedModel, images: Images) -> Tensor:
    """What the layer that makes the logits is given, of images as they are: float32 [N, d] on the CPU.

    Args:
        prepared: the student; asked in eval mode and float32.
        images: [N, C, H, W] as the data gives them.
    """
    device = device_of(prepared.model)
    pipe = prepared.preprocess().to(device)
    taps = TapReader(prepared.model, [FEATURES], field="student")
    found = []
    with eval_mode(prepared.model):
        for start in range(0, len(images), EVALUATION_BATCH):
            with taps:
                prepared.model(pipe(images[start : start + EVALUATION_BATCH].to(device)))
            found.append(taps.take()[FEATURES].flatten(1).float().cpu())
    return torch.cat(found)

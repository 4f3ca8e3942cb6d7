"""The teacher that is run on every batch: frozen, in eval mode, its batch norms folded, in low precision if asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stillroom.data.loader import Batch
from stillroom.memory import in_parts
from stillroom.models.fold import fold_batchnorm
from stillroom.models.modes import device_of
from stillroom.models.preprocess import Preprocess
from stillroom.models.reader import TapReader
from stillroom.teachers.fisher import FisherOf, tail_fisher, uniform_draws
from stillroom.teachers.knowledge import ModelOutput
from stillroom.teachers.tails import TeacherTail


class LiveTeacher:
    """Answers each batch by running the model, without gradient.

    It is no ``nn.Module`` and works on a copy: it can get into no state_dict, and the model it was made from keeps
    its parameters and buffers bit for bit.

    Args:
        model: the teacher; copied.
        preprocess: what the teacher's own input goes through; it also puts its logits in the data's class order.
        example: a few images as the data gives them, [B, C, H, W], to check that folding is exact to tolerance.
        device: where it runs.
        precision: ``torch.bfloat16`` runs it under autocast; ``torch.float32`` exactly.
        taps: modules whose outputs are read beside the logits.
        fishers: Fisher weights that are worked out of each answer; their taps are among ``taps``.
        tails: the teacher from these taps on.
        one_view: whether an image is the same in every view, so that the same classes are drawn of its answer, too.

    Attributes:
        folded: whether the batch norms were folded into the convolutions.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocess: Preprocess,
        *,
        example: Tensor,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        taps: Sequence[str] = (),
        fishers: Sequence[FisherOf] = (),
        tails: Mapping[str, TeacherTail] | None = None,
        one_view: bool = False,
    ) -> None:
        self.precision = precision
        self.device = device
        # Folded where the model is, then moved: the check compares both on one device.
        copy, self.folded = fold_batchnorm(model, preprocess(example).to(device_of(model)), keep=taps)
        self.preprocess = preprocess.to(device)
        copy.requires_grad_(False).eval().to(device)
        self.model = copy.to(memory_format=torch.channels_last) if example.dim() == 4 else copy  # type: ignore[call-overload]
        self._taps = TapReader(self.model, taps, field="teacher")
        self._fishers = tuple(fishers)
        self._tails = dict(tails or {})
        self._one_view = one_view

    def __call__(self, batch: Batch) -> ModelOutput:
        """What the teacher says of a batch, by parts where memory runs out.

        Args:
            batch: images as the data gives them, on the teacher's device.

        Returns:
            Its ModelOutput, all in float32; logits [B, K] in the data's class order.
        """
        parts = in_parts(lambda rows: [self._answer(batch.subset(rows))], len(batch))
        if len(parts) == 1:
            return parts[0]
        features = {tap: torch.cat([part.features[tap] for part in parts]) for tap in parts[0].features}
        fishers = {of: torch.cat([part.fishers[of] for part in parts]) for of in self._fishers}
        return ModelOutput(torch.cat([part.logits for part in parts]), features, fishers)

    @torch.no_grad()
    def _answer(self, batch: Batch) -> ModelOutput:
        with self._taps, torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            logits = self.model(self.preprocess(batch.images))
        features = {tap: feature.float() for tap, feature in self._taps.take().items()}
        view = 0 if self._one_view else batch.view
        fishers = {of: self._fisher(of, features[of.tap], batch.rows, view) for of in self._fishers}
        return ModelOutput(self.preprocess.reorder(logits.float()), features, fishers)

    def _fisher(self, of: FisherOf, features: Tensor, rows: npt.NDArray[np.int64], view: int) -> Tensor:
        draws = uniform_draws(of.samples, rows, view).to(features.device) if of.samples else None
        return tail_fisher(self._tails[of.tap], features, temperature=of.temperature, draws=draws)

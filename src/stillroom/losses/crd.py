"""``crd``: contrastive representation distillation, against a memory bank of all training samples."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from stillroom.errors import BadInput
from stillroom.losses.base import Citation, LossInputs, Requires
from stillroom.losses.connectors import channels_of
from stillroom.losses.feature_base import PlainFeatureConfig, PooledLoss
from stillroom.losses.numerics import batch_mean, check_batch, widen
from stillroom.losses.setup_context import SetupContext
from stillroom.randomness import derive_seed

# Up to so many rows of the bank for each negative, all scores at once cost less than gathering the negatives' rows.
_ROWS_PER_NEGATIVE = 32


class CRDConfig(PlainFeatureConfig):
    """Contrastive representation distillation."""

    name: Literal["crd"] = "crd"
    taps: Literal["features"] = Field("features", description="Where features are read: before the last layer.")
    dimension: int = Field(128, ge=1, description="Width d of the embeddings and of the memory bank.")
    negatives: int = Field(16384, ge=1, description="Negatives K that are drawn for each image, with replacement.")
    contrast: Literal["other_classes", "other_images"] = Field(
        "other_classes", description="What may be a negative: images of other classes, or any other image."
    )
    nce_temperature: float = Field(0.07, gt=0, description="Temperature τ that divides the inner products.")
    momentum: float = Field(0.5, ge=0, lt=1, description="Share of a bank's row that a new embedding leaves.")


def crd(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    student_bank: Tensor,
    teacher_bank: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    nce_temperature: float = 0.07,
    log_normalizers: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Contrastive representation distillation: noise-contrastive estimation against a memory bank, both ways round.

    Formula: ``Σ_views mean_b [log(1 + c/s_b+) + Σ_k log(1 + s_bk/c)]``, s = exp(e·m/τ)/Z, c = K/N, over two views: e
    the student's embedding and m the teacher's bank, and the other way round; + the image's own row. Z = N·mean of
    exp(e·m/τ) over the batch, detached; the published code adds 10⁻⁷ to the denominators, which is left out here. All
    of it is computed in logarithms. The B×N inner products come from one matrix product where N ≤ 32·K, as gathering
    B·K rows of d numbers costs more.

    Args:
        student_embedding: [B, d], of length 1.
        teacher_embedding: [B, d], of length 1; not detached, as the teacher's embedding layer learns, too.
        student_bank: [N, d], a row for each training sample; detached.
        teacher_bank: the like.
        positives: each image's row, int64 [B].
        negatives: rows of the negatives, int64 [B, K].
        nce_temperature: τ > 0.
        log_normalizers: log Z of both views, scalars; left out: from this batch.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: the shapes differ.

    Paper: Tian et al., Contrastive Representation Distillation, arXiv 1910.10699.

    >>> e = F.normalize(torch.eye(4), dim=1)
    >>> rows = torch.arange(4)
    >>> right = crd(e, e, e, e, rows, (rows[:, None] + 1) % 4)
    >>> right < crd(e.roll(1, 0), e, e, e, rows, (rows[:, None] + 1) % 4)
    tensor(True)
    """
    shapes = [tuple(x.shape) for x in (student_embedding, teacher_embedding, student_bank, teacher_bank)]
    fits = student_embedding.dim() == student_bank.dim() == 2 and shapes[0][1] == shapes[2][1]
    if not fits or shapes[0] != shapes[1] or shapes[2] != shapes[3]:
        raise ValueError(f"crd: got embeddings {shapes[:2]}, banks {shapes[2:]}; expected [batch, d] and [samples, d]")
    if positives.shape != shapes[0][:1] or negatives.dim() != 2 or len(negatives) != shapes[0][0]:
        raise ValueError(
            f"crd: got positives {tuple(positives.shape)} and negatives {tuple(negatives.shape)} for embeddings "
            f"{shapes[0]}; expected [batch] and [batch, negatives]"
        )
    rows = torch.cat([positives[:, None], negatives], 1)
    scores = (
        _scores(student_embedding, teacher_bank, rows, nce_temperature),
        _scores(teacher_embedding, student_bank, rows, nce_temperature),
    )
    if log_normalizers is None:
        log_normalizers = _log_normalizer(scores[0], len(student_bank)), _log_normalizer(scores[1], len(student_bank))
    return _sum_of_views(scores, log_normalizers, len(student_bank))


def _scores(embedding: Tensor, bank: Tensor, rows: Tensor, temperature: float) -> Tensor:
    """Inner products of each embedding with its rows of a bank, over τ: [B, 1 + K]."""
    embedding, bank = widen(embedding) / temperature, widen(bank).detach()
    with torch.autocast(embedding.device.type, enabled=False):
        if len(bank) <= _ROWS_PER_NEGATIVE * rows.shape[1]:
            return (embedding @ bank.T).gather(1, rows)
        return (bank[rows] @ embedding[:, :, None]).squeeze(2)


def _sum_of_views(scores: Sequence[Tensor], log_normalizers: Sequence[Tensor], samples: int) -> Tensor:
    """The formula of :func:`crd`, from the scores of both views before they are normalised."""
    views = []
    for each, log_z in zip(scores, log_normalizers, strict=True):
        # log(s/c), c = K/N.
        ratio = each - log_z - math.log((each.shape[1] - 1) / samples)
        views.append(batch_mean(F.softplus(-ratio[:, 0]) + F.softplus(ratio[:, 1:]).sum(1)))
    return views[0] + views[1]


def _log_normalizer(scores: Tensor, samples: int) -> Tensor:
    """Log Z of a batch's scores, detached; 0 of none."""
    if not scores.numel():
        return scores.new_zeros(())
    return scores.detach().flatten().logsumexp(0) + math.log(samples / scores.numel())


class CRD(PooledLoss[CRDConfig]):
    """Contrastive representation distillation; see :func:`crd`.

    Both models' features go through a linear layer to d and are normalised. The banks hold an embedding of each
    training sample, random at first; after each step the batch's rows move towards its embeddings. Z is that of the
    first batch. What is drawn depends on the seed and the step alone. The banks are in each save of a run and are
    copied at no other time; each process keeps its own, the same, from the gathered batch. In evaluation mode nothing
    is kept. Used outside a run, call :meth:`after_step` after each optimizer step.
    """

    citation = Citation("Contrastive Representation Distillation", "1910.10699", "tian2020contrastive")
    family = "relations"
    tasks = ("single_label",)
    requires = Requires(teacher=True, labels=True, index=True)
    local_buffers = ("student_bank", "teacher_bank", "log_normalizers", "row_of", "rows", "first", "count")

    student_bank: Tensor
    teacher_bank: Tensor
    log_normalizers: Tensor
    row_of: Tensor
    rows: Tensor
    first: Tensor
    count: Tensor

    def setup(self, setup_context: SetupContext) -> None:
        """Choose the taps, make the embeddings and the banks.

        Raises:
            BadInput: there are no negatives: all training images are of one class, or the class of some is not known.
        """
        super().setup(setup_context)
        field, samples = f"losses.{self.name}", setup_context.samples
        if samples is None:
            raise BadInput(field, self.name, "the training samples: SetupContext(samples=TrainingSamples(…))")
        unlabelled = int((samples.labels < 0).sum())
        if unlabelled and self.config.contrast == "other_classes":
            expected = f"other_images: a negative is an image of another class, and {unlabelled:,} images have no label"
            raise BadInput(f"{field}.contrast", self.config.contrast, expected)
        labels = samples.labels.clamp_min(0)
        classes = labels.bincount(minlength=setup_context.num_classes)
        most = int(classes.max()) if self.config.contrast == "other_classes" else 1
        if most >= len(samples.index):
            expected = "training images of at least two classes: a negative is an image of another class"
            raise BadInput(field, self.name, expected)
        self._seed, size = setup_context.seed, self.config.dimension
        ((teacher, student),) = self.pairs
        with setup_context.seeded("crd", student.name, teacher.name):
            self.student_embedding = nn.Linear(channels_of(student), size)
            self.teacher_embedding = nn.Linear(channels_of(teacher), size)
            bound = math.sqrt(3 / size)
            for name in ("student_bank", "teacher_bank"):
                self.register_buffer(name, torch.empty(len(samples.index), size).uniform_(-bound, bound))
        # NaN: no batch was seen yet.
        self.register_buffer("log_normalizers", torch.full((2,), math.nan))
        row_of = torch.zeros(samples.count, dtype=torch.int64)
        row_of[samples.index] = torch.arange(len(samples.index))
        # Bank rows sorted by class, and where each class begins among them: they follow from the data.
        derived = {
            "row_of": row_of,
            "rows": labels.argsort(stable=True),
            "first": classes.cumsum(0) - classes,
            "count": classes,
        }
        for name, tensor in derived.items():
            self.register_buffer(name, tensor, persistent=False)
        self._last: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self._is_first: bool | None = None

    def requirements(self, setup_context: SetupContext) -> Requires:
        """The features of both, the sample's index, and its class."""
        labels = self.config.contrast == "other_classes"
        return replace(super().requirements(setup_context), labels=labels, index=True)

    def forward(self, inputs: LossInputs) -> Tensor:
        # The teacher's embedding layer learns, the teacher does not.
        student, teacher = check_batch(*next(self.pooled_pairs(inputs)))
        embedded = [
            F.normalize(widen(layer(features.to(layer.weight.dtype))), dim=1)
            for layer, features in ((self.student_embedding, student), (self.teacher_embedding, teacher))
        ]
        rows, config = self.row_of[inputs.index], self.config
        negatives = self._draw(rows, inputs.labels, inputs.progress)
        drawn = torch.cat([rows[:, None], negatives], 1)
        scores = [
            _scores(embedding, bank, drawn, config.nce_temperature)
            for embedding, bank in zip(embedded, (self.teacher_bank, self.student_bank), strict=True)
        ]
        if self._is_first is None:
            # Once, as it waits for the device.
            self._is_first = bool(self.log_normalizers.isnan().any())
        log_z = self.log_normalizers
        if self._is_first:
            log_z = torch.stack([_log_normalizer(each, len(self.student_bank)) for each in scores])
        if self.training:
            self._last = rows, embedded[0].detach(), embedded[1].detach(), log_z
        return _sum_of_views(scores, log_z.unbind(), len(self.student_bank))

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the last batch's rows of both banks towards its embeddings."""
        if self._last is None:
            return
        rows, student, teacher, log_z = self._last
        self._last = None
        if self._is_first:
            self.log_normalizers.copy_(log_z)
            self._is_first = False
        for bank, embedding in ((self.student_bank, student), (self.teacher_bank, teacher)):
            kept = self.config.momentum * bank[rows] + (1 - self.config.momentum) * embedding.to(bank.dtype)
            bank[rows] = F.normalize(kept, dim=1)

    def _draw(self, rows: Tensor, labels: Tensor, progress: float) -> Tensor:
        """Rows of the negatives, int64 [B, K]: a pure function of the seed, the step and the batch."""
        step = int.from_bytes(struct.pack("<d", progress), "little")
        draw = torch.Generator(rows.device).manual_seed(derive_seed(self._seed, "negatives", step))
        shares = torch.rand(len(rows), self.config.negatives, generator=draw, device=rows.device)
        if self.config.contrast == "other_images":
            place = _below(shares, rows.new_full((len(rows), 1), len(self.rows) - 1))
            return place + (place >= rows[:, None])
        count = self.count[labels][:, None]
        place = _below(shares, len(self.rows) - count)
        return self.rows[place + count * (place >= self.first[labels][:, None])]


def _below(shares: Tensor, end: Tensor) -> Tensor:
    """Shares in [0, 1) as whole numbers below an end, which rounding might reach."""
    return (shares * end).long().minimum(end - 1)

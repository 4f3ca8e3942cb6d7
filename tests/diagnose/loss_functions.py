"""Loss functions as people write them, each with the check that finds its fault; those without one are right."""

# ruff: noqa: E731, F841, N803, N806 - as people write it
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# name → the loss, and the one check that must be a problem; None for a loss that is right, or unusual on purpose.
LOSSES: dict[str, tuple[Any, str | None]] = {}


def has(fault: str | None) -> Callable[[Any], Any]:
    def add(loss: Any) -> Any:
        LOSSES[loss.__name__] = (loss, fault)
        return loss

    return add


def log_soft(z: Tensor, tau: float = 1.0, dim: int = 1) -> Tensor:
    return F.log_softmax(z / tau, dim)


def soft(z: Tensor, tau: float = 1.0, dim: int = 1) -> Tensor:
    return F.softmax(z / tau, dim)


def kl(log_q: Tensor, p: Tensor, reduction: str = "batchmean") -> Tensor:
    return F.kl_div(log_q, p, reduction=reduction)


@has(None)
def textbook(student_logits, teacher_logits, labels, T=4.0, alpha=0.9):
    return (1 - alpha) * F.cross_entropy(student_logits, labels) + alpha * T * T * kl(
        log_soft(student_logits, T, 1), soft(teacher_logits, T, 1)
    )


@has("loss_scale")
def mean_reduction(student_logits, teacher_logits, labels, T=4.0, alpha=0.9):
    return (1 - alpha) * F.cross_entropy(student_logits, labels) + alpha * T * T * kl(
        log_soft(student_logits, T, 1), soft(teacher_logits, T, 1), "mean"
    )


@has("loss_scale")
def no_t2(outputs, labels, teacher_outputs, params):
    T = params.temperature
    a = params.alpha
    return nn.KLDivLoss(reduction="batchmean")(
        log_soft(outputs, T, 1), soft(teacher_outputs, T, 1)
    ) * a + F.cross_entropy(outputs, labels) * (1 - a)


@has("loss_scale")
def hard_t2(s, t, y):
    return 0.5 * F.cross_entropy(s, y) + 0.5 * kl(log_soft(s, 5, 1), soft(t, 5, 1))


@has("loss_scale")
def sum_kl(y_s, y_t, target, T=2.0):
    return F.cross_entropy(y_s, target) + T * T * kl(log_soft(y_s, T, 1), soft(y_t, T, 1), "sum")


@has("loss_scale")
def t4(y_s, y_t, target, T=2.0):
    return F.cross_entropy(y_s, target) + T**4 * kl(log_soft(y_s, T, 1), soft(y_t, T, 1))


@has("roles_swapped")
def swapped_kl(student_logits, teacher_logits, labels, T=4.0):
    return F.cross_entropy(student_logits, labels) + T * T * kl(
        log_soft(teacher_logits, T, 1), soft(student_logits, T, 1)
    )


@has(None)
def reverse_kl(student_logits, teacher_logits):
    q = soft(student_logits, dim=1)
    return (q * (log_soft(student_logits, dim=1) - log_soft(teacher_logits, dim=1))).sum(1).mean()


@has("roles_swapped")
def swapped_ce(student_logits, teacher_logits, labels):
    return (
        F.cross_entropy(student_logits, labels)
        - (soft(student_logits, dim=1) * log_soft(teacher_logits, dim=1)).sum(1).mean()
    )


@has("roles_swapped")
def ce_on_teacher(student_logits, teacher_logits, labels, T=3.0):
    return F.cross_entropy(teacher_logits, labels) + T * T * kl(
        log_soft(student_logits, T, 1), soft(teacher_logits, T, 1)
    )


@has("probabilities_for_logits")
def prob_input(student_logits, teacher_logits, labels, T=3.0):
    return F.cross_entropy(student_logits, labels) + T * T * kl(soft(student_logits, T, 1), soft(teacher_logits, T, 1))


@has("probabilities_for_logits")
def log_target_missing(student_logits, teacher_logits, labels, T=3.0):
    return F.cross_entropy(student_logits, labels) + T * T * kl(
        log_soft(student_logits, T, 1), log_soft(teacher_logits, T, 1)
    )


@has("probabilities_for_logits")
def double_softmax(student_logits, teacher_logits, labels, T=3.0):
    return F.cross_entropy(soft(student_logits, dim=1), labels) + T * T * kl(
        log_soft(student_logits, T, 1), soft(teacher_logits, T, 1)
    )


@has("probabilities_for_logits")
def raw_teacher(student_logits, teacher_logits, labels):
    return F.cross_entropy(student_logits, labels) + kl(log_soft(student_logits, dim=1), teacher_logits)


@has("probabilities_for_logits")
def twice_teacher(student_logits, teacher_logits, labels, T=4.0):
    return F.cross_entropy(student_logits, labels) + T * T * kl(
        log_soft(student_logits, T, 1), soft(soft(teacher_logits), T)
    )


@has("probabilities_for_logits")
def raw_student(student_logits, teacher_logits, labels, T=4.0):
    return F.cross_entropy(student_logits, labels) + kl(student_logits / T, soft(teacher_logits, T, 1))


@has(None)
def takes_probs(student_logits, teacher_probs):
    return -(teacher_probs * log_soft(student_logits, dim=-1)).sum(-1).mean()


@has(None)
def soft_ce(logits, soft_targets):
    return -(soft_targets * log_soft(logits, dim=-1)).sum(-1).mean()


@has("temperature_one_sided")
def one_sided(student_logits, teacher_logits, labels, T=4.0):
    return F.cross_entropy(student_logits, labels) + T * T * kl(
        log_soft(student_logits, dim=1), soft(teacher_logits, T, 1)
    )


@has("temperature_one_sided")
def one_sided2(student_logits, teacher_logits, T=4.0):
    return T * T * kl(log_soft(student_logits, T, 1), soft(teacher_logits, dim=1))


@has("batch_split")
def dim0(student_logits, teacher_logits, labels, T=4.0):
    return F.cross_entropy(student_logits, labels) + T * T * kl(
        log_soft(student_logits, T, 0), soft(teacher_logits, T, 0)
    )


@has("batch_split")
def dim0_teacher(student_logits, teacher_logits, T=4.0):
    return T * T * kl(log_soft(student_logits, T, 1), soft(teacher_logits, T, 0))


@has("batch_split")
def flipped(student_logits, teacher_logits, labels):
    return F.cross_entropy(student_logits, labels) + kl(
        log_soft(student_logits, dim=1), soft(teacher_logits.flip(0), dim=1)
    )


@has("student_no_gradient")
def item(student_logits, teacher_logits):
    return kl(log_soft(student_logits, dim=1), soft(teacher_logits, dim=1)).item()


@has("student_no_gradient")
def nograd(student_logits, teacher_logits):
    with torch.no_grad():
        return kl(log_soft(student_logits, dim=1), soft(teacher_logits, dim=1))


@has("teacher_gradient")
def wrong_detach(student_logits, teacher_logits, labels):
    return F.cross_entropy(student_logits, labels) + kl(
        log_soft(student_logits.detach(), dim=1), soft(teacher_logits, dim=1)
    )


@has("teacher_unused")
def same(student_logits, teacher_logits, labels, T=4.0):
    return F.cross_entropy(student_logits, labels) + T * T * kl(
        log_soft(student_logits, T, 1), soft(student_logits.detach() / T, dim=1)
    )


@has("teacher_unused")
def forgot(student_logits, teacher_logits, labels, T=4.0):
    kd = T * T * kl(log_soft(student_logits, T, 1), soft(teacher_logits, T, 1))
    return F.cross_entropy(student_logits, labels)


@has("labels_unused")
def nolab(student_logits, teacher_logits, labels, T=4.0, alpha=0.5):
    hard = F.cross_entropy(student_logits, labels)
    kd = T * T * kl(log_soft(student_logits, T, 1), soft(teacher_logits, T, 1))
    hard = kd
    return alpha * hard + (1 - alpha) * kd


@has("weights_swapped")
def weights(student_logits, teacher_logits, labels, T=4.0, kd_weight=0.5):
    return kd_weight * F.cross_entropy(student_logits, labels) + (1 - kd_weight) * T * T * kl(
        log_soft(student_logits, T, 1), soft(teacher_logits, T, 1)
    )


@has("weights_swapped")
class KDLoss(nn.Module):
    def __init__(self, T=4.0, alpha=0.5):
        """alpha: the share of the hard-label loss."""
        super().__init__()
        self.T = T
        self.alpha = alpha
        self.ce = nn.CrossEntropyLoss()
        self.kl = nn.KLDivLoss(reduction="batchmean")

    def forward(self, y_s, y_t, y):
        return (1 - self.alpha) * self.ce(y_s, y) + self.alpha * self.T**2 * self.kl(
            log_soft(y_s, self.T, 1), soft(y_t, self.T, 1)
        )


@has("loss_minimum")
def negative(student_logits, teacher_logits, labels, T=4.0):
    return F.cross_entropy(student_logits, labels) - T * T * kl(
        log_soft(student_logits, T, 1), soft(teacher_logits, T, 1)
    )


@has("ignored_rows")
def padded(student_logits, teacher_logits, labels, T=2.0):
    K = student_logits.size(-1)
    return F.cross_entropy(student_logits.view(-1, K), labels.view(-1)) + T * T * kl(
        log_soft(student_logits.view(-1, K) / T, dim=-1), soft(teacher_logits.view(-1, K) / T, dim=-1)
    )


@has(None)
def masked(student_logits, teacher_logits, labels, T=2.0):
    m = labels != -100
    s = student_logits[m]
    t = teacher_logits[m]
    return F.cross_entropy(s, labels[m]) + T * T * kl(log_soft(s, T, -1), soft(t, T, -1))


@has("loss_scale")
def summed_positions(student_logits, teacher_logits, labels, T=2.0):
    m = (labels != -100).unsqueeze(-1)
    return F.cross_entropy(student_logits.transpose(1, 2), labels) + T * T * kl(
        log_soft(student_logits, T, -1) * m, soft(teacher_logits, T, -1) * m
    )


@has("half_precision")
def eps(student_logits, teacher_logits, labels):
    q = soft(student_logits, dim=1)
    p = soft(teacher_logits, dim=1)
    return F.cross_entropy(student_logits, labels) + (p * (torch.log(p + 1e-8) - torch.log(q + 1e-8))).sum(1).mean()


@has(None)
def logit_mse(student_logits, teacher_logits, labels):
    return F.cross_entropy(student_logits, labels) + F.mse_loss(student_logits, teacher_logits)


@has(None)
def cosine(s, t):
    return 1 - F.cosine_similarity(s, t, dim=-1).mean()


@has(None)
def hardteacher(student_logits, teacher_logits):
    return F.cross_entropy(student_logits, teacher_logits.argmax(1))


@has(None)
def mixup(logits, teacher_logits, y_a, y_b, lam):
    return (
        lam * F.cross_entropy(logits, y_a)
        + (1 - lam) * F.cross_entropy(logits, y_b)
        + 4 * kl(log_soft(logits, 2, 1), soft(teacher_logits, 2, 1))
    )


@has(None)
def standardised(s, t, labels, T=2.0):
    f = lambda z: (z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True)
    return F.cross_entropy(s, labels) + T * T * kl(log_soft(f(s) / T, dim=1), soft(f(t) / T, dim=1))


@has(None)
def dkd(logits_student, logits_teacher, target, alpha=1.0, beta=8.0, temperature=4.0):
    gt = F.one_hot(target, logits_student.shape[1]).bool()
    ps = soft(logits_student, temperature, 1)
    pt = soft(logits_teacher, temperature, 1)
    cat = lambda p: torch.stack([(p * gt).sum(1), (p * ~gt).sum(1)], 1)
    tckd = kl(torch.log(cat(ps)), cat(pt)) * temperature**2
    nckd = (
        kl(
            log_soft(logits_student / temperature - 1000.0 * gt, dim=1),
            soft(logits_teacher / temperature - 1000.0 * gt, dim=1),
        )
        * temperature**2
    )
    return alpha * tckd + beta * nckd


@has(None)
def jsd(a, b):
    p = soft(a, 2, 1)
    q = soft(b, 2, 1)
    m = 0.5 * (p + q)
    return 0.5 * (kl(m.log(), p) + kl(m.log(), q))


@has(None)
def rkd(f_s, f_t):
    d = lambda f: torch.cdist(f.flatten(1), f.flatten(1)) / torch.cdist(f.flatten(1), f.flatten(1)).mean()
    return F.smooth_l1_loss(d(f_s) + 0, d(f_t).detach())


@has(None)
def relational(s, t):
    n = lambda z: F.normalize(z, dim=1) @ F.normalize(z, dim=1).T
    return F.mse_loss(n(s), n(t))


@has(None)
def pure_kd_with_label(student_logits, teacher_logits, labels=None, T=4.0):
    return T * T * kl(log_soft(student_logits, T, 1), soft(teacher_logits, T, 1))


@has(None)
def ls(student, teacher, target):
    return 0.7 * F.cross_entropy(student, target, label_smoothing=0.1) + 0.3 * kl(
        log_soft(student, dim=1), soft(teacher, dim=1)
    )


@has(None)
def dist(y_s, y_t):
    pc = lambda a, b: F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True), dim=1)
    p, q = soft(y_s, dim=1), soft(y_t, dim=1)
    return (1 - pc(p, q)).mean() + (1 - pc(p.T, q.T)).mean()


@has(None)
def featmse(feat_s, feat_t):
    return F.mse_loss(feat_s, feat_t)


@has(None)
def logtarget(student_logits, teacher_logits, T=2.0):
    return (
        T
        * T
        * F.kl_div(
            log_soft(student_logits, T, -1), log_soft(teacher_logits, T, -1), reduction="batchmean", log_target=True
        )
    )


@has(None)
def focal(s, t, labels, gamma=2.0):
    lp = log_soft(s, dim=1).gather(1, labels[:, None])[:, 0]
    return (-((1 - lp.exp()) ** gamma) * lp).mean() + 4 * kl(log_soft(s, 2, 1), soft(t, 2, 1))


@has(None)
def topk(s, t, labels):
    v, i = t.topk(3, 1)
    return F.cross_entropy(s, labels) + kl(log_soft(s.gather(1, i), dim=1), soft(v, dim=1))


@has(None)
def skewkl(student_logits, teacher_logits):
    p = soft(teacher_logits, dim=-1)
    q = soft(student_logits, dim=-1)
    m = 0.1 * p + 0.9 * q
    return (p * (p / m).log()).sum(-1).mean()


@has(None)
def weighted_by_conf(student_logits, teacher_logits, labels):
    w = soft(teacher_logits, dim=1).max(1).values.detach()
    return (
        F.cross_entropy(student_logits, labels)
        + (w * F.kl_div(log_soft(student_logits, dim=1), soft(teacher_logits, dim=1), reduction="none").sum(1)).mean()
    )


@has(None)
def only_correct(student_logits, teacher_logits, labels):
    ok = (teacher_logits.argmax(1) == labels).float()
    return (
        F.cross_entropy(student_logits, labels)
        + (ok * F.kl_div(log_soft(student_logits, dim=1), soft(teacher_logits, dim=1), reduction="none").sum(1)).mean()
    )

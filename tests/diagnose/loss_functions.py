"""Loss functions as people write them, each with the check that finds its fault; those without one are right."""

# ruff: noqa: B905, E731, F841, N803, N806, RUF059 - as people write it
from __future__ import annotations

import math
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
def distances_between_rows(student_e, teacher_e):
    def d(e):
        e = (e[None] - e[:, None]).square().sum(-1).clamp(min=1e-4).sqrt()
        return e / e.mean()

    return F.smooth_l1_loss(d(student_e), d(teacher_e).detach())


@has(None)
def kd_loss_sum(student_logits, teacher_logits, T=2.0):
    return T * T * kl(log_soft(student_logits, T, 1), soft(teacher_logits, T, 1), "sum")


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
def topk(s, t, labels):
    v, i = t.topk(3, 1)
    return F.cross_entropy(s, labels) + kl(log_soft(s.gather(1, i), dim=1), soft(v, dim=1))


@has("loss_scale")
class DistillationLoss(nn.Module):
    def __init__(self, temperature=4.0, alpha=0.5):
        super().__init__()
        self.temperature = temperature
        self.alpha = alpha
        self.kl = nn.KLDivLoss()
        self.ce = nn.CrossEntropyLoss()

    def forward(self, student_out, teacher_out, target):
        kd = (
            self.kl(
                F.log_softmax(student_out / self.temperature, dim=1), F.softmax(teacher_out / self.temperature, dim=1)
            )
            * self.temperature**2
        )
        return self.alpha * kd + (1 - self.alpha) * self.ce(student_out, target)


@has("loss_scale")
def hf(outputs_s, outputs_t, labels, T=2.0):
    s, t = outputs_s.logits, outputs_t.logits
    return 0.5 * F.cross_entropy(s, labels) + 0.5 * F.kl_div(
        F.log_softmax(s / T, -1), F.softmax(t / T, -1), reduction="batchmean"
    )


@has(None)
def hf_ok(outputs_s, outputs_t, labels, T=2.0):
    s, t = outputs_s.logits, outputs_t.logits
    return 0.5 * F.cross_entropy(s, labels) + 0.5 * T * T * F.kl_div(
        F.log_softmax(s / T, -1), F.softmax(t / T, -1), reduction="batchmean"
    )


@has("temperature_one_sided")
def softened_hard(s_logits, t_logits, y, T=4.0):
    s = s_logits / T
    return F.cross_entropy(s, y) + T * T * F.kl_div(
        F.log_softmax(s, 1), F.softmax(t_logits / T, 1), reduction="batchmean"
    )


@has("temperature_one_sided")
def inplace(s_logits, t_logits, y, T=4.0):
    s_logits /= T
    t_logits /= T
    return F.cross_entropy(s_logits, y) + T * T * F.kl_div(
        F.log_softmax(s_logits, 1), F.softmax(t_logits, 1), reduction="batchmean"
    )


@has("loss_scale")
def mse_sum(student, teacher, labels):
    return F.cross_entropy(student, labels) + F.mse_loss(student, teacher, reduction="sum")


@has("loss_scale")
def ce_sum(student, teacher, labels):
    return F.cross_entropy(student, labels, reduction="sum") + 4 * F.kl_div(
        F.log_softmax(student / 2, 1), F.softmax(teacher / 2, 1), reduction="batchmean"
    )


@has("loss_minimum")
def sign(student, teacher, labels):
    q = F.log_softmax(student, -1)
    p = F.softmax(teacher, -1)
    return F.cross_entropy(student, labels) + (p * (q - p.log())).sum(-1).mean()


@has("loss_minimum")
def sign2(student, teacher):
    q = F.log_softmax(student, -1)
    p = F.softmax(teacher, -1)
    return (p * q).sum(-1).mean()


@has("batch_split")
def seqdim(student_logits, teacher_logits, labels, T=2.0):
    K = student_logits.shape[-1]
    return F.cross_entropy(student_logits.reshape(-1, K), labels.reshape(-1), ignore_index=-100) + T * T * F.kl_div(
        F.log_softmax(student_logits / T, dim=1), F.softmax(teacher_logits / T, dim=1), reduction="batchmean"
    )


@has("ignored_rows")
def hfmask(s_logits, t_logits, labels, attention_mask=None, T=2.0):
    K = s_logits.size(-1)
    ce = F.cross_entropy(s_logits.view(-1, K), labels.view(-1), ignore_index=-100)
    kd = F.kl_div(F.log_softmax(s_logits / T, -1), F.softmax(t_logits / T, -1), reduction="none").sum(-1).mean() * T * T
    return ce + kd


@has(None)
def distilbert(s_logits, t_logits, attention_mask, T=2.0):
    m = attention_mask.unsqueeze(-1).expand_as(s_logits).bool()
    s = torch.masked_select(s_logits, m).view(-1, s_logits.size(-1))
    t = torch.masked_select(t_logits, m).view(-1, s_logits.size(-1))
    return nn.KLDivLoss(reduction="batchmean")(F.log_softmax(s / T, -1), F.softmax(t / T, -1)) * T**2


@has("ignored_rows")
def maskunused(s_logits, t_logits, attention_mask, T=2.0):
    m = attention_mask.unsqueeze(-1)
    kd = F.kl_div(F.log_softmax(s_logits / T, -1), F.softmax(t_logits / T, -1), reduction="none")
    return kd.sum(-1).mean() * T * T + 0 * m.sum()


@has(None)
def mixtarget(student_logits, teacher_logits, labels, alpha=0.3):
    t = alpha * F.one_hot(labels, student_logits.shape[1]) + (1 - alpha) * F.softmax(teacher_logits, 1)
    return F.cross_entropy(student_logits, t)


@has(None)
def nkd(logit_s, logit_t, gt_label, temp=1.0, gamma=1.5):
    label = gt_label.reshape(-1, 1)
    N, c = logit_s.shape
    s_i = F.log_softmax(logit_s, 1)
    t_i = F.softmax(logit_t, 1)
    s_t = s_i.gather(1, label)
    t_t = t_i.gather(1, label).detach()
    loss_t = -(t_t * s_t).mean()
    mask = torch.ones_like(logit_s).scatter_(1, label, 0).bool()
    ls = logit_s[mask].reshape(N, -1)
    lt = logit_t[mask].reshape(N, -1)
    loss_non = (F.softmax(lt / temp, 1) * F.log_softmax(ls / temp, 1)).sum(1).mean()
    return -s_t.mean() + loss_t - gamma * temp**2 * loss_non


@has(None)
def infonce(zs, zt):
    a = F.normalize(zs, dim=1)
    b = F.normalize(zt, dim=1)
    return F.cross_entropy(a @ b.T / 0.1, torch.arange(len(a)))


@has(None)
class AttentionTransfer(nn.Module):
    def forward(self, g_s, g_t):
        return (self.at(g_s) - self.at(g_t)).pow(2).mean()

    def at(self, f):
        return F.normalize(f.pow(2).mean(1).view(f.size(0), -1))


@has(None)
class Similarity(nn.Module):
    def forward(self, g_s, g_t):
        n = lambda f: F.normalize(f.view(f.size(0), -1) @ f.view(f.size(0), -1).t())
        return (n(g_s) - n(g_t)).pow(2).mean()


@has(None)
class Hint(nn.Module):
    def __init__(self):
        super().__init__()
        self.crit = nn.MSELoss()

    def forward(self, f_s, f_t):
        return self.crit(f_s, f_t)


@has(None)
def ramp(student_logits, teacher_logits, labels, epoch):
    w = math.exp(-5 * (1 - min(epoch, 80) / 80) ** 2)
    return F.cross_entropy(student_logits, labels) + w * F.mse_loss(
        F.softmax(student_logits, 1), F.softmax(teacher_logits, 1)
    )


@has(None)
def cats(student_logits, teacher_logits):
    return torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=teacher_logits), torch.distributions.Categorical(logits=student_logits)
    ).mean()


@has(None)
def gkd(student_logits, teacher_logits, labels=None, beta=0.5, temperature=1.0):
    s = F.log_softmax(student_logits / temperature, -1)
    t = F.log_softmax(teacher_logits / temperature, -1)
    m = torch.logsumexp(torch.stack([s + math.log(1 - beta), t + math.log(beta)]), 0)
    j = beta * F.kl_div(m, t, reduction="none", log_target=True) + (1 - beta) * F.kl_div(
        m, s, reduction="none", log_target=True
    )
    if labels is not None:
        mask = labels != -100
        j = j[mask]
        return j.sum() / mask.sum()
    return j.sum() / j.size(0)


@has(None)
def teacher_free(outputs, labels, T=20.0, alpha=0.9):
    K = outputs.size(1)
    p = torch.full_like(outputs, 0.1 / (K - 1))
    p[torch.arange(len(outputs)), labels] = 0.9
    return (1 - alpha) * F.cross_entropy(outputs, labels) + alpha * F.kl_div(
        F.log_softmax(outputs, 1), F.softmax(p / T, 1), reduction="batchmean"
    ) * 50


@has(None)
def mutual(logits1, logits2, labels):
    return F.cross_entropy(logits1, labels) + F.kl_div(
        F.log_softmax(logits1, 1), F.softmax(logits2.detach(), 1), reduction="batchmean"
    )


@has(None)
def margin(student, teacher, labels, m=0.5):
    return (
        F.cross_entropy(student, labels)
        + F.relu(teacher.gather(1, labels[:, None]) - student.gather(1, labels[:, None]) - m).mean()
    )


@has(None)
def list_args(student_feats, teacher_feats):
    return sum(F.mse_loss(a, b) for a, b in zip(student_feats, teacher_feats))


@has(None)
def both(s_logits, t_logits, s_feat, t_feat, labels):
    return (
        F.cross_entropy(s_logits, labels)
        + 4 * F.kl_div(F.log_softmax(s_logits / 2, 1), F.softmax(t_logits / 2, 1), reduction="batchmean")
        + 0.1 * F.mse_loss(s_feat, t_feat)
    )


@has("loss_scale")
def both_sum(s_logits, t_logits, s_feat, t_feat, labels):
    return (
        F.cross_entropy(s_logits, labels)
        + 4 * F.kl_div(F.log_softmax(s_logits / 2, 1), F.softmax(t_logits / 2, 1), reduction="batchmean")
        + 0.1 * (s_feat - t_feat).pow(2).sum()
    )


@has(None)
def kwonly(*, student, teacher, labels):
    return F.cross_entropy(student, labels) + F.mse_loss(student, teacher)


@has("labels_unused")
def argm(student_logits, teacher_logits, labels, alpha=0.5):
    labels = teacher_logits.argmax(1) if labels is not None else labels
    return alpha * F.cross_entropy(student_logits, labels) + (1 - alpha) * F.kl_div(
        F.log_softmax(student_logits, 1), F.softmax(teacher_logits, 1), reduction="batchmean"
    )


@has("student_no_gradient")
def numpyish(student, teacher):
    return torch.tensor(
        F.kl_div(F.log_softmax(student, 1), F.softmax(teacher, 1), reduction="batchmean").detach().numpy()
    )


@has("target_constant")
def nearly(student_logits, teacher_logits, labels):
    t = F.softmax(teacher_logits / 1000.0, 1)
    return F.cross_entropy(student_logits, labels) + F.kl_div(
        F.log_softmax(student_logits, 1), t, reduction="batchmean"
    )


@has("weights_swapped")
def wdoc(student_logits, teacher_logits, labels, lam=0.7, T=2.0):
    """Hinton's loss.

    Args:
        lam: weight of the distillation (soft) term; 1 - lam goes to the hard labels.
        T: temperature
    """
    soft = (
        T * T * F.kl_div(F.log_softmax(student_logits / T, 1), F.softmax(teacher_logits / T, 1), reduction="batchmean")
    )
    return (1 - lam) * soft + lam * F.cross_entropy(student_logits, labels)


@has(None)
def wdoc2(student_logits, teacher_logits, labels, lam=0.7, T=2.0):
    # lam weighs the hard loss
    soft = (
        T * T * F.kl_div(F.log_softmax(student_logits / T, 1), F.softmax(teacher_logits / T, 1), reduction="batchmean")
    )
    return (1 - lam) * soft + lam * F.cross_entropy(student_logits, labels)


@has("half_precision")
def halfeps(student_logits, teacher_logits):
    # runs under autocast in fp16
    q = torch.softmax(student_logits, -1)
    p = torch.softmax(teacher_logits, -1)
    return -(p * torch.log(q + 1e-10)).sum(-1).mean()


@has("loss_scale")
def soft_term_without_square(student_logits, teacher_logits, labels=None, tau=6.0):
    return kl(log_soft(student_logits, tau), soft(teacher_logits, tau))


@has("loss_scale")
def soft_term_of_sequences(student_logits, teacher_logits, tau=2.0):
    """student_logits: one row for each token of a sequence"""
    return tau**2 * kl(log_soft(student_logits, tau, -1), soft(teacher_logits, tau, -1))


@has(None)
def soft_term_of_rows(student_logits, teacher_logits, tau=2.0):
    return tau**2 * kl(log_soft(student_logits, tau, -1), soft(teacher_logits, tau, -1))


@has("loss_minimum")
def clamped_by_class(student_logits, teacher_logits, tau=4.0, most=0.05):
    log_q, log_p = log_soft(student_logits, tau), log_soft(teacher_logits, tau)
    return tau**2 * (log_p.exp() * (log_p - log_q)).clamp(max=most).sum(1).mean()


@has(None)
def clamped_by_row(student_logits, teacher_logits, tau=4.0, most=2.0):
    log_q, log_p = log_soft(student_logits, tau), log_soft(teacher_logits, tau)
    return tau**2 * (log_p.exp() * (log_p - log_q)).sum(1).clamp(max=most).mean()


@has("loss_scale")
def summed_by_confidence(student_logits, teacher_logits, labels):
    p = soft(teacher_logits)
    rows = (p * (p.log() - log_soft(student_logits))).sum(1)
    return F.cross_entropy(student_logits, labels) + (p.max(1).values * rows).sum()


@has("ignored_rows")
def masked_sum_by_all_positions(student_logits, teacher_logits, labels, T=2.0):
    rows = F.kl_div(log_soft(student_logits, T, -1), soft(teacher_logits, T, -1), reduction="none").sum(-1)
    labels_part = F.cross_entropy(student_logits.reshape(-1, student_logits.size(-1)), labels.reshape(-1))
    return labels_part + T * T * (rows * (labels != -100)).mean()


@has(None)
def mean_of_listed_teachers(student_logits, teachers_logits, labels, T=2.0):
    p = torch.stack([soft(each, T) for each in teachers_logits]).mean(0)
    return F.cross_entropy(student_logits, labels) + T * T * kl(log_soft(student_logits, T), p)

"""The feature members of the KL family: the gap δh = r(h_s) − h_t at a tap, r the map to the teacher's shape."""

from __future__ import annotations

from torch import Tensor

from stillroom.losses.functional._common import batch_mean, check_features, laid_out_as, mean_of_each, widen


def feature_mse(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Mean squared error between features: the gap weighed by the identity.

    Formula: ``mean_{b,j} (r(h_s) − h_t)_j²``, j over all entries of one image's features.

    Args:
        student_feature: r(h_s), [B, …]: the student's features, mapped to the teacher's shape where they differ.
        teacher_feature: h_t, [B, …]; detached.

    Returns:
        Scalar, in squared units of the teacher's features.

    Raises:
        ValueError: the shapes differ.

    Paper: Romero et al., FitNets: Hints for Thin Deep Nets, arXiv 1412.6550; as a member of the family, Hsu et al.,
    A Closer Look at Knowledge Distillation with Features, Logits, and Gradients, arXiv 2203.10163.

    >>> import torch
    >>> feature_mse(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2)).item()
    5.0
    """
    student, teacher = check_features(student_feature, teacher_feature)
    return batch_mean(mean_of_each((student - teacher).square()))


def feature_fisher(
    student_feature: Tensor, teacher_feature: Tensor, weight: Tensor, *, weight_scale: float | None = None
) -> Tensor:
    """The gap in features, each weighed by how much the teacher's answer depends on it: the Fisher matrix's diagonal.

    Formula: ``½ Σ_j w_j δh_j²``, w = diag(Jᵀ F J) at h_t, J = ∂z_t/∂h, F = diag(p) − p pᵀ: on the scale of ``kl``, of
    whose second order it keeps the diagonal. With ``weight_scale`` c: ``mean_j (w_j/c) δh_j²``, on the scale of
    ``feature_mse``.

    Args:
        student_feature: r(h_s), [B, …]: the student's features, mapped to the teacher's shape where they differ.
        teacher_feature: h_t, [B, …]; detached.
        weight: w, of the same shape; detached.
        weight_scale: c > 0, the mean of w over the training set: one constant, never a batch's own.

    Returns:
        Scalar, mean over the batch: in nats × τ², or in squared units of the teacher's features.

    Raises:
        ValueError: the shapes differ, or c is not above 0.

    Paper: Hsu et al., A Closer Look at Knowledge Distillation with Features, Logits, and Gradients, arXiv 2203.10163.

    >>> import torch
    >>> gap, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 0.5]])
    >>> feature_fisher(gap, torch.zeros(1, 2), weight).item()
    3.0
    >>> feature_fisher(gap, torch.zeros(1, 2), weight, weight_scale=2.0).item()
    1.5
    """
    if weight_scale is not None and not weight_scale > 0:
        raise ValueError(f"weight_scale: got {weight_scale}; expected a number above 0")
    student, teacher = check_features(student_feature, teacher_feature)
    if weight.shape != teacher.shape:
        raise ValueError(f"weight: got {tuple(weight.shape)}; expected one weight a feature, {tuple(teacher.shape)}")
    gap = student - teacher
    weighed = gap.square() * laid_out_as(gap, widen(weight).detach().to(gap))
    if weight_scale is None:
        return batch_mean(0.5 * weighed.sum(tuple(range(1, weighed.dim()))))
    return batch_mean(mean_of_each(weighed)) / weight_scale


def feature_full_fisher(
    student_feature: Tensor, teacher_feature: Tensor, jacobian: Tensor, probabilities: Tensor
) -> Tensor:
    """The gap in features weighed by the teacher's Fisher matrix in them: the second order of ``kl`` through its tail.

    Formula: ``½ δhᵀ Jᵀ F J δh = ½ Var_p(J δh)``, J = ∂z_t/∂h at h_t, F = diag(p) − p pᵀ; equal to
    ``(τ²/2)·E_{i∼p}[(g_i·δh)²]``, g_i = ∇_h log p_i.

    Args:
        student_feature: r(h_s), [B, …]: the student's features, mapped to the teacher's shape where they differ.
        teacher_feature: h_t, [B, …]; detached.
        jacobian: J, [B, K, d], d the number of one image's features; detached.
        probabilities: p, [B, K], softened at τ; detached.

    Returns:
        Scalar, in squared logits, mean over the batch: on the scale of ``kl``.

    Raises:
        ValueError: the shapes differ.

    Paper: Hsu et al., A Closer Look at Knowledge Distillation with Features, Logits, and Gradients, arXiv 2203.10163.

    >>> import torch
    >>> half, jacobian = torch.tensor([[0.5, 0.5]]), torch.tensor([[[1.0], [-1.0]]])
    >>> feature_full_fisher(torch.tensor([[1.0]]), torch.zeros(1, 1), jacobian, half).item()
    0.5
    """
    student, teacher = check_features(student_feature, teacher_feature)
    gap = (student - teacher).flatten(1)
    if jacobian.shape != (len(gap), probabilities.shape[-1], gap.shape[1]):
        expected = f"[batch, classes, features] = {(len(gap), probabilities.shape[-1], gap.shape[1])}"
        raise ValueError(f"jacobian: got {tuple(jacobian.shape)}; expected {expected}")
    moved = (widen(jacobian).detach() @ gap[..., None])[..., 0]
    return half_variance(moved, probabilities)


def half_variance(moved: Tensor, probabilities: Tensor) -> Tensor:
    """Half the variance, under the teacher's answer, of what a step in the features adds to its logits.

    Formula: ``½ Var_p(u) = ½ uᵀ F u``, u = J δh: with it, :func:`feature_full_fisher` without the Jacobian, of which
    one product with the gap is all that is needed.

    Args:
        moved: u, [B, K].
        probabilities: p, [B, K]; detached.

    Returns:
        Scalar, in squared logits, mean over the batch.

    Raises:
        ValueError: the shapes differ.

    >>> import torch
    >>> half_variance(torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 0.5]])).item()
    0.5
    """
    if moved.dim() != 2 or moved.shape != probabilities.shape:
        raise ValueError(
            f"probabilities: got {tuple(probabilities.shape)}; expected the shape of the logits, {tuple(moved.shape)}"
        )
    moved = widen(moved)
    p = widen(probabilities).detach().to(moved.dtype)
    centred = moved - (p * moved).sum(1, keepdim=True)
    return batch_mean(0.5 * (p * centred.square()).sum(1))

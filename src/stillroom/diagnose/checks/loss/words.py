"""What a loss is, in words and as the line of code to write."""

from __future__ import annotations

from collections.abc import Sequence

from stillroom.diagnose.checks.loss.call import LossFunction
from stillroom.diagnose.checks.loss.identify import NamedTerm

_TITLES = {
    "cross_entropy": "CE",
    "label_smoothing": "smoothed CE",
    "kl": "KL(teacher‖student)",
    "reverse_kl": "KL(student‖teacher)",
    "jsd": "JSD",
    "soft_cross_entropy": "soft CE",
    "logit_mse": "‖Δlogits‖²",
    "centred_logit_mse": "‖centred Δlogits‖²",
    "cosine": "(1 − cosine)",
    "pseudo_labels": "CE of the teacher's decisions",
    "one_sided": "KL at two temperatures",
    "softened_cross_entropy": "CE of softened logits",
    "swapped_cross_entropy": "soft CE with its sides exchanged",
}
_SHORT = {"kl": "KL", "reverse_kl": "reverse KL", "cross_entropy": "CE", "label_smoothing": "smoothed CE"}


def number(value: float) -> str:
    """A number to four digits, without zeros at its end.

    >>> number(0.9000000001), number(160.0), number(0.0056)
    ('0.9', '160', '0.0056')
    """
    return f"{value:.4g}"


def times_words(share: float) -> str:
    """A share of the gradient.

    >>> times_words(0.123), times_words(1e-9)
    ('12%', 'less than 0.1%')
    """
    if share < 1e-3:
        return "less than 0.1%"
    return f"{share:.0%}" if share >= 0.1 else f"{100 * share:.2g}%"


def formula(terms: Sequence[NamedTerm]) -> str:
    """The sum of terms with their usual weights.

    >>> formula([NamedTerm("cross_entropy", None, 0.1, 0.1, None), NamedTerm("kl", 4.0, 0.9, 0.9, None)])
    '0.1 · CE + 0.9 · KL(teacher‖student) at τ = 4'
    """
    parts = []
    for term in terms:
        title = _TITLES.get(term.name, term.name.replace("_", " "))
        if term.smoothing is not None:
            title += f" (smoothing {number(term.smoothing)})"
        text = title if abs(term.usual - 1) < 5e-5 else f"{number(term.usual)} · {title}"
        parts.append(text + (f" at τ = {number(term.temperature)}" if term.temperature is not None else ""))
    return " + ".join(parts)


def short(term: NamedTerm) -> str:
    """A term's short name.

    >>> short(NamedTerm("kl", 4.0, 1.0, 1.0, None))
    'KL'
    """
    return _SHORT.get(term.name, _TITLES.get(term.name, term.name))


def scale_words(wrong: Sequence[NamedTerm]) -> str:
    """By which factor terms are wrong, and why.

    >>> scale_words([NamedTerm("kl", 4.0, 0.9 / 16, 0.9, 1 / 16, ("τ² = 16 is missing",))])
    'its KL term 16 times too weak: τ² = 16 is missing'
    """
    parts = []
    for term in wrong:
        assert term.factor is not None
        factor = abs(term.factor)
        how = f"{number(1 / factor)} times too weak" if factor < 1 else f"{number(factor)} times too strong"
        parts.append(f"its {short(term)} term {how}: {', and '.join(term.reasons)}")
    return "; ".join(parts)


def kl_line(loss: LossFunction, tau: str = "T") -> str:
    """The textbook's KL in the user's own names."""
    return textbook_kl(loss.name_of_role("student", "student"), loss.name_of_role("teacher", "teacher"), tau)


def textbook_kl(student: str = "student_logits", teacher: str = "teacher_logits", tau: str = "T") -> str:
    """The textbook's KL as a line of Python.

    >>> textbook_kl("s", "t", "4")
    '4**2 * F.kl_div(F.log_softmax(s / 4, dim=-1), F.softmax(t / 4, dim=-1), reduction="batchmean")'
    """
    soft = f"F.log_softmax({student} / {tau}, dim=-1), F.softmax({teacher} / {tau}, dim=-1)"
    return f'{tau}**2 * F.kl_div({soft}, reduction="batchmean")'


def ce_line(loss: LossFunction) -> str:
    """The textbook's cross-entropy in the user's own names."""
    return f"F.cross_entropy({loss.name_of_role('student', 'student')}, {loss.name_of_role('labels', 'labels')})"


def corrected_line(terms: Sequence[NamedTerm], loss: LossFunction, setting: LossFunction, classes: int) -> str | None:
    """The loss without the faults, in the user's own names; None where a term has no such line."""
    student, teacher, labels = (loss.name_of_role(role, role) for role in ("student", "teacher", "labels"))
    option = loss.option("temperature")
    parts = []
    for term in terms:
        tau = f"{term.temperature:g}" if term.temperature is not None else ""
        if option is not None and term.temperature is not None:
            value = setting.changed.get(option.name, option.value)
            prefix = "self." if option.place == "attribute" else ""
            tau = f"{prefix}{option.name}" if abs(value - term.temperature) < 1e-6 * value else tau
        lines = {
            "cross_entropy": ce_line(loss),
            "label_smoothing": f"F.cross_entropy({student}, {labels}, label_smoothing={number(term.smoothing or 0)})",
            "kl": kl_line(loss, tau),
            "reverse_kl": f"F.kl_div(F.log_softmax({teacher} / {tau}, dim=-1), F.softmax({student} / {tau}, dim=-1), "
            'reduction="batchmean")',
            "soft_cross_entropy": f"-(F.softmax({teacher} / {tau}, dim=-1) * F.log_softmax({student} / {tau}, dim=-1))"
            ".sum(-1).mean()",
            "logit_mse": f"F.mse_loss({student}, {teacher})",
            "cosine": f"(1 - F.cosine_similarity({student}, {teacher}, dim=-1)).mean()",
        }
        if term.name not in lines:
            return None
        # F.mse_loss averages over the classes, the textbook's term sums over them.
        weight = number(term.usual * classes if term.name == "logit_mse" else term.usual)
        parts.append(lines[term.name] if weight == "1" else f"{weight} * {lines[term.name]}")
    return f"loss = {' + '.join(parts)}"


def scale_remedy(wrong: Sequence[NamedTerm], rows: str = "all rows") -> str:
    """What to do about terms of the wrong size; ``rows`` says what a sum is to be averaged over."""
    reasons = " ".join(reason for term in wrong for reason in term.reasons)
    parts = []
    if "averaged over K" in reasons:
        parts.append("use reduction='batchmean'")
    if "summed over" in reasons:
        parts.append(f"average over {rows}")
    if "missing" in reasons or "in place of τ²" in reasons:
        parts.append("multiply by τ²")
    if "too many" in reasons:
        parts.append("multiply by τ² once")
    if "once too often" in reasons:
        parts.append("divide once")
    text = ", and ".join(parts) or "mend the factor"
    return f"{text[:1].upper()}{text[1:]}."

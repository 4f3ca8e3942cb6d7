"""Checks of the loss as it was computed: what its functions were given, how large its terms are, in which precision."""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import Any

import torch
from torch import Tensor

from stillroom.diagnose.check import CheckResult, Limits, Skip, check
from stillroom.diagnose.checks.loop.context import LoopContext, most_common
from stillroom.diagnose.checks.loop.padding import padded_features
from stillroom.diagnose.checks.loop.record import Answers, BackwardFacts, TurnedLabels
from stillroom.diagnose.checks.loop.terms import read_labels
from stillroom.diagnose.checks.loss.words import textbook_kl
from stillroom.schema.diagnosis import Remedy, Verdict

_WORDS = {
    "softmax_of_probabilities": (
        "takes probabilities where logits are due",
        "Give it the logits: leave one softmax out.",
    ),
    "cross_entropy_of_probabilities": (
        "takes probabilities where logits are due; it makes its own softmax",
        "Give F.cross_entropy the logits.",
    ),
    "nll_of_probabilities": (
        "takes probabilities where log-probabilities are due",
        "Give it log_softmax of the logits, or use F.cross_entropy.",
    ),
    "nll_of_logits": (
        "takes logits where log-probabilities are due",
        "Give it log_softmax of the logits, or use F.cross_entropy.",
    ),
    "probabilities_against_logits": (
        "compares probabilities with the other network's logits",
        "Give it logits of both, or probabilities of both.",
    ),
    "kl_div_input_probabilities": (
        "takes probabilities as its first argument, where log-probabilities are due",
        "Give it F.log_softmax of the student's logits.",
    ),
    "kl_div_input_logits": (
        "takes logits as its first argument, where log-probabilities are due",
        "Give it F.log_softmax of the student's logits.",
    ),
    "kl_div_target_logs": (
        "takes log-probabilities as its target, where probabilities are due",
        "Give it F.softmax of the teacher's logits, or set log_target=True.",
    ),
    "kl_div_target_logits": (
        "takes logits as its target, where probabilities are due",
        "Give it F.softmax of the teacher's logits.",
    ),
    "kl_div_log_target_probabilities": (
        "takes probabilities as its target, though log_target=True asks for log-probabilities",
        "Give it F.log_softmax of the teacher's logits, or leave log_target out.",
    ),
}


def _line(kind: str) -> str:
    """What to write where a function was given something that it is not made for."""
    if kind.startswith("kl_div"):
        return textbook_kl()
    if kind == "probabilities_against_logits":
        return "F.mse_loss(student_logits, teacher_logits)"
    if kind.startswith("softmax"):
        return "logits = model(x)  # of a model without a softmax at its end"
    return "F.cross_entropy(logits, labels)"


@check(
    threshold="Each function gets what it is made for: logits, probabilities, or their logarithms.",
    source="F.kl_div takes log-probabilities first; F.cross_entropy and softmax take logits; nothing complains "
    "of others.",
    problem="Probabilities where logits are due",
    title="Logits and probabilities",
)
def probabilities_for_logits(context: LoopContext) -> CheckResult:
    if not context.backwards:
        raise Skip("No loss was seen.")
    found = Counter(
        (each.kind, each.function, each.place, each.side)
        for _, backward in context.described
        for each in backward.oddities
        if each.kind in _WORDS
    )
    steps = len(context.described)
    often = [(key, count) for key, count in found.most_common() if count >= 0.5 * steps]
    if not often:
        return CheckResult("ok", "Softmaxes got logits, and divergences log-probabilities.")
    (kind, function, place, side), count = often[0]
    what, remedy = _WORDS[kind]
    return CheckResult(
        "problem",
        f"{function} {what}: the {side}'s, in {count} of {steps} losses.",
        {"kind": kind, "side": side, "losses": count, "all": [key[0] for key, _ in often]},
        Remedy(remedy, code=_line(kind)),
        location=place,
    )


# By what was seen: the sentence, the remedy, the line.
_ROWS = {
    "rows_mixed": (
        "{} broadcasts its two sides ([B] and [B, 1], or [B, K] and [B, 1, K]) to [B, B, …]: each row meets those of "
        "all other images.",
        "Give both the same shape.",
        "column = column.squeeze(1)",
    ),
    "one_row": (
        "{} compares all rows of one network with one row of the other's: an index picks the first image's answer.",
        "Take all rows: [0] of a tensor is its first row, of a tuple its first output.",
        "teacher_logits = teacher(x)  # without [0]",
    ),
    "softmax_over_the_batch": (
        "{} of logits runs over dimension 0, the batch.",
        "Let it run over the classes.",
        "F.softmax(logits, dim=-1)",
    ),
    "softmax_over_positions": (
        "{} of [B, L, K] logits runs over the positions, not over the classes.",
        "Let it run over the classes.",
        "F.log_softmax(logits, dim=-1)",
    ),
    "classes_scrambled": (
        "{} runs over rows that a view made of [B, K, H, W] logits: each holds neighbouring pixels, not the classes.",
        "Move the classes to the end before the view.",
        "logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1])",
    ),
}


@check(
    threshold="Softmax runs over the classes, and each row is compared with its own.",
    source="A softmax over the batch compares images with each other, not classes; so does a broadcast.",
    problem="Rows are not compared one by one",
    title="Rows and classes",
)
def batch_split(context: LoopContext) -> CheckResult:
    losses = len(context.described)
    if not losses:
        raise Skip("No loss was seen.")
    for kind, (summary, remedy, code) in _ROWS.items():
        if found := context.oddities(kind):
            return CheckResult(
                "problem",
                summary.format(found[0].function),
                {"kind": kind, "losses": len(found)},
                Remedy(remedy, code=code),
                location=most_common([each.place for each in found]),
            )
    return CheckResult("ok", "Softmaxes run over the classes, and rows are compared one by one.")


STUCK = Limits(0.2, 0.4, "Share of 16-bit weights that a step does not move: bfloat16 tells 1 from 1.004, no less.")


@check(
    threshold="Losses and gradients are finite, no constant of the loss vanishes in its type, and steps move weights.",
    limits=(STUCK,),
    source="1e-8 is 0 in float16, whose smallest number is 6e-8; exp and log overflow beyond 65504.",
    problem="The loss fails in half precision",
    title="Precision of the loss",
)
def half_precision(context: LoopContext) -> CheckResult:
    backwards = context.backwards
    if not backwards:
        raise Skip("No loss was seen.")
    bad = [(step, each) for step, each in backwards if _is_bad(each)]
    half = [each for _, each in backwards if each.half]
    vanished = [one for _, each in backwards for one in each.vanished]
    phase = context.phase
    evidence: dict[str, float] = {
        "half": len(half),
        "not_finite": len(bad),
        "losses": len(backwards),
        "skipped_by_scaler": phase.skipped_by_scaler,
    }
    steps = f"{len(bad)} of {len(backwards)} watched losses"
    often = len(bad) >= max(2, 0.5 * len(backwards)) or (len(bad) == len(backwards))
    if vanished and bad:
        number, dtype, place = vanished[0]
        return CheckResult(
            "problem",
            f"{number:g} is 0 in {dtype}, so that the loss divides by 0 or takes log 0: loss or gradient is not "
            f"finite in "
            f"{steps}.",
            evidence,
            Remedy("Compute the loss in float32, with log_softmax.", code="student_logits = student_logits.float()"),
            location=place,
        )
    if half and often:
        name, place = bad[0][1].not_finite or half[0].half[0]
        return CheckResult(
            "problem",
            f"Loss or gradient is not finite in {steps}; {name} is computed in half precision.",
            evidence,
            Remedy("Compute the loss in float32.", code="student_logits = student_logits.float()"),
            location=place,
        )
    if phase.scaler_steps > 20 and phase.skipped_by_scaler > 0.5 * phase.scaler_steps:
        return CheckResult(
            "problem",
            f"The gradient scaler skipped {phase.skipped_by_scaler} of {phase.scaler_steps} steps: gradients are not "
            "finite.",
            evidence,
            Remedy("Compute the loss in float32, outside torch.autocast."),
            location=bad[0][1].place if bad else None,
        )
    scaled = [step for step in context.steps if "scaled" in step.gradients]
    if len(scaled) > 0.5 * len(context.steps):
        return CheckResult(
            "problem",
            f"In {len(scaled)} of {len(context.steps)} watched steps optimizer.step() uses gradients that still hold "
            "the gradient scaler's factor.",
            evidence,
            Remedy("Let the scaler make the step.", code="scaler.step(optimizer)\nscaler.update()"),
            location=most_common([where for step in scaled for name, where in step.events if name == "step"]),
        )
    stuck = [step.stuck for step in context.steps if step.stuck is not None and step.learning_rate > 0]
    if stuck:
        share = median(stuck)
        evidence["stuck"] = share
        verdict = STUCK.at_least(share)
        if verdict != "ok":
            line = next((where for step in context.steps for name, where in step.events if name == "step"), None)
            return CheckResult(
                verdict,
                f"The student's weights are in 16 bits: a step leaves {share:.0%} of the numbers that have a gradient "
                "as they were, as their update is rounded away.",
                evidence,
                Remedy(
                    "Keep the weights in float32, and compute in 16 bits by autocast.",
                    code="student.float()\nwith torch.autocast(device_type, dtype=torch.bfloat16):\n    "
                    "student_logits = student(x)",
                ),
                location=line,
            )
    averaged = [step.averaging.stuck for step in context.steps if step.averaging and step.averaging.stuck is not None]
    if averaged and STUCK.at_least(share := median(averaged)) != "ok":
        return CheckResult(
            STUCK.at_least(share),
            f"The moving average is kept in 16 bits: an update leaves {share:.0%} of the numbers that differ from the "
            "student's as they were, as it is rounded away.",
            evidence | {"stuck": share},
            Remedy("Keep the average in float32.", code="teacher = copy.deepcopy(student).float().eval()"),
            location=most_common([call.place for _, call in context.calls("teacher")]),
        )
    if vanished:
        number, dtype, place = vanished[0]
        return CheckResult(
            "warning",
            f"{number:g} is 0 in {dtype}; nothing failed in the watched steps.",
            evidence,
            Remedy("Compute the loss in float32, with log_softmax."),
            location=place,
        )
    if half:
        name, place = half[0].half[0]
        return CheckResult(
            "ok", f"{name} is computed in half precision at {place}; all was finite in the watched steps.", evidence
        )
    return CheckResult("ok", "The loss is computed in single precision.", evidence)


def _is_bad(backward: BackwardFacts) -> bool:
    return backward.not_finite is not None or (not backward.gradient_finite and not backward.scaled)


@check(
    threshold="The loss and its gradient are finite.",
    source="A logarithm of 0 or a division by 0 in a loss gives NaN, and NaN spreads to every weight in one step.",
    problem="The loss or its gradient is not finite",
    title="The loss is finite",
)
def loss_finite(context: LoopContext) -> CheckResult:
    backwards = context.backwards
    if not backwards:
        raise Skip("No loss was seen.")
    bad = [(step, each) for step, each in backwards if _is_bad(each)]
    if bad and not any(each.half or each.vanished for _, each in bad):
        step, each = bad[0]
        name, place = each.not_finite or ("the gradient", each.place)
        if name.startswith("the gradient") and (each.not_finite is not None or step.number == 0):
            what = name if each.not_finite is not None else "a gradient"
            return CheckResult(
                "problem",
                f"The loss is finite and its gradient is not: {what} is infinite or NaN, in "
                f"{'the first step' if step.number == 0 else f'step {step.number + 1}'}.",
                {"losses": len(bad)},
                Remedy(
                    "Keep 0 out of roots and logarithms: add a small number, or clamp, before them.",
                    code="distance = squared.clamp(min=1e-12).sqrt()",
                ),
                location=place,
            )
        if each.not_finite is not None and step.number == 0:
            return CheckResult(
                "problem",
                f"{name} gives NaN or infinity in the first step.",
                {"losses": len(bad)},
                Remedy("Use log_softmax in place of log(softmax), and keep zeros out of logarithms and divisions."),
                location=place,
            )
    return CheckResult("ok", "No function of the loss gave NaN or infinity from finite numbers at first.")


@check(
    threshold="Rows labelled −100 and padded leave the distillation term alone, as they do the labels' term; no row "
    "without a label is taught one.",
    source="F.cross_entropy leaves ignore_index out; a divergence does not know of it, and a label that is clamped to "
    "a class is learnt as one.",
    problem="Rows without a label are learnt from",
    title="Ignored rows",
)
def ignored_rows(context: LoopContext) -> CheckResult:
    turned = _turned_labels(context) or _picked_by_class(context) or _vain_mask(context)
    if turned is not None:
        return turned
    shares: list[float] = []
    places: list[str | None] = []
    padded = False
    for _, answers in context.answers:
        if answers.loss is None or len(shares) >= 3:
            continue
        if answers.ignored is None and answers.labels is None and len(answers.shape) == 3 and answers.teacher_terms:
            answers.ignored = _unlabelled_positions(answers)
        if answers.ignored is None:
            continue
        shares.append(_ignored_share(answers))
        places.append(answers.place)
        padded |= _is_padding(answers)
    features = padded_features(context)
    if features is not None and (max(shares, default=0.0) <= 1e-4 or features.verdict == "problem"):
        return features
    if not shares:
        raise Skip("No labels of −100 were seen with two logits.")
    most = max(shares)
    evidence = {"share": most, "losses": len(shares)}
    if most <= 1e-4:
        return CheckResult("ok", "Rows labelled −100 get no gradient.", evidence)
    verdict: Verdict = "problem" if padded else "warning"
    why = ": the distillation term counts padded positions." if padded else "; they may be unlabelled on purpose."
    return CheckResult(
        verdict,
        f"Rows labelled −100 get up to {most:.0%} of the gradient{why}",
        evidence,
        Remedy("Leave the same rows out of both terms.", code="kl[labels != -100].mean()"),
        location=most_common(places),
    )


def _picked_by_class(context: LoopContext) -> CheckResult | None:
    """Rows that count where the number of their class, not its probability, is above a threshold."""
    found = context.oddities("class_for_confidence")
    if not found:
        return None
    return CheckResult(
        "problem",
        "Rows are chosen by the number of the likeliest class, not by its probability: a threshold between 0 and 1 "
        "only tells class 0 from all others.",
        {"losses": len(found)},
        Remedy(
            "Compare the largest probability: the first thing that max gives, not the second.",
            code="keep = probabilities.max(dim=1).values >= threshold",
        ),
        location=found[0].place,
    )


def _vain_mask(context: LoopContext) -> CheckResult | None:
    """A mask of the distillation term for a number that no label has, where the labels' term leaves out another."""
    found = context.oddities("vain_mask")
    if not found:
        return None
    number = found[0].function
    return CheckResult(
        "problem",
        f"A mask of the loss leaves out rows labelled {number}, and there are none: the labels' term leaves out "
        "another number, whose rows the distillation term counts.",
        {"number": number, "losses": len(found)},
        Remedy("Give both terms the same number for rows without a label.", code="keep = labels != ignore_index"),
        location=most_common([each.place for each in found]),
    )


# So many labels of each class make it plain that a class never occurs: an unlabelled row has it to itself.
_PLENTY = 5


def _turned_labels(context: LoopContext) -> CheckResult | None:
    """Rows without a label, -1 as a rule, whose label was made a class of others and is learnt."""
    known = [(each, each.turned) for _, each in context.answers if each.turned is not None]
    if not known:
        return None
    classes = {one for _, turned in known for one in turned.classes}
    others = [label for _, turned in known for label in turned.others]
    # A class of their own, as of all that is unknown, is meant.
    count = known[0][0].student.shape[1]
    if not classes & set(others) and (count < 3 or len(others) >= _PLENTY * count):
        return None
    # Some steps are described without their loss as a function.
    replayed = [(each, turned) for each, turned in known if each.loss is not None and len(each.loss.sources) > 2][:4]
    learnt = [share for each, turned in replayed if (share := _learnt_share(each, turned))]
    if not learnt or 2 * len(learnt) < len(replayed):
        return None
    rows = float(torch.cat([turned.rows.float() for _, turned in known]).mean())
    share, named = max(learnt), ", ".join(map(str, sorted(classes)[:3]))
    becomes = "as an index it picks" if known[0][1].by_index else "it is turned into"
    terms = [
        term.place
        for _, backward in context.backwards
        for term in backward.terms
        if term.labels and term.student and not term.teacher
    ]
    return CheckResult(
        "problem",
        f"{rows:.0%} of the rows have no label, as their number is no class: {becomes} class {named}, and the student "
        f"learns it (these rows get {share:.0%} of the labels' gradient).",
        {"rows": rows, "share": share, "classes": sorted(classes)},
        Remedy(
            "Leave these rows out of the labels' term.",
            code="known = labels >= 0\nce = F.cross_entropy(student_logits[known], labels[known])",
        ),
        location=most_common(terms or [each.place for each, _ in replayed]),
    )


def _learnt_share(answers: Answers, turned: TurnedLabels) -> float:
    """Share of the labels' gradient to the student that falls on rows without a label; 0 where they are masked out.

    Their labels are exchanged for another class: what this moves of the gradient, the student learns from them.
    """
    loss, rows = answers.loss, turned.rows
    student, teacher, labels = loss.sources
    flat = labels.reshape(-1)
    usual = flat[~rows]
    usual = usual[usual >= 0]
    before = _gradient_of(loss, *loss.sources)
    # With their own labels, a class of weight 0 may be left out, or a mask be computed from the labels themselves. One
    # sum of both terms for each row cannot be taken apart so.
    live = read_labels(answers).reshape(-1) >= 0
    if turned.by_index or not bool(live[~rows].any()):
        live = torch.ones_like(live)

    def moved(at: Tensor) -> float:
        """What other labels of some rows change of these rows' gradient."""
        own = flat[at]
        other = next((each for each in usual.unique() if not bool((own == each).all())), None)
        if turned.by_index and at is rows:
            # Another number below 0: a mask of them leaves these rows out all the same.
            other = own.new_tensor(-2 if bool((own != -2).any()) else -1)
        if other is None or not bool(at.any()):
            return 0.0
        changed = torch.where(at, other, flat).reshape(labels.shape)
        change = _gradient_of(loss, student, teacher, changed) - before
        size = change.movedim(answers.class_dim, -1).reshape(len(flat), -1).float().norm(dim=-1)
        return float(size[at & live].sum())

    own = moved(rows)
    if own == 0.0:
        return 0.0
    whole = own + moved(~rows & (flat >= 0))
    return own / whole if own > 1e-4 * whole else 0.0


def _gradient_of(loss: Any, student: Tensor, *others: Tensor) -> Tensor:
    """A recorded loss's gradient to the student's logits."""
    student = student.clone().requires_grad_()
    with torch.enable_grad():
        value = loss(student, *others)
    (gradient,) = torch.autograd.grad(value.sum(), student, allow_unused=True)
    return gradient if gradient is not None else torch.zeros_like(student)


def _unlabelled_positions(answers: Answers) -> Tensor | None:
    """Positions that the labels' term leaves out, where it reads labels that were shifted; None where there are none.

    The last position of a sequence, which has no next token, is left out of the labels' term rightly.
    """
    if answers.class_dim != 2:
        return None
    ignored = read_labels(answers) < 0
    ignored[:, -1] = ignored[:, -2]
    return ignored if bool(ignored.any()) and not bool(ignored[:, :-1].all()) else None


def _ignored_share(answers: Answers) -> float:
    """Share of the loss's gradient to the student's logits that falls on rows labelled below 0."""
    assert answers.ignored is not None
    gradient = _gradient_of(answers.loss, *answers.loss.sources)
    size = gradient.movedim(answers.class_dim, -1).float().norm(dim=-1)
    return float(size[answers.ignored].sum() / size.sum().clamp_min(1e-30))


def _is_padding(answers: Answers) -> bool:
    """Whether rows without a label are the ends of sequences, and the student's input is constant there."""
    ignored = answers.ignored
    if ignored is None or ignored.dim() < 2:
        return False
    steps = ignored.long().diff(dim=1)
    if not (bool((steps >= 0).all()) or bool((steps <= 0).all())):
        return False  # holes: rows without a label on purpose
    inputs = answers.student_call.inputs if answers.student_call is not None else None
    if inputs is None or inputs.shape[:2] != ignored[: len(inputs)].shape[:2]:
        return True
    # Of labels that were shifted, the first position without one holds the last token.
    both = ignored[:, 1:] & ignored[:, :-1]
    at = inputs[:, 1:][both[: len(inputs)]]
    return not len(at) or bool((at == at[:1]).all())

"""Checks of how a step is made: accumulation, clipping, learning rate and its schedule."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from statistics import median

import torch

from stillroom.diagnose.check import CheckResult, Limits, Skip, check
from stillroom.diagnose.checks.loop.context import LoopContext, is_adaptive, most_common
from stillroom.diagnose.checks.loop.record import BackwardFacts, Schedule, Step
from stillroom.schema.diagnosis import Remedy


@check(
    threshold="Clipping follows the last backward() of a step, and unscale_() where a gradient scaler is used.",
    source="What is added after clipping is not clipped; a gradient that is still scaled is clipped to nothing.",
    problem="The gradient is clipped too early",
    title="Clipping",
)
def clipping(context: LoopContext) -> CheckResult:
    early = scaled = clipped = 0
    place: str | None = None
    for step in context.steps:
        names = [name for name, _ in step.events]
        if "clip" not in names:
            continue
        clipped += 1
        first = names.index("clip")
        later = names[first + 1 :]
        between = later[: later.index("backward")] if "backward" in later else ["step"]
        if "step" in later and not {"step", "zero_grad"} & set(between):
            early += 1
            place = place or step.events[first][1]
        uses_scaler = "scaler.step" in names
        if uses_scaler and "scaler.unscale_" not in names[:first]:
            scaled += 1
            place = place or step.events[first][1]
    if not clipped:
        raise Skip("Nothing is clipped.")
    others = [step for step in context.steps if step.clips_others and step.number > 0]
    if len(others) > 0.5 * clipped:
        return CheckResult(
            "problem",
            f"What is clipped is held by no optimizer that steps, in {len(others)} of {clipped} watched steps: the "
            "student's gradient is not clipped.",
            {"steps": len(others)},
            Remedy(
                "Clip the student's parameters.",
                code="torch.nn.utils.clip_grad_norm_(student.parameters(), max_norm)",
            ),
            location=next((where for name, where in others[0].events if name == "clip"), None),
        )
    if early > 0.5 * clipped:
        return CheckResult(
            "problem",
            f"The gradient is clipped before the last backward() of the step, in {early} of {clipped} watched steps.",
            {"steps": early},
            Remedy(
                "Clip once, after all terms have gone backward and before optimizer.step().",
                code="torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)\noptimizer.step()",
            ),
            location=place,
        )
    if scaled > 0.5 * clipped:
        return CheckResult(
            "problem",
            f"The gradient is clipped while the scaler's factor is still on it, in {scaled} of {clipped} "
            f"watched steps.",
            {"steps": scaled},
            Remedy("Call scaler.unscale_(optimizer) before clipping.", code="scaler.unscale_(optimizer)"),
            location=place,
        )
    return CheckResult("ok", "The gradient is clipped when it is whole.")


def _line_of(steps: list[Step], event: str) -> str | None:
    return most_common([where for step in steps for name, where in step.events if name == event])


def _misused_gradients(context: LoopContext) -> CheckResult | None:
    """Gradients that are of another step than the one that uses them, or that none uses."""
    stepped = [step for step in context.steps if step.stepped and step.backwards]
    left, cleared = ([step for step in stepped if kind in step.gradients] for kind in ("left_over", "cleared"))
    if len(left) > 0.5 * len(stepped):
        return CheckResult(
            "problem",
            f"In {len(left)} of {len(stepped)} watched steps the gradients of the step before are still there when "
            "backward() begins: they add up from step to step.",
            {"steps": len(left)},
            Remedy("Clear the gradients in every step.", code="optimizer.zero_grad()\nloss.backward()"),
            location=_line_of(left, "backward"),
        )
    if len(cleared) > 0.5 * len(stepped):
        return CheckResult(
            "problem",
            f"In {len(cleared)} of {len(stepped)} watched steps zero_grad() stands between backward() and step(): the "
            "optimizer has no gradient to use.",
            {"steps": len(cleared)},
            Remedy("Clear the gradients before backward().", code="optimizer.zero_grad()\nloss.backward()"),
            location=_line_of(cleared, "zero_grad"),
        )
    lines = {each.place for step in stepped for each in step.backwards}
    watched = context.phase.complete_steps
    lost = [
        step
        for step in watched
        if not step.stepped
        and step.backwards
        and all(each.place in lines and each.gradient_finite and not each.scaled for each in step.backwards)
        and all(each.value is not None and math.isfinite(each.value) for each in step.backwards)
    ]
    if stepped and len(lost) > 0.55 * len(watched):
        return CheckResult(
            "problem",
            f"The gradients of {len(lost)} of {len(watched)} backward() are cleared before a step uses them: of "
            "what is to be accumulated the last part alone is left.",
            {"lost": len(lost)},
            Remedy(
                "Clear the gradients after a step, not before every backward().",
                code="optimizer.step()\noptimizer.zero_grad()",
            ),
            location=_line_of(lost, "zero_grad") or _line_of(lost, "backward"),
        )
    return None


def _last_batch_alone(context: LoopContext) -> CheckResult | None:
    """Of the losses of many batches the last one alone goes backward, as where the step stands behind the loop."""
    described = [step for step in context.steps if step.in_full and step.stepped]
    alone: list[tuple[int, str | None]] = []
    for step in described:
        places = {term.place for each in step.backwards for term in each.terms}
        same = [each.place for each in step.lost_terms if each.place in places]
        lost = max((same.count(each) for each in set(same)), default=0)
        if lost >= 3:
            alone.append((lost, step.backwards[0].place))
    if len(described) < 4 or len(alone) < 0.9 * len(described):
        return None
    count = int(median(each for each, _ in alone))
    return CheckResult(
        "problem",
        f"Of {count + 1} batches whose loss is computed for a step, one alone goes backward, in {len(alone)} of "
        f"{len(described)} watched steps.",
        {"lost": count, "steps": len(alone)},
        Remedy("Put backward() and step() into the loop over batches."),
        location=most_common([place for _, place in alone]),
    )


@check(
    threshold="A step uses its own gradients, all of them; the loss of a part of an accumulated batch is divided by "
    "the number of parts.",
    source="Gradients of several backward() add up: n parts that are not divided make the step n times as large.",
    problem="The gradients of other steps",
    title="Accumulation",
)
def accumulation(context: LoopContext) -> CheckResult:
    misused = _misused_gradients(context) or _last_batch_alone(context)
    if misused is not None:
        return misused
    counts = []
    for step in context.steps:
        places = [each.place for each in step.backwards]
        if step.stepped and places and len(set(places)) == 1:
            counts.append((len(places), step))
    several = [(count, step) for count, step in counts if count > 1]
    if not several or len(several) < 0.5 * len(counts):
        raise Skip("Gradients are not accumulated.")
    count, step = several[-1]
    whole = [term for each in step.backwards for term in each.terms]
    mine = [term for term in step.backwards[0].terms if term.student]
    total = sum(abs(term.weight) for term in mine)
    # τ² in a weight makes it larger than 1 / n, though it was divided by n.
    shared = bool(mine) and all(any(abs(count * each - 1) < 1e-6 for each in term.factors) for term in mine)
    divided = bool(whole) and (shared or total < 1.5 / count + 1e-6)
    evidence = {"parts": count, "weights": total}
    if divided or any(each.scaled for each in step.backwards):
        return CheckResult("ok", f"{count} losses make a step, and each is divided.", evidence)
    # Parts that are said to be accumulated stand for one batch; a sum of means is another step.
    means = bool(mine) and all(term.averaged > 1 for term in mine)
    said = re.search(r"accumul", context.source, re.IGNORECASE) and not re.search(r"\bsum", context.source)
    return CheckResult(
        "problem" if means and said else "warning",
        f"{count} losses at {step.backwards[0].place} add up to one step and are not divided: the step is "
        f"{count} times as large.",
        evidence,
        Remedy(f"Divide each by {count}.", code=f"(loss / {count}).backward()"),
        location=step.backwards[0].place,
    )


# A loss this small at the first step has nothing to grow from.
NEAR_ZERO = 0.05
# Path of the weights over the planned steps, as a share of their norm, for a student that begins with random weights.
PATH = Limits(0.1, 0.03, "Weights that were drawn must move by a good part of their own size to become others.")
PATH_OF_ADAPTIVE = Limits(
    0.4, 0.2, "Adam moves all weights, those that matter little, too: of its path less is of use than of SGD's."
)


@check(
    threshold="The learning rate is above 0, the loss does not grow twentyfold or become NaN in the watched steps, and "
    "a student that begins with random weights can go 3% of their norm in the planned steps, with Adam and its like "
    "20%.",
    limits=(PATH, PATH_OF_ADAPTIVE),
    source="A rate that is too high shows within the first steps; one for fine-tuning leaves random weights random.",
    problem="The learning rate is wrong",
    title="Learning rate",
)
def learning_rate(context: LoopContext) -> CheckResult:
    steps = [step for step in context.steps if step.stepped and step.backwards]
    if len(steps) < 3:
        raise Skip("Too few steps were watched.")
    rates = [step.learning_rate for step in steps]
    values = [sum(each.value or 0.0 for each in step.backwards) for step in steps]
    place = steps[0].events[-1][1] if steps[0].events else None
    evidence = {"rate": rates[0], "first_loss": values[0], "last_loss": values[-1]}
    if all(rate == 0 for rate in rates):
        return CheckResult(
            "problem",
            "The learning rate is 0 in all watched steps.",
            evidence,
            Remedy("Set a learning rate."),
            location=place,
        )
    optimizers = context.phase.extra.get("optimizers", 0)
    if len(steps) >= 5 and optimizers >= 0.8 * len(steps):
        return CheckResult(
            "problem",
            f"{optimizers} optimizers made the {len(steps)} watched steps: a new one forgets momentum and averages.",
            evidence | {"optimizers": optimizers},
            Remedy("Make the optimizer once, before the loop."),
            location=_line_of(steps, "step"),
        )
    broken = [step.number for step, value in zip(steps, values, strict=True) if not math.isfinite(value)]
    failed = [each for step in steps for each in step.backwards if each.not_finite or each.half]
    if broken and broken[0] > 0 and not failed[:1]:
        return CheckResult(
            "problem",
            f"The loss is no longer finite from step {broken[0] + 1} on, at a rate of {rates[0]:g}.",
            evidence,
            Remedy("Lower the learning rate tenfold.", code=f"lr = {rates[0] / 10:g}"),
            location=place,
        )
    # A weight that is ramped up makes the sum grow; a student that begins as the teacher's copy begins at 0.
    first = abs(values[0]) if abs(values[0]) > NEAR_ZERO and _terms_grow(steps) else 0.0
    late = sorted(abs(value) for value in values[len(values) // 2 :] if math.isfinite(value))
    if late and first > 0 and late[len(late) // 2] > 20 * first and all(value >= 0 for value in values):
        return CheckResult(
            "problem",
            f"The loss grew from {values[0]:.3g} to {late[len(late) // 2]:.3g} in the watched steps, at a rate of "
            f"{rates[0]:g}.",
            evidence,
            Remedy("Lower the learning rate tenfold, or clip the gradient.", code=f"lr = {rates[0] / 10:g}"),
            location=place,
        )
    slow = _too_slow(context, steps)
    if slow is not None:
        update, path, planned, kind = slow
        evidence |= {"update": update, "path": path, "planned_steps": planned}
        limits = PATH_OF_ADAPTIVE if is_adaptive(kind) else PATH
        if limits.below(path) != "ok":
            return CheckResult(
                limits.below(path),
                f"At a rate of {rates[0]:g}, a step of {kind} changes the student's weights by {update:.1e} of their "
                f"norm: over the {planned} steps that are planned they go {path:.0%} of it, from random weights.",
                evidence,
                Remedy("Raise the learning rate: SGD is usually run at 0.01 to 0.1, Adam at 1e-4 to 1e-2."),
                location=place,
            )
    return CheckResult("ok", f"The rate is {rates[0]:g} at first; the loss stays finite.", evidence)


def _terms_grow(steps: list[Step]) -> bool:
    """Whether some term grew twentyfold, without its weight; true where the sum was not taken apart."""
    values: dict[tuple[str | None, str], list[float]] = {}
    for step in steps:
        for term in (term for each in step.backwards for term in each.terms):
            if term.value is not None and term.student and math.isfinite(term.value):
                values.setdefault((term.place, term.function), []).append(abs(term.value))
    return not values or any(median(each[len(each) // 2 :]) > 20 * each[0] for each in values.values())


def _too_slow(context: LoopContext, steps: list[Step]) -> tuple[float, float, int, str] | None:
    """How far the weights of a student that was neither trained nor loaded go; None where that is not known."""
    planned = context.phase.planned
    updates = [step.update for step in steps if step.update is not None]
    fresh = context.students and not any(
        each.trained_before or each.loaded or not each.drawn for each in context.students
    )
    if planned is None or len(updates) < 3 or not fresh or not context.whole_script:
        return None
    # A rate that is warmed up, or that a schedule is to raise, says nothing of later ones, as one that falls does.
    first = steps[0].learning_rate
    if any(step.learning_rate > 1.001 * first or step.base_rate > 1.3 * first for step in steps):
        return None
    if context.student_knows:
        return None
    total = round(planned[0] * planned[1])
    update = max(updates)
    return update, update * total, total, steps[0].optimizer


# Per step; usual are 1e-7 to 1e-3. A coupled decay is held against the gradient that it is added to.
DECAY = Limits(
    0.005, 0.02, "At 2% a step nothing that was learned 50 steps ago is left; 5e-4 at a rate of 0.1 is 0.05%."
)
DROWNED = Limits(
    0.1, 0.3, "As a part of the loss it is half of 0.2 times the squared weights, which no term outweighs."
)


@check(
    threshold="Weight decay shrinks the weights by less than 0.5% a step (warning; problem from 2%); where it is added "
    "to the gradient and is 0.05 or more, it is less than 0.1 of it (warning; at 0.2 or more a problem from 0.3).",
    limits=(DECAY, DROWNED),
    source="Decay and learning rate multiply: what is usual for one optimizer is far too much for another.",
    problem="Weight decay undoes what is learned",
    title="Weight decay",
)
def regularisation(context: LoopContext) -> CheckResult:
    found = [(step, step.decay) for step in context.steps if step.decay is not None]
    if len(found) < 3:
        raise Skip("No weight decay was seen.")
    step, first = found[0]
    place = next((where for name, where in step.events if name == "step"), None)
    remedy = Remedy(
        "Lower weight_decay: 1e-4 to 5e-4 is usual with SGD, 0.01 to 0.1 with AdamW.", code="weight_decay=5e-4"
    )
    shrinks = [decay.shrinks for _, decay in found if decay.shrinks is not None]
    if shrinks:
        share = median(shrinks)
        return CheckResult(
            DECAY.at_least(share),
            f"Weight decay of {first.coefficient:g} shrinks the weights by {share:.2g} of their size in each step, at "
            f"a rate of {first.rate:g}.",
            {"coefficient": first.coefficient, "shrinks": share},
            remedy,
            location=place,
        )
    ratio = median(decay.to_gradient for _, decay in found)
    verdict = DROWNED.at_least(ratio) if first.coefficient >= 0.05 else "ok"
    if verdict == "problem" and first.coefficient < 0.2:
        verdict = "warning"
    return CheckResult(
        verdict,
        f"Weight decay of {first.coefficient:g} adds {ratio:.2g} times the loss's gradient to it.",
        {"coefficient": first.coefficient, "to_gradient": ratio},
        remedy,
        location=place,
    )


@check(
    threshold="Batches hold several classes, mixed.",
    source="A loader that does not shuffle files sorted by class gives batches of one class: batch statistics and "
    "steps follow one class after another.",
    problem="Batches of one class",
    title="Classes of the batches",
)
def one_class_batches(context: LoopContext) -> CheckResult:
    batches: list[tuple[Step, list[int]]] = []
    classes = 0
    for step in context.steps:
        own = [each.answers for each in step.backwards if each.answers is not None and each.answers.labels is not None]
        drawn = any(each.student_call is not None and each.student_call.from_networks for each in own)
        if own and not drawn and all(len(each.shape) == 2 for each in own):
            labels = [label for each in own for label in each.labels.tolist() if label >= 0]  # type: ignore[union-attr]
            classes = own[0].student.shape[1]
            if len(labels) >= 8:
                batches.append((step, labels))
    if classes < 3 or len(batches) < 6:
        raise Skip("Too few batches with labels of three classes or more were seen.")
    # One class, or two in two blocks: a task of two classes has them in any order.
    few = [(step, labels) for step, labels in batches if sum(a != b for a, b in itertools.pairwise(labels)) < 2]
    evidence = {"batches": len(batches), "of_few_classes": len(few)}
    if len(few) < 0.9 * len(batches):
        return CheckResult("ok", "Batches hold several classes.", evidence)
    # Tasks of one class follow one another, too, each for many steps, and none comes again.
    changes = sum(
        set(one) != set(other) and later.number == step.number + 1
        for (step, one), (later, other) in itertools.pairwise(few)
    )
    named = [labels[0] for _, labels in few]
    runs = [label for i, label in enumerate(named) if not i or label != named[i - 1]]
    if changes < 2 and len(runs) == len(set(runs)):
        raise Skip("The watched batches hold few classes, one after another, as tasks do.")
    return CheckResult(
        "problem",
        f"{len(few)} of {len(batches)} watched batches hold one class, or two in blocks, of {classes}: the data are "
        "sorted by class.",
        evidence | {"classes": classes},
        Remedy("Shuffle.", code="DataLoader(dataset, batch_size, shuffle=True)"),
        location=most_common([each.place for step, _ in few for each in step.backwards]),
    )


# A schedule that is over in this share of the training has not been made for it.
EARLY = Limits(0.3, 0.3, "Schedules end with the training; the last milestone is usually at 60% to 90% of it.")
FORGOTTEN = Limits(0.1, 0.1, "Where the loops do not say how many epochs there are: a third of what is early.")


def _are_shares(values: Sequence[float]) -> bool:
    """Whether numbers are shares of one count of samples, as accuracies are, or percentages: n / N for one N.

    A number that is rounded is a share of a power of ten, and may be anything; a percentage above 50 is no loss.

    >>> _are_shares([0.105, 0.62, 0.735, 0.8, 0.81]), _are_shares([2.302, 1.871, 1.422, 1.38, 1.31])
    (True, False)
    """
    percent = max(values) > 1.5
    if len(set(values)) < 4 or min(values) < 0 or max(values) > (100 if percent else 1):
        return False
    counts = torch.arange(2, 20_001, dtype=torch.float64)
    whole = torch.tensor(values, dtype=torch.float64)[:, None] / (100 if percent else 1) * counts
    # Means of float32 are not exact.
    fits = (whole - whole.round()).abs().amax(0) < 1e-3 + 2e-7 * counts
    if not bool(fits.any()):
        return False
    count = int(counts[fits][0])
    return count not in (10, 100, 1000, 10_000) or (percent and values[-1] > 50)


# Of how many numbers a scheduler that waits for one to stop improving is judged.
FEWEST_METRICS = 5


def _wrong_way(context: LoopContext, one: Schedule) -> CheckResult | None:
    """A scheduler that waits for a loss to fall is given an accuracy that rises, or the reverse."""
    metrics, rates = [value for value, _ in one.metrics], [rate for _, rate in one.metrics]
    if len(metrics) < FEWEST_METRICS or not all(map(math.isfinite, metrics)):
        return None
    sign = 1 if one.mode == "min" else -1
    improved = sum(sign * value < min(sign * each for each in metrics[:i]) for i, value in enumerate(metrics) if i)
    third = max(1, len(metrics) // 3)
    first, last = sum(metrics[:third]) / third, sum(metrics[-third:]) / third
    losses = [each.value for step in context.steps for each in step.backwards if each.value is not None]
    share = _are_shares(metrics) or (10 * abs(losses[0]) < metrics[0] and max(metrics) <= 100 if losses else False)
    falls = min(metrics) > 0 and last < 0.8 * first and not share
    # A student that gets worse is another matter.
    learns = len(losses) > 1 and losses[-1] < 0.9 * losses[0]
    if improved > 1 or not learns or not (share and last > first if one.mode == "min" else falls):
        return None
    lowered = min(rates) < 0.99 * rates[0]
    due, moves, as_if, other = (
        ("fall", "rises", "an accuracy", "max") if one.mode == "min" else ("rise", "falls", "a loss", "min")
    )
    then = "it lowers the rate while the student improves" if lowered else "it will lower the rate all the same"
    return CheckResult(
        "problem" if lowered else "warning",
        f"{one.name} is made for a number that should {due} (mode={one.mode!r}) and is given one that {moves} from "
        f"{metrics[0]:.3g} to {metrics[-1]:.3g}, as {as_if} does: {then}.",
        {"schedule": one.name, "mode": one.mode, "first": metrics[0], "last": metrics[-1], "numbers": len(metrics)},
        Remedy(f"Make the scheduler with mode={other!r}.", code=f"ReduceLROnPlateau(optimizer, mode={other!r})"),
        location=one.step_place or one.place,
    )


def _of_another_optimizer(context: LoopContext) -> CheckResult | None:
    """A schedule that is stepped in this training, of an optimizer that makes no step in it."""
    phase, rates = context.phase, {step.learning_rate for step in context.steps if step.stepped}
    idle = [each for each in context.schedules if not each.optimizer_steps and each.steps >= 5 and not each.rates]
    # Whoever copies the rates of an idle optimizer changes those of the one that steps.
    if not idle or len(rates) != 1 or phase.made < 5 or len(idle) < len(context.schedules):
        return None
    one = idle[-1]
    return CheckResult(
        "problem",
        f"{one.name} was stepped {one.steps} times, and its optimizer makes no step: the rate of the one that does "
        f"stays at {next(iter(rates)):g}.",
        {"schedule": one.name, "steps": one.steps},
        Remedy(
            "Make the scheduler after the optimizer that steps, and give it that one.", code=f"{one.name}(optimizer, …)"
        ),
        location=one.place,
    )


# Schedules that are made to come to their end with the training.
_TO_AN_END = ("OneCycleLR", "CosineAnnealingLR", "LinearLR", "PolynomialLR")


def _parts_of_a_step(context: LoopContext) -> float:
    """How many losses of one line make a step, as in accumulation; 1 where each is followed by a step."""
    counts = []
    for step in context.steps:
        places = [each.place for each in step.backwards]
        if step.stepped and places and len(set(places)) == 1:
            counts.append(len(places))
    return float(median(counts)) if counts else 1.0


def _end_of_fall(rates: Sequence[tuple[int, float]], base: float) -> float | None:
    """At which step of the optimizer a rate comes to 0 that falls in a straight line or as half a cosine.

    What comes before, as a warm-up, is left aside; None of a rate that falls in another way.

    Args:
        rates: (step, rate), in the order of the steps.
        base: where a cosine begins.

    >>> line = [(1, 0.5), (2, 1.0), *((step, (12 - step) / 10) for step in range(3, 9))]
    >>> round(_end_of_fall(line, 1.0), 6)
    12.0
    >>> wave = [(step, 0.5 + 0.5 * math.cos(math.pi * step / 40)) for step in range(9)]
    >>> round(_end_of_fall(wave, 1.0), 6)
    40.0
    >>> _end_of_fall([(step, 0.9**step) for step in range(1, 9)], 1.0)
    """
    top = max(range(len(rates)), key=lambda place: rates[place][1], default=0)
    # Between two steps of the optimizer it may have gone up and down.
    falling = list(itertools.takewhile(lambda at: at[1] > 1e-6 * base, rates[top + 1 :]))
    if len(falling) < 6 or falling[-1][1] >= falling[0][1] or max(rate for _, rate in falling) > base:
        return None
    first, last = falling[0][0], falling[-1][0]
    # Both are straight then, and 0 at the end.
    line = [rate / base for _, rate in falling]
    angle = [math.acos(2 * each - 1) - math.pi for each in line]
    for way in (line, angle):
        slope = (way[-1] - way[0]) / (last - first)
        if all(
            abs(way[0] + slope * (step - first) - each) < 1e-3 for (step, _), each in zip(falling, way, strict=True)
        ):
            return first - way[0] / slope
    return None


@check(
    threshold="A schedule is stepped as often as it is made for; one that waits for a number to stop falling or rising "
    "is given one that does.",
    limits=(EARLY, FORGOTTEN),
    source="A schedule of E epochs that is stepped with every batch is over after E batches; one that is never stepped "
    "changes nothing.",
    problem="The learning-rate schedule is used wrongly",
    title="Schedule",
)
def schedule(context: LoopContext) -> CheckResult:
    phase = context.phase
    mine = [each for each in context.schedules if each.optimizer_steps and abs(each.optimizer_steps - phase.made) <= 2]
    if not mine:
        stray = _of_another_optimizer(context)
        if stray is not None:
            return stray
        raise Skip("No learning-rate schedule belongs to this training.")
    one = mine[-1]
    steps, made, ended = one.steps, one.optimizer_steps, phase.finished
    epochs, batches = phase.planned or (phase.epochs if ended else 0, phase.loader_length or 0)
    planned = made if ended else round(epochs * batches)
    evidence = {
        "schedule": one.name,
        "steps": steps,
        "optimizer_steps": made,
        "period": one.period,
        "planned_epochs": epochs,
        "planned_steps": planned,
    }

    def problem(summary: str, remedy: str, code: str, place: str | None) -> CheckResult:
        return CheckResult("problem", summary, evidence, Remedy(remedy, code=code), location=place)

    wrong_way = _wrong_way(context, one)
    if wrong_way is not None:
        return wrong_way
    if steps == 0 and len({rate for _, rate in one.rates}) > 1:
        raise Skip(f"{one.name} is not stepped; the rate is changed in another way.")
    if steps == 0 and ((ended and made >= 20) or (one.never and made >= 5)):
        nowhere = "no line of the script steps it" if one.never else f"the rate stays as it is for {made} steps"
        return problem(
            f"{one.name} is never stepped: {nowhere}.", "Call scheduler.step().", "scheduler.step()", one.place
        )
    per_batch = steps >= 0.9 * made and made > 5
    where = one.step_place or one.place
    by_epoch = "Step it once an epoch, or make it for the number of batches."
    after_epoch = "scheduler.step()  # after the loop over batches"
    # Made for whole epochs, and not for as many steps as there are epochs: the rate is to go up again, as in a cycle.
    as_epochs = one.period and epochs and 0.5 * epochs <= one.period <= 1.5 * epochs
    cycle = one.period and batches >= 2 and one.period % batches == 0 and not as_epochs
    if per_batch and one.period and steps > 1.5 * one.period and one.name == "CosineAnnealingLR" and not cycle:
        return problem(
            f"{one.name} is made for {one.period} steps and was stepped {steps} times, with every batch: the rate went "
            f"to its end and back {steps / one.period:.1f} times.",
            by_epoch,
            "T_max = epochs * len(loader)",
            where,
        )
    # Made for steps of the optimizer, and stepped with each part of an accumulated batch.
    parts, micro = steps / made, epochs * (phase.loader_length or 0)
    if one.period and one.name == "CosineAnnealingLR" and made > 5 and parts >= 1.5 and micro:
        turns = micro / one.period
        if abs(turns / parts - 1) < 0.15:
            return problem(
                f"{one.name} is made for {one.period} steps, as many as the optimizer makes, and is stepped "
                f"{parts:.3g} times for each of them: the rate goes to its end and back {turns:.1f} times.",
                "Step it where the optimizer is stepped.",
                "optimizer.step()\nscheduler.step()",
                where,
            )
    ends = None
    if one.name == "LambdaLR" and made > 5:
        ends = _end_of_fall(one.rates, max((step.base_rate for step in context.steps), default=0.0))
    if ends is not None and parts >= 1.5 and micro and abs(ends * parts**2 / micro - 1) < 0.15:
        return problem(
            f"{one.name} is made for {ends * parts:.0f} steps, as many as the optimizer makes, and is stepped "
            f"{parts:.3g} times for each of them: its rate falls to 0 by step {ends:.0f} of "
            f"{micro / parts:.0f}.",
            "Step it where the optimizer is stepped.",
            "optimizer.step()\nscheduler.step()",
            where,
        )
    if ends is not None and 0.9 <= parts < 1.5 and batches >= 5 and epochs > 1 and abs(ends / epochs - 1) < 0.15:
        return problem(
            f"{one.name} is stepped with every batch: its rate falls to 0 by step {ends:.0f} of {planned}, "
            "as many as there are epochs.",
            by_epoch,
            after_epoch,
            where,
        )
    # The reverse: made for the batches, and stepped with each step of the optimizer.
    group = _parts_of_a_step(context)
    batchwise = one.period and micro and abs(one.period / micro - 1) < 0.15
    if batchwise and group >= 2 and made > 5 and 0.8 <= parts <= 1.2 and one.name in _TO_AN_END:
        return problem(
            f"{one.name} is made for {one.period} steps, as many as there are batches, and is stepped once for every "
            f"{group:g} of them: it comes to {1 / group:.0%} of its way.",
            "Make it for the steps of the optimizer.",
            "total_steps = epochs * math.ceil(len(loader) / accumulation_steps)",
            one.place,
        )
    over = one.over_at
    # A decay that is over so soon is meant for epochs, however many it takes; another's end may be meant.
    by_its_end = over is not None and (one.name in ("ExponentialLR", "StepLR") or over <= 1.2 * epochs)
    early = over is not None and by_its_end and over < EARLY.problem * planned
    if per_batch and over and not cycle and epochs and batches >= 2 and early:
        return problem(
            f"{one.name} is over after {over} of its steps and is stepped with every batch: after {over / planned:.0%} "
            f"of the {planned} steps of {epochs} epochs.",
            by_epoch,
            after_epoch,
            where,
        )
    low = 1e-3 * max((rate for _, rate in one.rates), default=0.0)
    # For good: a warm-up begins at 0.
    fallen = [step for step, _ in reversed(list(itertools.takewhile(lambda at: at[1] < low, reversed(one.rates))))]
    periodic = one.name in ("CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR")
    if per_batch and ended and fallen and fallen[0] < EARLY.problem * made and not periodic:
        # Made for steps of the optimizer, and stepped with every part of an accumulated batch.
        often = steps >= 1.5 * made
        rhythm = f"{steps / made:.3g} times for each step of the optimizer" if often else "with every batch"
        return problem(
            f"{one.name} is stepped {rhythm}: the rate is below a thousandth of its start from step "
            f"{fallen[0]} of {made} on.",
            "Step it where the optimizer is stepped." if often else "Step it once an epoch.",
            "optimizer.step()\nscheduler.step()" if often else after_epoch,
            where,
        )
    # Nothing says how long an epoch is, and the training has gone on long after.
    endless = per_batch and ended and not phase.planned and made >= 100
    if endless and one.name == "MultiStepLR" and over and over < FORGOTTEN.problem * made:
        return problem(
            f"{one.name} comes to its last milestone after {over} of {made} steps and is stepped with every batch: "
            f"{1 - over / made:.0%} of the training is at its smallest rate.",
            by_epoch,
            after_epoch,
            where,
        )
    long = one.period and not per_batch and 0.9 * planned <= one.period <= 1.1 * planned
    if ended and long and one.period and steps < 0.5 * one.period and made >= 0.5 * one.period:
        return problem(
            f"{one.name} is made for {one.period} steps and was stepped {steps} times in {made} steps of the "
            "optimizer: it did not come to its end.",
            "Step it after every batch.",
            "scheduler.step()",
            where,
        )
    if long and one.over_at and batches >= 5 and 0 < steps <= 1.5 * made / batches:
        return problem(
            f"{one.name} is made for {one.period} steps, as many as there are batches in {epochs} epochs, and is "
            f"stepped once an epoch: it comes to {epochs / planned:.0%} of its way.",
            "Step it after every batch.",
            "scheduler.step()",
            where,
        )
    return CheckResult("ok", f"{one.name} was stepped {steps} times in {made} steps.", evidence)


LEFT_OUT = Limits(0.2, 0.2, "A batch in a hundred may fail by chance; of a fifth, training loses what they say.")


def _is_left_out(backward: BackwardFacts) -> bool:
    """Whether a loss in single precision is not finite itself, without a scaler's factor."""
    return (
        backward.value is not None and not math.isfinite(backward.value) and not backward.scaled and not backward.half
    )


@check(
    threshold="Every watched step ends in optimizer.step(); fewer than a fifth are left out for a loss that is not "
    "finite.",
    limits=(LEFT_OUT,),
    source="A step that is skipped for a gradient that is not finite leaves the student where it is.",
    problem="Steps are skipped",
    title="Steps",
)
def skipped_steps(context: LoopContext) -> CheckResult:
    watched = context.phase.complete_steps
    made = [step for step in watched if step.stepped]
    if not watched:
        raise Skip("No step was watched.")
    losses = [each for step in watched for each in step.backwards]
    usable = all(each.gradient_finite and not each.scaled and each.not_finite is None for each in losses)
    cleared = sum(any(name == "zero_grad" for name, _ in step.events) for step in watched)
    if not made and usable and len(watched) >= 8 and cleared >= 0.8 * len(watched):
        return CheckResult(
            "problem",
            f"optimizer.step() is called in none of {len(watched)} watched steps: gradients are made and "
            "cleared, and the student stays as it is.",
            {"steps": 0},
            Remedy("Call it after backward().", code="optimizer.step()"),
            location=most_common([each.place for each in losses]),
        )
    lost = [step for step in watched if not step.stepped and any(map(_is_left_out, step.backwards))]
    if LEFT_OUT.at_least(len(lost) / len(watched)) == "problem" and len(lost) > 2:
        first = next(each for step in lost for each in step.backwards if _is_left_out(each))
        name, place = first.not_finite or ("the loss", first.place)
        return CheckResult(
            "problem",
            f"The loss of {len(lost)} of {len(watched)} watched steps is not finite, and these steps are left out: "
            f"{name} gives NaN or infinity.",
            {"steps": len(made), "left_out": len(lost)},
            Remedy(
                "Give a term of no rows the value 0, so that the other terms are learnt from."
                if "no rows" in name
                else "Mend the term that is not finite: what the other terms say of these batches is lost.",
                code="ce = F.cross_entropy(logits[known], labels[known]) if known.any() else logits.sum() * 0.0"
                if "no rows" in name
                else None,
            ),
            location=place,
        )
    if len(made) >= 0.5 * len(watched):
        return CheckResult("ok", "The watched steps end in optimizer.step().")
    return CheckResult(
        "warning",
        f"{len(watched) - len(made)} of {len(watched)} watched steps end without optimizer.step().",
        {"steps": len(made)},
        Remedy("Look at why they are skipped: see the other findings."),
        location=most_common([backward.place for _, backward in context.backwards]),
    )

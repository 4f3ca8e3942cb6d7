"""Checks of what the teacher answers: to which images, how well, in which order of classes, from which weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

import numpy as np
import torch
from torch import Tensor

from stillroom.diagnose.chance import exceeds_chance
from stillroom.diagnose.check import CheckResult, Limits, Skip, check
from stillroom.diagnose.checks.loop.context import (
    FEWEST,
    FEWEST_NUMBERS,
    LoopContext,
    TeacherImages,
    accuracy,
    ask,
    chance,
    most_common,
)
from stillroom.diagnose.checks.loop.record import Answers, CallFacts, NarrowTeacher, Network, Step
from stillroom.diagnose.checks.loop.terms import read_labels, row_shift
from stillroom.diagnose.checks.setup.initialisation import unused_norms
from stillroom.diagnose.checks.teacher_changes import (
    GAIN,
    Trial,
    assign_columns,
    assign_columns_by,
    compare,
    helpful,
    input_changes,
    largest_gain,
)
from stillroom.schema.diagnosis import Remedy, Verdict

# Share of rows on which stored and live answers must decide alike.
ALIKE = Limits(warning=0.9, problem=0.6, why="Augmentation moves some decisions, other images most of them.")

# How much targets differ from row to row, as a share of their size.
CONSTANT = Limits(1e-3, 1e-4, "Softened answers of a trained teacher differ by a tenth and more, features by a half.")
# A share of the way from chance to all labels.
BARELY = 0.25
# What another order of the classes must name of the labels, and how much more than the order as it is.
REORDERED = (0.6, 0.3)
# By how much a teacher may name fewer labels than a network of its shape did when the script had trained it.
UNLIKE_TRAINED = Limits(0.15, 0.3, "Augmentation and other images of the same kind cost ten points, not thirty.")


@check(
    threshold="Stored answers decide as the network does when it is asked again, or fit the labels as well.",
    limits=(ALIKE,),
    source="Answers kept by the number of a batch, of a loader that shuffles, belong to other images from the "
    "next pass "
    "on.",
    problem="The answers belong to other images",
    title="Answers and images",
)
def stale_answers(context: LoopContext) -> CheckResult:
    kept = _first_batch(context)
    if kept is not None:
        return kept
    if not context.answers:
        raise Skip("No logits of a teacher were seen with the student's.")
    for found in (_other_images(context), _mixed_alone(context), _shifted(context)):
        if found is not None:
            return found
    stored = [(step, each) for step, each in context.answers if each.stored]
    if len(stored) == 1 < len(context.answers) and stored[0][1] is context.answers[0][1]:
        # Of the first step alone: the teacher's call was made before it was watched, and a queue keeps earlier ones.
        stored = []
    changed = [each.changed for _, each in stored if each.changed is not None]
    if len(changed) > 0.5 * len(stored):
        return CheckResult(
            "problem",
            f"The stored answers are multiplied or divided in place in {len(changed)} of {len(stored)} watched steps: "
            "from pass to pass those in the store become others.",
            {"steps": len(changed)},
            Remedy("Compute a new tensor.", code="teacher_logits = teacher_logits / T  # not /="),
            location=changed[0],
        )
    if not stored:
        return CheckResult("ok", "The teacher ran in the loop, on the images that the student saw.")
    place = most_common([each.place for _, each in stored])
    blank = [(step, each) for step, each in stored if not bool(each.teacher.any()) or _repeats(each.teacher)]  # type: ignore[union-attr,arg-type]
    if blank:
        zeros = not bool(blank[0][1].teacher.any())  # type: ignore[union-attr]
        return CheckResult(
            "problem",
            f"The stored answers are {'zeros' if zeros else 'the same for every row'} in {len(blank)} of {len(stored)} "
            f"watched steps, first in step {blank[0][0].number + 1}.",
            {"steps": len(blank)},
            Remedy("Fill the store for every image before the first step that reads it."),
            location=place,
        )
    best = _asked_again(context)
    rows = [(e.teacher, e.labels) for _, e in stored if e.labels is not None]
    stored_accuracy, count, classes = float("nan"), 0, stored[0][1].student.shape[1]
    labels = torch.zeros(0, dtype=torch.long)
    if rows:
        logits = torch.cat([t[: len(y)][y[: len(t)] >= 0].cpu() for t, y in rows])  # type: ignore[index,arg-type]
        labels = torch.cat([y[: len(t)][y[: len(t)] >= 0].cpu() for t, y in rows])  # type: ignore[arg-type]
        count = len(labels)
        stored_accuracy = accuracy(logits, labels) if count else float("nan")
    evidence = {"rows": count, "stored_accuracy": stored_accuracy}
    what = "stored answers"
    if all(each.derived for _, each in stored):
        what = "answers that are made of the teacher's outputs"
    remedy = Remedy(
        "Store the answers by the index of the image, and read them by it: let the Dataset return its index, or "
        "shuffle "
        "images, labels and answers together.",
        code="return image, label, index  # in the Dataset; then, in the loop: teacher_logits = store[index]",
    )
    if _is_reordered(context):
        return CheckResult(
            "ok", "The answers are to the same images, in another order of the classes; see class_order.", evidence
        )
    if best is not None:
        network, alike, live_accuracy, asked_rows = best
        evidence |= {"alike": alike, "live_accuracy": live_accuracy, "asked_again": asked_rows}
        verdict = ALIKE.below(alike)
        worse = not rows or math.isnan(stored_accuracy) or live_accuracy - stored_accuracy > 0.2
        if count >= FEWEST and not math.isnan(live_accuracy):
            # Of a weak teacher: its answers now know something of the labels, and the stored ones nothing.
            guessed = chance(labels, classes)
            knows = exceeds_chance(round(live_accuracy * asked_rows), asked_rows, guessed)
            worse |= knows and not exceeds_chance(round(stored_accuracy * count), count, guessed)
        if verdict == "problem" and worse:
            fit = f"; they fit {stored_accuracy:.0%} of the labels, its answers now {live_accuracy:.0%}" if rows else ""
            return CheckResult(
                "problem",
                f"The {what} decide as {network.label} does on {alike:.0%} of {asked_rows} images that it was "
                f"asked about again{fit}: they belong to other images.",
                evidence,
                remedy,
                location=place,
            )
        if alike >= ALIKE.problem:
            return CheckResult(
                "ok",
                f"The {what} decide as {network.label} does now on {alike:.0%} of {asked_rows} images.",
                evidence,
            )
    if _wider_teacher(context) is not None:
        return CheckResult(
            "ok", "The answers are those of other classes to the same images; see class_order.", evidence
        )
    if count >= FEWEST and not exceeds_chance(round(stored_accuracy * count), count, chance(labels, classes)):
        sure = float(torch.cat([t.softmax(1).max(1).values.cpu() for t, _ in rows]).mean())  # type: ignore[union-attr]
        if sure > 2.5 / classes and sure > 0.4:
            return CheckResult(
                "problem",
                f"The {what} name the label in {stored_accuracy:.0%} of {count} rows, as chance does, "
                f"though they "
                f"are sure of themselves ({sure:.0%} for the first class): they belong to other images, or to another "
                "order of classes.",
                evidence | {"confidence": sure},
                remedy,
                location=place,
            )
        raise Skip(
            f"The stored answers name {stored_accuracy:.0%} of the labels, as chance does: whose they are is open."
        )
    return CheckResult("ok", "The stored answers fit the images.", evidence)


def _repeats(rows: Tensor) -> bool:
    return len(rows) > 2 and bool((rows == rows[:1]).all())


def _other_images(context: LoopContext) -> CheckResult | None:
    """Whether teacher and student were given different images in one step."""
    named = [each.labels for _, each in context.answers if each.labels is not None]
    # The labels of a contrast with a queue are all 0.
    if context.follows_student and len({label for each in named for label in each.flatten().tolist()}) < 2:
        return None  # views of one image, as in self-distillation, may have nothing in common
    pairs = [
        (step, each.student_call, each.teacher_call)
        for step, each in context.answers
        if each.student_call is not None and each.teacher_call is not None
    ]
    other: list[tuple[Step, CallFacts]] = []
    count = 0
    for step, student, teacher in pairs:
        first, second = student.inputs, teacher.inputs
        if first is None or second is None or len(first) < 4 or len(first) != len(second):
            continue
        if first.shape != second.shape or not first.is_floating_point():
            continue
        if student.from_networks != teacher.from_networks:
            continue  # what a connector or a head is given are features, not images
        count += 1
        if not torch.equal(first, second) and _row_match(first, second) < 0.5:
            # The same numbers in another order are the same images, turned: that is a matter of the teacher's input.
            turned = [each.float().flatten(1).sort(1).values for each in (first, second)]
            if _row_match(turned[0], turned[1]) < 0.9:
                other.append((step, teacher))
    if not other or len(other) < 0.5 * count:
        return None
    agreement = [_label_fit(each) for _, each in context.answers]
    fits = [each for each in agreement if each is not None]
    if fits and float(np.mean(fits)) > 0.5:
        return None
    return CheckResult(
        "problem",
        f"Teacher and student were given different images in {len(other)} of {count} watched steps: row by row their "
        "inputs have nothing in common.",
        {"steps": len(other)},
        Remedy("Ask the teacher about the batch that the student is trained on."),
        location=most_common([call.place for _, call in other]),
    )


def _mixed_alone(context: LoopContext) -> CheckResult | None:
    """Whether the student is given mixtures of the images that the teacher is given one by one."""
    count, mixed = 0, []
    for step, each in context.answers:
        student, teacher = each.student_call, each.teacher_call
        if student is None or teacher is None or student.inputs is None or teacher.inputs is None or each.reordered:
            continue
        first, second = student.inputs, teacher.inputs
        if first.shape != second.shape or not first.is_floating_point() or len(first) < 4 or student.from_networks:
            continue
        count += 1
        if sum(call.network is teacher.network for call in step.calls) == 1 and _is_mixture(first, second):
            mixed.append(student)
    if len(mixed) < max(3, 0.5 * count):
        return None
    return CheckResult(
        "problem",
        f"The student is given mixtures of two images, and the teacher's answer to one of them is its target, in "
        f"{len(mixed)} of {count} watched steps.",
        {"steps": len(mixed)},
        Remedy(
            "Ask the teacher about the same mixture, or mix its answers as the images are mixed.",
            code="teacher_logits = teacher(mixed)",
        ),
        location=most_common([call.place for call in mixed]),
    )


def _is_mixture(mixed: Tensor, images: Tensor) -> bool:
    """Whether rows are sums of the same row of other images and of another row of them, or patched from both."""
    rows, others = (each.float().flatten(1) for each in (mixed, images))
    hits = changed = 0
    for row in range(min(len(rows), 8)):
        difference = rows[row] - others[row]
        size = float(difference.norm())
        if size <= 1e-6 * float(others[row].norm()):
            continue
        changed += 1
        ways = others - others[row]
        cosines = ways @ difference / (ways.norm(dim=1).clamp_min(1e-12) * size)
        partner = int(cosines.argmax())
        share = size / max(float(ways[partner].norm()), 1e-12)
        taken = (others == rows[row]) & (rows[row] != others[row])
        patch = difference != 0
        best = int(taken.sum(1).argmax())
        patched = bool(taken[best][patch].all()) and len(set(rows[row][patch].tolist())) > 2
        hits += (float(cosines[partner]) > 0.999 and 0.02 < share < 0.98) or (patched and not bool(patch.all()))
    return changed >= 3 and hits >= 0.75 * changed


def _shifted(context: LoopContext) -> CheckResult | None:
    """Whether each row, or position, of the student is compared with the teacher's answer to another one."""
    usable = [each for _, each in context.answers if each.loss is not None and each.teacher_terms][:3]
    shifts = {row_shift(each) for each in usable}
    if len(shifts) != 1 or 0 in shifts:
        return None
    (shift,) = shifts
    right: list[Tensor] = []
    for each in usable:
        teacher, labels = each.loss.sources[1].movedim(each.class_dim, -1), read_labels(each)
        both = [teacher.roll(shift, len(each.shape) - 2), teacher]
        right.append(torch.stack([(one.argmax(-1) == labels)[labels >= 0] for one in both]))
    names = torch.cat(right, 1).float()
    if names.shape[1] < FEWEST:
        return None
    used_right, own_right = names.mean(1).tolist()
    if own_right - used_right < 0.15:
        return None
    what = "position" if len(usable[0].shape) == 3 else "row"
    plural = f"{abs(shift)} {what}{'s' if abs(shift) > 1 else ''}"
    return CheckResult(
        "problem",
        f"The student is compared with the teacher's answer {plural} {'before' if shift > 0 else 'after'} its own: "
        f"that one names {used_right:.0%} of the student's labels, the answer at the same {what} {own_right:.0%}.",
        {"shift": shift, "accuracy": used_right, "unshifted": own_right},
        Remedy("Slice, shift or roll the logits of both alike."),
        location=most_common([each.place for each in usable]),
    )


def _label_fit(answers: Answers) -> float | None:
    if answers.labels is None or answers.teacher is None:
        return None
    valid = answers.labels >= 0
    count = min(len(valid), len(answers.teacher))
    return accuracy(answers.teacher[:count][valid[:count]], answers.labels[:count][valid[:count]])


def _row_match(first: Tensor, second: Tensor) -> float:
    """Share of rows of one batch that are most like the same row of the other."""
    a, b = (each.float().flatten(1) for each in (first, second))
    a, b = a - a.mean(0), b - b.mean(0)
    a, b = (torch.nn.functional.normalize(each, dim=1) for each in (a, b))
    nearest = (a @ b.T).argmax(1)
    return float((nearest == torch.arange(len(a), device=nearest.device)).float().mean())


def _first_batch(context: LoopContext) -> CheckResult | None:
    """One tensor of an earlier step, the answer to one batch, is the target of all batches.

    A hook that appends to a list which nobody empties leaves the first batch's features at the head of it.
    """
    if context.kept_target is None:
        return None
    steps, network = context.kept_target
    places = [term.place for step in steps for each in step.backwards for term in each.terms if term.teacher]
    return CheckResult(
        "problem",
        f"One tensor is the target of {len(steps)} of {len(context.steps)} watched steps, whose images differ; what "
        f"{network.label} gives for the batch is not read.",
        {"steps": len(steps), "network": network.label},
        Remedy(
            "Read what the hook kept of this batch: empty its list before the teacher is run, or take the last entry.",
            code="features.clear(); teacher(images); target = features[-1]",
        ),
        location=most_common(places),
    )


def _asked_again(context: LoopContext) -> tuple[Network, float, float, int] | None:
    """The network that stored answers fit best when it is asked now: share of equal decisions, accuracy, rows."""
    best: tuple[Network, float, float, int] | None = None
    for network, answers in context.asked_again:
        same = hits = labelled = total = 0
        for each, logits in answers:
            assert each.teacher is not None
            count, live = len(logits), logits.argmax(1)
            same += int((live == each.teacher[:count].argmax(1).cpu()).sum())
            total += count
            if each.labels is not None:
                valid = each.labels[:count].cpu()
                hits += int((live[valid >= 0] == valid[valid >= 0]).sum())
                labelled += int((valid >= 0).sum())
        if total and (best is None or same / total > best[1]):
            best = (network, same / total, hits / labelled if labelled else float("nan"), total)
    return best


@check(
    threshold="The file that the teacher was loaded from holds its weights.",
    source="load_state_dict(…, strict=False) passes over keys of another name (a 'module.' before them) in silence.",
    problem="The teacher's weights were not loaded",
    title="Weights of the teacher",
)
def weights_not_loaded(context: LoopContext) -> CheckResult:
    teachers = context.teachers or context.candidates
    if not teachers:
        raise Skip("No teacher was run.")
    seen = False
    for network in teachers:
        for loading in network.loaded[:1]:
            seen = True
            missing = [key for key in loading.missing if not key.endswith("num_batches_tracked")]
            if network.trained_before or not missing:
                continue
            share = loading.loaded / max(1, loading.expected)
            unknown = f"; the file's keys are {', '.join(loading.unexpected[:2])} …" if loading.unexpected else ""
            module = network.module()
            unused = (
                any(key.endswith("running_mean") for key in missing) and module is not None and unused_norms(module)
            )
            verdict: Verdict = "problem" if share < 0.5 or _has_head(missing) or unused else "warning"
            return CheckResult(
                verdict,
                f"{loading.loaded} of {loading.expected} tensors of the teacher {network.shown} were loaded"
                f"{unknown}: what is missing ({', '.join(missing[:2])} …) is as it was drawn.",
                {"loaded": loading.loaded, "expected": loading.expected, "unexpected": list(loading.unexpected[:5])},
                Remedy(
                    "Load with strict=True, and rename the keys that it complains about.",
                    code='model.load_state_dict({k.removeprefix("module."): v for k, v in state.items()})',
                ),
                location=loading.place,
            )
    # A copy of a network that was trained is one, too: the old model of an incremental training, the best so far.
    trained = [each for each in teachers if each.trained_before or not each.fresh]
    if not seen and not trained and context.whole_script and not context.follows_student and context.teachers:
        at_chance = _teacher_accuracy(context)
        if at_chance is not None and not at_chance[0]:
            return CheckResult(
                "problem",
                f"The teacher {teachers[0].shown} was neither trained nor loaded in this script, and names "
                f"{at_chance[1]:.0%} of {at_chance[2]} labels, as chance does.",
                {"accuracy": at_chance[1], "rows": at_chance[2]},
                Remedy(
                    "Load the teacher's weights before it answers.",
                    code="teacher.load_state_dict(torch.load(path, weights_only=True))",
                ),
                location=context.calls("teacher")[0][1].place if context.calls("teacher") else None,
            )
        raise Skip("The teacher was neither trained nor loaded under the audit.")
    return CheckResult("ok", "The teacher was trained in this script, or all of its weights were loaded.")


def _has_head(missing: list[str]) -> bool:
    return any(part in key for key in missing for part in ("fc.", "classifier.", "head."))


def _teacher_accuracy(context: LoopContext) -> tuple[bool, float, int] | None:
    """Whether the teacher is above chance, its accuracy on the watched rows, and how many they are."""
    try:
        teacher, _, labels = context.labelled
    except Skip:
        return None
    if len(labels) < FEWEST:
        return None
    share = accuracy(teacher, labels)
    guessed = chance(labels, teacher.shape[1])
    return exceeds_chance(round(share * len(labels)), len(labels), guessed), share, len(labels)


def _copy_accuracy(context: LoopContext) -> tuple[bool, float, int] | None:
    """The same of a teacher that is the student as it was drawn, asked about the student's images that have labels."""
    network = context.phase.untrained_copy
    known = [each.labelled for _, each in context.backwards if each.labelled is not None]
    known = [each for each in known if each[0].inputs is not None and len(each[0].outputs[0]) == 2]
    if network is None or sum(len(labels) for _, labels in known) < FEWEST:
        return None
    classes = known[0][0].outputs[0][1]
    named, labels = [], []
    for call, own in known[:16]:
        count = min(len(call.inputs), len(own))  # type: ignore[arg-type]
        own = own[:count].cpu()
        try:
            guess = ask(network, call.inputs[:count], classes).argmax(1)  # type: ignore[index]
        except Skip:
            return None
        named.append((guess == own)[own >= 0])
        labels.append(own[own >= 0])
    right, guessed = torch.cat(named), chance(torch.cat(labels), classes)
    return exceeds_chance(int(right.sum()), len(right), guessed), float(right.float().mean()), len(right)


# Of how many steps a teacher of more classes is asked again.
_ASKED = 16


def _wider_teacher(context: LoopContext) -> tuple[float, float, list[int], int] | None:
    """The columns of a teacher that knows more classes, where others than those that are taken fit the labels.

    Returns:
        The share of labels that the taken columns name, that of the fitting ones, these by class, and how many labels
        there were; None where what is taken fits, or nothing does.
    """
    right: list[Tensor] = []
    wide: list[Tensor] = []
    named: list[Tensor] = []
    for step, each in context.answers[:_ASKED]:
        classes = each.student.shape[1]
        calls = [
            call
            for call in step.calls
            if call.role == "teacher" and call.held == 0 and call.inputs is not None and len(call.outputs[0]) == 2
        ]
        if each.labels is None or each.teacher is None or len(each.shape) != 2 or len(calls) != 1:
            continue
        inputs, outputs = calls[0].inputs, calls[0].outputs[0]
        if inputs is None or outputs[1] <= classes or outputs[0] != each.shape[0] or calls[0].from_networks:
            continue
        count = min(len(inputs), len(each.labels), len(each.teacher))
        try:
            logits = ask(calls[0].network, inputs[:count], outputs[1])
        except Skip:
            return None
        labels = each.labels[:count].cpu()
        right.append((each.teacher[:count].argmax(1).cpu() == labels)[labels >= 0])
        wide.append(logits[labels >= 0])
        named.append(labels[labels >= 0])
    if not wide or len({each.shape[1] for each in wide}) > 1 or context.follows_student:
        return None
    logits, labels = torch.cat(wide), torch.cat(named)
    classes = context.answers[0][1].student.shape[1]
    if len(labels) < max(FEWEST, 3 * classes):
        return None
    columns = assign_columns(logits.argmax(1), labels, classes, logits.shape[1])
    share, best = float(torch.cat(right).float().mean()), accuracy(logits[:, columns], labels)
    return (share, best, columns.tolist(), len(labels)) if best > 0.6 and best - share > 0.3 else None


def _other_columns(context: LoopContext) -> CheckResult | None:
    """A teacher of fewer classes whose answers are compared with columns of the student that stand for others."""
    found = [each.answers for _, each in context.backwards if each.answers is not None]
    known = [
        (each.narrower, each.labels)
        for each in found
        if each.narrower is not None and each.labels is not None and len(each.shape) == 2
    ]
    if not known or len({(one.first, one.logits.shape[1]) for one, _ in known}) > 1:
        return None
    first, count = known[0][0].first, known[0][0].logits.shape[1]
    rows = [(one.logits[: len(labels)], labels[: len(one.logits)].cpu()) for one, labels in known]
    named, labels = torch.cat([logits.argmax(1).cpu() for logits, _ in rows]), torch.cat([each for _, each in rows])
    classes = next(each.student.shape[1] for each in found if each.narrower is not None)

    def agreement(start: int) -> tuple[float, int]:
        """The share of rows, of those whose label would be the teacher's to know, that it names right."""
        own = (labels >= start) & (labels < start + count)
        return float((named + start == labels)[own].float().mean()) if own.any() else 0.0, int(own.sum())

    share, _ = agreement(first)
    start = max(range(classes - count + 1), key=lambda each: agreement(each)[0] if agreement(each)[1] >= FEWEST else 0)
    best, seen = agreement(start)
    moved = start != first and seen >= FEWEST and best > 0.6 and best - share > 0.3
    reordered = _other_order(known[0][0], named, labels, classes, agreement(first))
    if not moved or (reordered is not None and reordered.evidence["reordered"] > best + 0.05):
        return reordered
    return CheckResult(
        "problem",
        f"The teacher knows {count} of {classes} classes: {start} to {start + count - 1}, as it names {best:.0%} of "
        f"their {seen} labels. Its answers are compared with the student's columns {first} to {first + count - 1}.",
        {"accuracy": share, "reordered": best, "rows": seen, "first": first, "fitting": start},
        Remedy(
            "Take the student's columns of the teacher's classes.",
            code=f"student_logits = student_logits[:, {f'{start}:' if start else ':'}{start + count}]",
        ),
        location=known[0][0].place,
    )


def _other_order(
    teacher: NarrowTeacher, named: Tensor, labels: Tensor, classes: int, now: tuple[float, int]
) -> CheckResult | None:
    """A teacher of fewer classes whose own order is another than that of the student's columns.

    Args:
        named: the column that the teacher names for each row.
        labels: the label of each row.
        classes: of the student.
        now: the share that it names right of the rows whose labels are those of the columns that it is compared with,
            and how many these are.
    """
    count, (share, own) = teacher.logits.shape[1], now
    if own < FEWEST or share > 0.4:
        return None
    # By shares of each class: of an earlier task's classes a memory holds few rows.
    table = torch.bincount(labels.clamp(min=0) * count + named, (labels >= 0).double(), classes * count)
    table = table.view(classes, count)
    rows = table.sum(1)
    shares = torch.where(rows[:, None] >= _FEWEST_OF_CLASS, table / rows[:, None].clamp(min=1), 0.0)
    columns = assign_columns_by(shares.T)
    chosen = table[columns].sum(1)
    best = float(table[columns, torch.arange(count)].sum() / chosen.sum().clamp(min=1))
    if chosen.sum() < FEWEST or not (best > 0.6 and best - share > 0.3):
        return None
    order = columns.tolist()
    return CheckResult(
        "problem",
        f"The teacher knows {count} of {classes} classes, and names {best:.0%} of the labels of classes "
        f"{', '.join(map(str, order[:6]))}{' …' if count > 6 else ''}, in this order. Its answers are compared with "
        f"the student's columns {teacher.first} to {teacher.first + count - 1}, of whose labels it names {share:.0%}.",
        {"accuracy": share, "reordered": best, "rows": own, "first": teacher.first},
        Remedy(
            "Take the student's columns of the teacher's classes, in the teacher's order.",
            code=f"student_logits = student_logits[:, {order if count <= 20 else 'order_of_the_teacher'}]",
        ),
        location=teacher.place,
    )


# Of fewer rows the share that a teacher names as one class is luck.
_FEWEST_OF_CLASS = 5


def _best_order(context: LoopContext) -> tuple[float, float, Tensor, Tensor]:
    """Which share of the labels the teacher names, as it is and in the order of classes that fits best; that order,
    and the labels.
    """
    teacher, _, labels = context.labelled
    classes = teacher.shape[1]
    if len(labels) < max(FEWEST, 3 * classes):
        raise Skip(f"{len(labels)} rows with labels are too few for {classes} classes.")
    guess = teacher.argmax(1)
    columns = assign_columns(guess, labels, classes, classes)
    best = float((guess == columns[labels]).sum()) / len(labels)
    return accuracy(teacher, labels), best, columns, labels


def _is_reordered(context: LoopContext) -> bool:
    """Whether the teacher's answers fit the labels in another order of the classes alone."""
    try:
        share, best, _, _ = _best_order(context)
    except Skip:
        return False
    return best > REORDERED[0] and best - share > REORDERED[1]


@check(
    threshold="The teacher's classes are in the order of the labels.",
    source="Class numbers follow the order of folders or of a file; another order leaves a teacher that is right and "
    "scored as wrong.",
    problem="The teacher's classes are in another order",
    title="Order of the classes",
)
def class_order(context: LoopContext) -> CheckResult:
    if (narrower := _other_columns(context)) is not None:
        return narrower
    wider = _wider_teacher(context)
    if wider is not None:
        share, best, order, rows = wider
        return CheckResult(
            "problem",
            f"The teacher knows more classes than the student. What is taken of its answers names {share:.0%} of "
            f"{rows} labels; the columns of these classes ({', '.join(map(str, order[:6]))}"
            f"{' …' if len(order) > 6 else ''}) name {best:.0%}.",
            {"accuracy": share, "reordered": best, "rows": rows},
            Remedy(
                "Take the teacher's columns of the student's classes.",
                code=f"teacher_logits = teacher_logits[:, {order if len(order) <= 20 else 'columns'}]",
            ),
            location=most_common([each.place for _, each in context.answers]),
        )
    share, best, columns, labels = _best_order(context)
    classes = len(columns)
    evidence = {"accuracy": share, "reordered": best, "rows": len(labels)}
    if best > REORDERED[0] and best - share > REORDERED[1]:
        seen = set(labels.tolist())
        moved = [f"{r}→{c}" for r, c in enumerate(columns.tolist()) if r != c and r in seen]
        return CheckResult(
            "problem",
            f"The teacher names {share:.0%} of {len(labels)} labels, and {best:.0%} where its classes are put "
            f"into another "
            f"order ({', '.join(moved[:4])} …).",
            evidence,
            Remedy(
                "Reorder the teacher's logits: order[label] is the teacher's class.",
                code=f"order = {columns.tolist() if classes <= 20 else '…'}\nteacher_logits = teacher_logits[:, order]",
            ),
            location=most_common([each.place for _, each in context.answers]),
        )
    return CheckResult("ok", f"No other order of classes fits the labels better ({share:.0%}).", evidence)


@check(
    threshold="The teacher names more labels than chance does (p < 0.001).",
    source="A student that is taught by guesses learns guesses.",
    problem="The teacher guesses",
    title="The teacher and chance",
)
def teacher_at_chance(context: LoopContext) -> CheckResult:
    found = _teacher_accuracy(context) or _copy_accuracy(context)
    if found is None:
        raise Skip("Too few labels were seen with the teacher's answers.")
    above, share, rows = found
    evidence = {"accuracy": share, "rows": rows}
    if context.follows_student or any(call.held for _, call in context.calls("teacher")):
        return CheckResult(
            "ok", f"The teacher learns with the student: it names {share:.0%} of {rows} labels.", evidence
        )
    if above:
        return CheckResult("ok", f"The teacher names {share:.0%} of {rows} labels.", evidence)
    if context.phase.untrained_copy is not None:
        over = context.phase.is_seen_to_its_end
        return CheckResult(
            "problem" if over else "warning",
            f"The teacher names {share:.0%} of {rows} labels, no more than chance: it is the student as it was drawn, "
            f"and has not moved in the {len(context.steps)} watched steps.",
            evidence,
            Remedy("Let it follow the student, by an update that reaches the network that answers."),
            location=context.calls("teacher")[0][1].place,
        )
    return CheckResult(
        "problem",
        f"The teacher names {share:.0%} of {rows} labels, no more than chance.",
        evidence,
        Remedy("Check the teacher's weights, its input and the labels, in this order."),
        location=most_common([each.place for _, each in context.answers]),
    )


def _is_other(context: LoopContext, trained: Network) -> bool:
    """Whether the teacher has the shape of a network that was trained before and is not that network itself."""
    return any(
        each.shape == trained.shape and each.shape and not each.trained_before and not context.follows_student
        for each in context.teachers
    )


def _is_copy(context: LoopContext) -> bool:
    """Whether the teacher is the student as it was earlier: of its shape, neither loaded nor trained on its own."""
    shapes = {each.shape for each in context.students}
    return bool(context.teachers) and all(
        each.shape in shapes and not each.loaded and not each.trained_before for each in context.teachers
    )


def _accuracy_of(context: LoopContext, network: Network) -> float | None:
    """The accuracy of another network on the teacher's inputs; None where it cannot be asked."""
    right = rows = 0
    for _, each in context.answers[:8]:
        inputs = each.teacher_call.inputs if each.teacher_call is not None else None
        if inputs is None or each.labels is None or len(inputs) > len(each.labels):
            continue
        try:
            guess = ask(network, inputs, each.student.shape[1]).argmax(1)
        except Skip:
            return None
        labels = each.labels[: len(guess)].cpu()
        right, rows = right + int((guess == labels).sum()), rows + int((labels >= 0).sum())
    return right / rows if rows else None


def _loaded_at(context: LoopContext) -> str | None:
    return next((loading.place for each in context.teachers for loading in each.loaded), None)


@check(
    threshold="A warning below 60% of the training labels; a problem below a quarter of the way from chance to all of "
    "them, where the student itself does better by 10 "
    "points, or a network of the same shape that the script trained before did by 30.",
    limits=(Limits(0.6, 0.0, "A teacher is usually fitted to its training data."), UNLIKE_TRAINED),
    source="What a teacher does not know it cannot teach.",
    problem="The teacher is weak",
    title="Accuracy of the teacher",
)
def teacher_weak(context: LoopContext) -> CheckResult:
    teacher, student, labels = context.labelled
    if len(labels) < FEWEST:
        raise Skip("Too few labels were seen with the teacher's answers.")
    half = len(labels) // 2
    share = accuracy(teacher, labels)
    late, late_student = accuracy(teacher[half:], labels[half:]), accuracy(student[half:], labels[half:])
    evidence = {"accuracy": share, "rows": len(labels), "student": late_student}
    margin = 0.1 + 2 * (0.5 / max(1, len(labels) - half)) ** 0.5
    if late_student - late > margin and not context.follows_student and not _is_copy(context):
        return CheckResult(
            "problem",
            f"The student names {late_student:.0%} of the last {len(labels) - half} labels that were watched, "
            f"the teacher "
            f"{late:.0%}.",
            evidence,
            Remedy("Train the teacher longer, or leave it out."),
            location=most_common([each.place for _, each in context.answers]),
        )
    for trained, before in context.trained:
        if share < 0.75 and UNLIKE_TRAINED.at_least(before - share) == "problem" and _is_other(context, trained):
            now = _accuracy_of(context, trained)
            if now is not None and UNLIKE_TRAINED.at_least(now - share) != "problem":
                continue  # it named its own few labels alone
            return CheckResult(
                "problem",
                f"The teacher names {share:.0%} of {len(labels)} labels; a network of the same shape named "
                f"{before:.0%} of its own when this script had trained it.",
                {**evidence, "trained": before},
                Remedy("Load the weights of the last epoch, or of the best one: look at which file is taken."),
                location=_loaded_at(context) or most_common([each.place for _, each in context.answers]),
            )
    guessed = chance(labels, teacher.shape[1])
    above = exceeds_chance(round(share * len(labels)), len(labels), guessed)
    barely = guessed + BARELY * (1 - guessed)
    # Of the next of thousands of words a good teacher names few; of two classes a quarter of the way is much.
    plain = guessed < 0.34 and teacher.shape[1] <= 1000 and all(len(each.shape) == 2 for _, each in context.answers)
    plain &= not context.follows_student
    if plain and above and len(labels) >= 200 and share < barely:
        return CheckResult(
            "problem",
            f"The teacher names {share:.0%} of {len(labels)} training labels; chance names {guessed:.0%}.",
            {**evidence, "chance": guessed},
            Remedy("Train the teacher first: look at where its training ends, and at its input."),
            location=most_common([each.place for _, each in context.answers]),
        )
    if above and share < 0.6:
        return CheckResult(
            "warning",
            f"The teacher names {share:.0%} of {len(labels)} training labels.",
            evidence,
            Remedy("Compare with the accuracy that the teacher is known for; look at its input and its training."),
            location=most_common([each.place for _, each in context.answers]),
        )
    return CheckResult("ok", f"The teacher names {share:.0%} of {len(labels)} training labels.", evidence)


@check(
    threshold="No other scale, normalisation or channel order of its input lets the teacher name 15 points more of the "
    f"labels, nor {GAIN.problem:.0%} more and half of its errors fewer; images that the script trained it on come in "
    "the same units.",
    limits=(GAIN,),
    source="A teacher sees what it was trained on only through the same preprocessing.",
    problem="The teacher's input is not what it was trained on",
    title="Input of the teacher",
)
def teacher_input(context: LoopContext) -> CheckResult:
    if context.follows_student:
        raise Skip("The teacher follows the student: it is not yet what it will be.")
    images = context.teacher_images
    if images.network in context.students:
        raise Skip("The teacher is the student itself: it is not yet what it will be.")
    right, rows = images.correct(), len(images.labels)
    given = float(right.float().mean())
    evidence: dict[str, object] = {"accuracy": given, "rows": rows}
    rescaled = _other_units(context, images)
    if rescaled is not None:
        scale, shift, moved = rescaled
        return CheckResult(
            "problem",
            f"The teacher {images.network.shown} is given images that this script trained it on in other units, times "
            f"{scale:.3g} and {shift:+.3g}: its answers move by {moved:.0%} of their probability.",
            {**evidence, "scale": scale, "shift": shift, "moved": moved},
            Remedy("Give the teacher the input that it was trained on: its own normalisation and scale."),
            location=images.place,
        )
    if given > 1 - GAIN.problem:
        return CheckResult(
            "ok", f"The teacher names {given:.0%} of {rows} labels on the input that it is given.", evidence
        )
    changes = {**input_changes(images.inputs), **_known_units(context, images)}
    other = images.to_student
    if other is not None:
        changes = {"the same as the student's": lambda x: other, **changes}
    trials = []
    for name, change in changes.items():
        with suppress(Skip):
            trials.append(Trial("teacher_input", name, *compare(right, partial(images.correct, change))))
    evidence["tried"] = {each.name: each.accuracy[1] for each in trials}
    # Half of its errors, where it is nearly right on what it is given: a young one gains a little by luck.
    helps = [
        each
        for each in helpful(trials, len(changes))
        if each.gain > 0.15 or (each.gain >= GAIN.problem and 2 * (1 - each.accuracy[1]) <= 1 - each.accuracy[0])
    ]
    if helps:
        best = largest_gain(helps)
        return CheckResult(
            "problem",
            f"The teacher {images.network.shown} names {best.accuracy[0]:.0%} of {best.images} labels on the input "
            f"that it is given, and {best.accuracy[1]:.0%} where it is {best.name}.",
            evidence,
            Remedy(
                "Give the teacher the input that it was trained on: its own normalisation, scale and channel order."
            ),
            location=images.place,
        )
    return CheckResult("ok", f"No other input that was tried helps the teacher ({given:.0%}).", evidence)


# How far the mean, in deviations, and the deviation, as a factor, of the teacher's input are from those it knows, where
# its units are others: augmentation and other images move both by less.
_OTHER_MEAN, _OTHER_DEVIATION = 0.5, 1.5
# How far from 0 the means of standardised features are, in deviations.
_STANDARDISED = 0.2


# Images that are the same but for a scale and a shift, by the cosine of their pixels around their mean; how many are
# asked for; how far their scales and shifts may be apart; by how much of its probability an answer must move.
_SAME_PIXELS, _FEWEST_PAIRS, _SAME_SCALE, _MOVED = 1 - 1e-5, 8, 1e-3, 0.05


def _other_units(context: LoopContext, images: TeacherImages) -> tuple[float, float, float] | None:
    """Scale and shift from what the script trained the teacher on to the same images now, and how far answers move.

    Few labels, or easy ones, may be named all the same; the answer's softness is another.
    """
    known = context.known_inputs(images.network).get("trained on")
    given = images.inputs
    if known is None or images.from_networks or known.shape[1:] != given.shape[1:] or known.dim() not in (2, 4):
        return None
    # Each channel has a scale of its own; vectors have one.
    channels = given.shape[1] if given.dim() == 4 else 1
    own, other = (each.double().reshape(len(each), channels, -1) for each in (given, known))
    undone, found = own.clone(), None
    for channel in range(channels):
        between = _scale_and_shift(own[:, channel], other[:, channel])
        if between is None:
            return None
        scale, shift = between
        undone[:, channel].sub_(shift).div_(scale)
        moves = abs(shift) > _OTHER_MEAN * float(other[:, channel].std())
        if moves or abs(math.log(scale)) > math.log(_OTHER_DEVIATION):
            found = between
    if found is None:
        return None
    with suppress(Skip):
        inputs = (given, undone.reshape(given.shape).to(given))
        now, before = (ask(images.network, each, images.classes).softmax(1) for each in inputs)
        moved = float((now - before).abs().sum(1).mean()) / 2
        return (*found, moved) if moved > _MOVED else None
    return None


def _scale_and_shift(given: Tensor, known: Tensor) -> tuple[float, float] | None:
    """given = scale · known + shift, where rows of both are the same but for these, and those are the same for all."""
    if known.shape[1] < FEWEST_NUMBERS:
        return None
    (mean, size, direction), (known_mean, known_size, known_direction) = map(_around_mean, (given, known))
    cosine, place = (direction @ known_direction.T).max(1)
    same = cosine > _SAME_PIXELS
    if int(same.sum()) < _FEWEST_PAIRS:
        return None
    place = place[same]
    scales = size[same] / known_size[place]
    scale = float(scales.median())
    shifts = mean[same] - scale * known_mean[place]
    shift = float(shifts.median())
    spread = float(known.std()) * scale
    apart = max(float((scales / scale - 1).abs().max()), float((shifts - shift).abs().max()) / spread)
    return (scale, shift) if apart < _SAME_SCALE else None


def _around_mean(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each row's mean, [N], and what is around it: its length, [N], and its direction, [N, D]."""
    mean = rows.mean(1)
    around = rows - mean[:, None]
    size = around.norm(dim=1).clamp_min(1e-12)
    return mean, size, around / size[:, None]


def _known_units(context: LoopContext, images: TeacherImages) -> dict[str, Callable[[Tensor], Tensor]]:
    """The teacher's input brought to the mean and deviation of what the script trained or evaluated it on.

    Only where one of the two differs by more than it does between kinds of images. Each feature by itself where they
    were standardised so: elsewhere this would make up for images of another kind, too.
    """
    given = images.inputs.float()
    found: dict[str, Callable[[Tensor], Tensor]] = {}
    if images.from_networks:
        return found
    for what, known in context.known_inputs(images.network).items():
        known = known.to(given)
        name = f"brought to the mean and deviation of what it was {what}"
        (mean, std), (own, deviation) = (_moments(each, range(each.dim())) for each in (known, given))
        if not bool(std > 0) or not bool(deviation > 0):
            continue
        factor = float((std / deviation).log().abs())
        if float((mean - own).abs() / std) < _OTHER_MEAN and factor < math.log(_OTHER_DEVIATION):
            continue
        found[name] = partial(_to_moments, given=(own, deviation), wanted=(mean, std))
        if known.shape[1:] != given.shape[1:] or known.dim() not in (2, 4):
            continue
        over = [0] if known.dim() == 2 else [0, 2, 3]
        (mean, std), (own, deviation) = (_moments(each, over) for each in (known, given))
        varied = std > 1e-6 * std.max()
        if known.dim() == 4 or float((mean.abs() / std)[varied].median()) < _STANDARDISED:
            found[f"{name}, each feature by itself"] = partial(_to_moments, given=(own, deviation), wanted=(mean, std))
    return found


def _moments(rows: Tensor, over: Iterable[int]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over some dimensions, which stay with size 1."""
    dims = list(over)
    return rows.mean(dims, keepdim=True), rows.std(dims, keepdim=True, correction=0)


def _to_moments(x: Tensor, *, given: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> Tensor:
    (own, deviation), (mean, std) = given, wanted
    return torch.where(deviation > 0, (x - own) / deviation.clamp_min(1e-12), 0.0) * std + mean


@check(
    threshold="What the student is compared with differs from image to image.",
    limits=(CONSTANT,),
    source="Targets with next to no variance can be met by a constant: a map of one place that is normalised is 1.",
    problem="The targets are constant",
    title="Spread of the targets",
)
def target_constant(context: LoopContext) -> CheckResult:
    spreads: dict[str | None, list[float]] = {}
    for _, backward in context.backwards:
        for term in backward.terms:
            if term.spread is not None:
                spreads.setdefault(term.place, []).append(term.spread)
    if not spreads:
        raise Skip("Nothing of a teacher that has rows was seen.")
    place, values = min(spreads.items(), key=lambda item: max(item[1]))
    share = max(values)
    evidence = {"spread": share, "losses": len(values)}
    if CONSTANT.below(share) == "ok" or len(values) < 3:
        return CheckResult("ok", "The teacher's targets differ from row to row.", evidence)
    kept = bool(context.answers) and all(each.stored for _, each in context.answers)
    why = ""
    remedy = Remedy(
        "Look at the layer that it is taken from, at its normalisation, and at the teacher's weights and input."
    )
    given = [shape for _, call in context.calls("teacher") for shape in call.outputs]
    if share == 0 and given and all(shape[-1:] == (1,) for shape in given):
        why = " It has one number a row, of which a softmax is 1 whatever the number."
        remedy = Remedy(
            "Compare sigmoids, or make two logits of the one.",
            code="two = torch.cat([torch.zeros_like(logit), logit], -1)",
        )
    return CheckResult(
        "warning" if kept else CONSTANT.below(share),
        f"The teacher's side of the term at {place} differs from row to row by {share:.1e} of its size at most.{why}",
        evidence,
        remedy,
        location=place,
    )

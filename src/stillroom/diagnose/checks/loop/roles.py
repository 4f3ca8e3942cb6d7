"""Checks of who learns and who teaches: modes, gradients, what the optimizer holds, terms that do not arrive."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median

import torch

from stillroom.diagnose.check import CheckResult, Limits, Skip, check
from stillroom.diagnose.checks.loop.context import LoopContext, most_common
from stillroom.diagnose.checks.loop.record import NO_KEY, CallFacts, InferenceCall, LeftOut, Network, Phase, Step, Term
from stillroom.diagnose.checks.loss.context import meaning_of
from stillroom.diagnose.checks.loss.words import textbook_kl
from stillroom.schema.diagnosis import Remedy, Verdict

FROZEN = Limits(0.02, 0.1, "Layers are frozen where they were trained before.")
STALE = Limits(
    0.05, 0.2, "Standard deviations of a channel, after a dozen steps; those of a trained one stay within 0.05."
)
Calls = Sequence[tuple[Step, CallFacts]]
OPTIMIZER_LINE = "optimizer = Optimizer(student.parameters(), lr=…)"
FOREIGN = Limits(0.1, 0.5, "At a half of the squared norm, the student's clipped gradient is 30% smaller than meant.")


def _of(count: int, total: int) -> str:
    return f"{count} of {total} watched steps" if total > 1 else "the watched step"


def _place(calls: Calls) -> str | None:
    return most_common([call.place for _, call in calls])


def _stored_awake(context: LoopContext) -> CheckResult | None:
    """Stored answers that a network gave once to each training image, with dropout or batch norm as in training."""
    if not any(each.stored for _, each in context.answers):
        return None
    origins = {network for _, each in context.answers for network in each.teacher_origin} or set(context.candidates)
    modules = {id(each.module()) for each in origins if each.module() is not None}
    labels = {each.label for each in origins}
    seen = {one for step in context.steps for call in step.calls if call.role == "student" for one in call.prints}
    asked = [
        one
        for one in context.asked
        if one.phases <= context.phase.number + 1
        and len(seen & one.prints) >= 0.5 * len(seen)
        and (id(one.network.module()) in modules or one.network.label in labels)
    ]
    awake = [one for one in asked if one.live and one.rows <= 1.5 * len(one.prints)]
    if not seen or not awake or len(awake) < len(asked):
        return None
    acting = sorted(awake[0].live)
    return CheckResult(
        "problem",
        f"The teacher {awake[0].network.shown} was run with its {' and '.join(acting)} in training mode where its "
        f"stored answers were made, to {awake[0].rows} rows.",
        {"acting": acting, "rows": awake[0].rows, "teacher": awake[0].network.label},
        Remedy("Call .eval() on the teacher before its answers are stored.", code="teacher.eval()"),
        location=awake[0].place,
    )


def _stale_statistics(context: LoopContext, calls: Calls) -> CheckResult | None:
    """A moving average of the student's parameters whose running statistics stay as they were."""
    moved = [each for each in (step.averaging for step in context.steps) if each is not None and each.teacher > 0]
    asleep = [(step, call) for step, call in calls if "batch norm" in call.still and not call.live]
    if len(moved) < 6 or moved[-1].stale is None or not asleep:
        return None
    far, network = moved[-1].stale, asleep[0][1].network
    verdict = STALE.at_least(far)
    if verdict == "ok":
        return None
    return CheckResult(
        verdict,
        f"The teacher {network.shown} is a moving average of the student's parameters, and answers in evaluation mode "
        f"with batch-norm statistics that are not updated: they are {far:.1f} standard deviations from the student's.",
        {"deviations": far, "steps": len(moved), "teacher": network.label},
        Remedy(
            "Copy the buffers, too.",
            code="for mean, now in zip(teacher.buffers(), student.buffers()):\n    mean.copy_(now)",
        ),
        location=_place(asleep),
    )


@check(
    threshold="Nothing in the teacher acts as in training while it answers, or did when its answers were stored; the "
    "batch-norm statistics of a moving average are updated with its parameters.",
    limits=(STALE,),
    source="Dropout and batch statistics make the teacher's answer to one image another each time; running statistics "
    "move away from those it was trained with. Buffers are no parameters: an average of these leaves them behind.",
    problem="The teacher is in training mode",
    title="Mode of the teacher",
)
def teacher_mode(context: LoopContext) -> CheckResult:
    teachers = set(context.teachers)
    calls = [(step, call) for step, call in context.calls("teacher") if call.network in teachers]
    calls += [(step, call) for step in context.steps for call in step.calls if call.feeds_teacher]
    stored = _stored_awake(context) if not calls else None
    if stored is not None:
        return stored
    if not calls:
        raise Skip("No teacher was run in the watched steps; its answers are stored, or it is the student itself.")
    live = [(step, call) for step, call in calls if call.live]
    if not context.students and any(call.gradient and not call.frozen for _, call in live):
        raise Skip("The network that gets the gradient is held by no optimizer: it is a student that does not learn.")
    stale = _stale_statistics(context, calls)
    if stale is not None:
        return stale
    if not live:
        return CheckResult("ok", "Nothing in the teacher acted as in training.", {"calls": len(calls)})
    acting = sorted({each for _, call in live for each in call.live})
    steps = len({step.number for step, _ in live})
    network = live[0][1].network
    woken = not next(call for _, call in calls if call.network is network).live
    # In a first step or two, its own loss may not have gone backward yet, or its own optimizer not have stepped.
    begun = {call.network for step in context.steps for call in step.calls if call.held > 0}
    if all(call.held == 0 and call.network in begun for _, call in live):
        return CheckResult("ok", f"The teacher {network.shown} learns, too, by an optimizer of its own.")
    learns = any(call.held > 0 and (call.gradient or len(context.steps) < 3) for _, call in live)
    verdict: Verdict = "problem"
    why = ""
    if context.follows_student:
        verdict, why = "warning", " It is a moving average of the student, where some do so on purpose."
    elif learns:
        verdict, why = "warning", " It is trained with the student, so this follows from that."
    after = " It was in evaluation mode at first." if woken else ""
    return CheckResult(
        verdict,
        f"The teacher {network.shown} ran with its {' and '.join(acting)} in training mode in "
        f"{_of(steps, len(context.steps))}.{after}{why}",
        {"acting": acting, "steps": steps, "watched": len(context.steps), "teacher": network.label},
        Remedy(
            "Call .eval() on the teacher before it answers, after every .train() of a module that holds it.",
            code="teacher.eval()",
        ),
        location=_place(live),
    )


@check(
    threshold="The student's dropout and batch norm act in every training step, and do not where it is evaluated.",
    source="An evaluation that leaves the student in .eval() switches both off for the rest of the training; one in "
    ".train() mixes test images into the running statistics.",
    problem="The student is in the wrong mode",
    title="Mode of the student",
)
def student_mode(context: LoopContext) -> CheckResult:
    calls = [(step, call) for step, call in context.calls("student") if call.live or call.still]
    if not calls:
        raise Skip("The student has neither dropout nor batch norm.")
    evidence = {"calls": len(calls)}
    remedy = Remedy("Call student.train() at the beginning of every epoch.", code="student.train()")
    asleep = [(step, call) for step, call in calls if call.still and not call.live and not call.training]
    awake = [(step, call) for step, call in calls if call.live]
    modules = {id(call.network.module()) for _, call in calls}
    for network in {call.network for _, call in asleep}:
        own = [(step, call) for step, call in asleep if call.network is network]
        before = [step.number for step, call in awake if call.network is network]
        still = sorted({each for _, call in own for each in call.still})
        what, acts = " and ".join(still), "acts" if len(still) == 1 else "act"
        first = own[0][0].number
        if before and min(before) < first:
            return CheckResult(
                "problem",
                f"The student {network.shown} was put into evaluation mode before step {first + 1} and stayed there: "
                f"its {what} no longer {acts}.",
                {**evidence, "first_step": first + 1},
                remedy,
                location=_place(own),
            )
        if not before:
            fresh = not network.trained_before and not network.loaded
            left = _left_as_teacher(context, network, own)
            verdict: Verdict = "problem" if left or (fresh and "batch norm" in what) else "warning"
            why = " It is put there to answer as its own teacher, and train() is not called again." if left else ""
            return CheckResult(
                verdict,
                f"The student {network.shown} is trained in evaluation mode: its {what} never {acts}.{why}",
                evidence,
                Remedy("Call .train() again when it has answered as the teacher.", code=remedy.code)
                if left
                else remedy,
                location=_place(own),
            )
    split = _one_pass_asleep(asleep, awake)
    if split is not None:
        return split
    for one in context.asked:
        evaluated = id(one.network.module()) in modules and one.phases > context.phase.number
        if evaluated and one.live and not _is_heard(context, one):
            return CheckResult(
                "problem",
                f"The student {one.network.shown} is evaluated in training mode, without gradients, on "
                f"{one.rows} rows: "
                f"its {' and '.join(sorted(one.live))} {'acts' if len(one.live) == 1 else 'act'}"
                + (", and its running statistics take in those rows." if "batch norm" in one.live else "."),
                {**evidence, "rows": one.rows},
                Remedy(
                    "Call student.eval() before an evaluation, and student.train() after it.", code="student.eval()"
                ),
                location=one.place,
            )
    return CheckResult("ok", "The student was in training mode in all watched steps.", evidence)


def _is_heard(context: LoopContext, asked: InferenceCall) -> bool:
    """Whether a loss was computed from what the same line gave in a watched step: so it is no evaluation."""
    same = (call for step in context.steps for call in step.calls if call.network.serial == asked.network.serial)
    return any(call.place == asked.place and call.used for call in same)


def _left_as_teacher(context: LoopContext, network: Network, asleep: Calls) -> bool:
    """Whether a network answers without gradients first and learns next, in evaluation mode, in nearly all steps.

    One that is trained so on purpose has no ``train()`` called on it.
    """
    if network.serial not in context.phase.switched_on:
        return False
    learnt = list({step.number: (step, call) for step, call in reversed(asleep)}.values())
    after = 0
    for step, call in learnt:
        before = [each for each in step.calls[: step.calls.index(call)] if each.network is network]
        after += bool(before) and not before[-1].grad and not before[-1].training
    return len(learnt) >= 3 and after >= 0.9 * len(learnt)


def _one_pass_asleep(asleep: Calls, awake: Calls) -> CheckResult | None:
    """The student learns from two passes of a step, of which one is made in evaluation mode."""
    others = {(step.number, call.network) for step, call in awake if call.training}
    own = [(step, call) for step, call in asleep if (step.number, call.network) in others]
    steps = {step.number for step, _ in own}
    if len(steps) < 3 or len(steps) < 0.8 * len({step.number for step, _ in awake}):
        return None
    network, still = own[0][1].network, sorted({each for _, call in own for each in call.still})
    return CheckResult(
        "problem" if "batch norm" in still else "warning",
        f"In {len(steps)} watched steps the student {network.shown} learns from two passes, one in training mode and "
        f"one in evaluation mode, in which its {' and '.join(still)} {'does' if len(still) == 1 else 'do'} not act.",
        {"steps": len(steps)},
        Remedy("Make both passes in training mode.", code="student.train()"),
        location=_place(own),
    )


@check(
    threshold="No optimizer changes the teacher, unless it learns from the labels itself.",
    source="A divergence pulls both of its sides together: a teacher that may move comes down to the student.",
    problem="The teacher is trained, too",
    title="Teacher unchanged",
)
def teacher_trained(context: LoopContext) -> CheckResult:
    teachers = set(context.teachers)
    calls = [(step, call) for step, call in context.calls("teacher") if call.network in teachers]
    if not calls:
        raise Skip("No teacher was run in the watched steps; its answers are stored, or it is the student itself.")
    held = [(step, call) for step, call in calls if call.held > 0]
    moving = _moved(calls, lambda call: call.version)
    trained = [(step, call) for step, call in held if call.gradient]
    if trained:
        network = trained[0][1].network
        return CheckResult(
            "problem",
            f"The teacher {network.shown} learns: the optimizer holds {trained[0][1].held:.0%} of its parameters, and "
            "the loss's gradient reaches them.",
            {"held": trained[0][1].held, "teacher": network.label},
            Remedy(
                "Run the teacher under torch.no_grad(), and give the optimizer the student's parameters alone.",
                code=f"with torch.no_grad():\n    teacher_logits = teacher(x)\n{OPTIMIZER_LINE}",
            ),
            location=_place(trained),
        )
    # Shared in part: a teacher that is held as a whole, and asked without gradient, is the student's own module.
    shared = [(step, call) for step, call in calls if 0 < call.shared < 1]
    if shared and _moved(shared, lambda call: call.shared_version):
        network, share = shared[0][1].network, shared[0][1].shared
        return CheckResult(
            "problem",
            f"The student's optimizer changes the teacher {network.label}: they share {share:.0%} of its parameters.",
            {"shared": share, "teacher": network.label},
            Remedy(
                "Copy the layers that the student takes over from the teacher.",
                code="student.layer = copy.deepcopy(teacher.layer)",
            ),
            location=_place(shared),
        )
    if held:
        return CheckResult(
            "warning",
            f"The optimizer holds the teacher {held[0][1].network.shown}; no gradient reaches it yet.",
            {"held": held[0][1].held},
            Remedy("Give the optimizer the student's parameters alone.", code=OPTIMIZER_LINE),
            location=_place(held),
        )
    if moving and any(call.live for _, call in calls):
        return CheckResult(
            "warning",
            "The teacher's running statistics move: this follows from its training mode.",
            location=_place(calls),
        )
    if moving:
        return CheckResult("ok", "The teacher follows the student by no optimizer, as a moving average does.")
    return CheckResult("ok", "The teacher's parameters and buffers stayed as they were.")


def _moved(calls: Calls, version: Callable[[CallFacts], int]) -> bool:
    versions: dict[Network, set[int]] = {}
    for _, call in calls:
        versions.setdefault(call.network, set()).add(version(call))
    return any(len(each) > 1 for each in versions.values())


@check(
    threshold="The loss's gradient ends at the teacher's output; clipping counts the student's gradients alone.",
    limits=(FOREIGN,),
    source="A teacher that records gradients costs memory and time, and learns where an optimizer holds it.",
    problem="The gradient flows into the teacher",
    title="Gradient of the teacher",
)
def teacher_gradient(context: LoopContext) -> CheckResult:
    teachers = set(context.teachers)
    pulls = [any(network not in teachers for network, *_ in step.pulled) for step in context.steps]
    pulled = [each for step in context.steps for each in step.pulled if each[0] not in teachers]
    # Before the first of them the networks may have been warmed up, each by its labels.
    since = pulls[pulls.index(True) :] if True in pulls else []
    steps = sum(since)
    if len(since) >= 2 and steps > 0.5 * len(since):
        network, _, of_exits = pulled[0]
        what = f"{network.label} learns, and is the target of the other network's divergence"
        if of_exits:
            what = f"One output of {network.label} is the target of the divergence of another"
        return CheckResult(
            "problem",
            f"{what}, whose gradient flows into it, too: it is pulled towards its student in {_of(steps, len(since))}.",
            {"steps": steps, "teacher": network.label},
            Remedy("Detach the target.", code="teacher_logits = teacher_logits.detach()"),
            location=most_common([place for _, place, _ in pulled]),
        )
    calls = [(step, call) for step, call in context.calls("teacher") if call.network in teachers]
    if not calls:
        raise Skip("No teacher was run in the watched steps.")
    flowing = [(step, call) for step, call in calls if call.gradient and not call.frozen]
    if not flowing:
        return CheckResult("ok", "No gradient reaches the teacher.")
    clipped = [step for step in context.steps if step.clipped_for in teachers]
    share = median([step.clipped_share for step in clipped[len(clipped) // 2 :]] or [0.0])
    if FOREIGN.at_least(share) == "problem":
        return CheckResult(
            "problem",
            f"The gradient flows into the teacher {flowing[0][1].network.shown}, and clipping counts it: {share:.0%} "
            "of the squared norm that is clipped is the teacher's, which no optimizer uses.",
            {"steps": len(flowing), "share": share},
            Remedy(
                "Run the teacher under torch.no_grad(), and clip the student's parameters alone.",
                code="torch.nn.utils.clip_grad_norm_(student.parameters(), max_norm)",
            ),
            location=next((where for step in clipped for name, where in step.events if name == "clip"), None),
        )
    return CheckResult(
        "warning",
        f"The loss's gradient flows into the teacher {flowing[0][1].network.shown}"
        + ("; this follows from teacher_trained." if flowing[0][1].held > 0 else ", which no optimizer holds."),
        {"steps": len(flowing)},
        Remedy("Run the teacher under torch.no_grad().", code="with torch.no_grad():\n    teacher_logits = teacher(x)"),
        location=_place(flowing),
    )


@check(
    threshold="Every parameter with a gradient, on the student's side, is in an optimizer that steps.",
    source="A projector that no optimizer holds stays as it was drawn: the student is pulled to a random map of "
    "itself.",
    problem="Parameters that nobody trains",
    title="Parameters in the optimizer",
)
def parameters_left_out(context: LoopContext) -> CheckResult:
    sides = {(call.network, call.role) for step in context.steps for call in step.calls}
    found = [
        each
        for step in context.steps
        for each in step.left_out
        if (each.network, "student") in sides and not each.frozen
    ]
    described = sum(step.in_full for step in context.steps)
    frozen = [each for step in context.steps for each in step.left_out if each.frozen and each.fresh]
    # What learns in other steps takes turns.
    frozen = [each for each in frozen if not _thaws(context, each)]
    if not found and context.whole_script and len(frozen) > 0.5 * described:
        worst = max(frozen, key=lambda each: each.share)
        if FROZEN.at_least(worst.share) != "ok":
            return CheckResult(
                FROZEN.at_least(worst.share),
                f"{worst.share:.0%} of the parameters of {worst.network.label} ({', '.join(worst.names[:3])} …) "
                "require no gradient, though the optimizer holds them, and were neither trained nor loaded: they stay "
                "random.",
                {"module": worst.network.label, "parameters": list(worst.names[:50]), "share": worst.share},
                Remedy("Freeze the teacher's parameters, not the student's."),
                location=worst.place,
            )
    if not found:
        return CheckResult("ok", "Every parameter with a gradient is in an optimizer that steps.")
    seen = Counter(each.network for each in found)
    network, steps = seen.most_common(1)[0]
    worst = next(each for each in found if each.network is network)
    names = ", ".join(worst.names[:3]) + (" …" if len(worst.names) > 3 else "")
    # From the first of them on: what hooks hand over may be used later than from the first step.
    marks = [
        any(each.network is network for each in step.left_out)
        for step in context.steps
        if step.in_full or step.left_out
    ]
    since = len(marks) - marks.index(True)
    # Once among many steps it is nothing; but a later stage of a training may have been described once.
    once = steps == 1 and described > 2 and not _of_last_stage(context, network)
    rarely = steps < since / 2 or once
    verdict: Verdict = "problem" if worst.fresh and not rarely else "warning"
    how = (
        f"All parameters of {network.label} get"
        if worst.share == 1
        else f"{worst.share:.0%} of the parameters of {network.label} ({names}) get"
    )
    return CheckResult(
        verdict,
        f"{how} a gradient in {_of(steps, described)}, and no optimizer that steps holds them.",
        {"module": network.label, "parameters": list(worst.names[:50]), "share": worst.share, "fresh": worst.fresh},
        Remedy(
            "Give them to the optimizer, or set requires_grad_(False) where they are to stay.",
            code="optimizer = Optimizer([*student.parameters(), *projector.parameters()], lr=…)",
        ),
        location=worst.place,
    )


def _thaws(context: LoopContext, frozen: LeftOut) -> bool:
    """Whether some parameters that require no gradient in one watched step do in another."""
    names = set(frozen.names)
    for step in context.steps:
        if step.in_full and any(call.network is frozen.network and call.learns for call in step.calls):
            still = [set(each.names) for each in step.left_out if each.network is frozen.network and each.frozen]
            if not any(names <= each for each in still):
                return True
    return False


def _of_last_stage(context: LoopContext, network: Network) -> bool:
    """Whether the last watched steps go backward on other lines than those before, and a network is left out there."""
    lines = [{each.place for each in step.backwards} for step in context.steps]
    first = lines.index(lines[-1])
    if first == 0 or len(lines) - first < 2 or any(each != lines[-1] for each in lines[first:]):
        return False
    described = [step for step in context.steps[first:] if step.in_full]
    return bool(described) and all(any(each.network is network for each in step.left_out) for step in described)


def _overwritten_teacher(context: LoopContext) -> CheckResult | None:
    """A teacher that is asked on the line of one that is heard, in every step, and not heard itself."""
    lines = {call.place for _, call in context.calls("teacher")}
    silent: Counter[Network] = Counter()
    places: dict[Network, str | None] = {}
    for step in context.steps:
        used = {call.network for call in step.calls if call.used}
        for network, call in {call.network: call for call in step.calls if not call.used and call.held == 0}.items():
            if network not in used and call.place in lines and not call.grad and not step.escaped:
                silent[network] += 1
                places[network] = call.place
    often = [network for network, count in silent.items() if count >= 0.9 * len(context.steps)]
    if not often:
        return None
    return CheckResult(
        "problem",
        f"{len(often)} of the networks that are run at {places[often[0]]} reach no loss, in {len(context.steps)} "
        "watched steps: what another gives takes the place of their answer.",
        {"unheard": [each.label for each in often]},
        Remedy("Average the teachers' answers.", code="teacher_logits = torch.stack([t(x) for t in teachers]).mean(0)"),
        location=places[often[0]],
    )


def _own_answer(context: LoopContext) -> CheckResult | None:
    """The teacher's answer is the student's own: both names are one network, or its copy is renewed in every step."""
    pairs = [(each, each.teacher) for _, each in context.answers if each.teacher is not None]
    alike = [
        each for each, teacher in pairs if each.student.shape == teacher.shape and torch.allclose(each.student, teacher)
    ]
    if len(pairs) < 5 or len(alike) < len(pairs) or all(step.update == 0 for step in context.steps):
        return None
    return CheckResult(
        "problem",
        f"The teacher's answer is the student's own in all {len(pairs)} watched steps: there is nothing to learn "
        "from it.",
        {"steps": len(pairs)},
        Remedy("Keep a teacher of its own.", code="teacher = copy.deepcopy(student).eval().requires_grad_(False)"),
        location=most_common([each.place for each in alike]),
    )


def _used_up(steps: Sequence[Step]) -> CheckResult | None:
    """A term that reads the teacher's answer at first, and in most steps a constant in its place.

    An iterator over teachers or answers, as of ``map`` or ``zip``, gives them once: sums over it are 0 from then on.
    """
    read: dict[tuple[str | None, str], list[bool]] = {}
    for step in steps:
        terms = [term for each in step.backwards for term in each.terms if term.place and not term.labels]
        for key in {(term.place, term.function) for term in terms}:
            of_teacher = [term.teacher for term in terms if (term.place, term.function) == key]
            read.setdefault(key, []).append(any(of_teacher))
    for (place, function), each in read.items():
        heard = sum(each)
        # A teacher that comes later, or leaves, changes the terms of the loss: this one is there all along.
        if not all(each[:heard]) or not 0 < heard < 0.5 * len(each) or len(each) < 0.9 * len(steps):
            continue
        # One of two that teach each other is heard as before, when it has begun to learn.
        taught = {call.network.serial for step in steps[:heard] for call in step.calls if call.role == "teacher"}
        later = {call.network.serial for step in steps[heard:] for call in step.calls if call.reaches_loss}
        if taught and not taught & later:
            return CheckResult(
                "problem",
                f"{function} reads the teacher's answer in the first {_of(heard, len(each))}, and a constant in its "
                "place in all later ones.",
                {"steps": len(each), "heard": heard},
                Remedy(
                    "Look at what the answers come from: an iterator, as of map, zip or a generator, is used up "
                    "after one pass.",
                    code="teachers = list(teachers)",
                ),
                location=place,
            )
    return None


def _one_for_all(context: LoopContext) -> CheckResult | None:
    """One line asks a teacher several times about the same images, and others that know something not at all.

    A closure that is made in a loop sees the variable of the loop as it is when it is called: the last of them.
    """
    found: dict[Network, list[list[CallFacts]]] = {}
    for step in context.steps:
        calls: dict[tuple[Network, str | None], list[CallFacts]] = {}
        for call in step.calls:
            if call.role == "teacher" and call.reaches_loss and not call.live:
                calls.setdefault((call.network, call.place), []).append(call)
        for (network, place), each in calls.items():
            inputs = [call.inputs for call in each if call.inputs is not None]
            alike = all(one.shape == inputs[0].shape and torch.equal(one, inputs[0]) for one in inputs[1:])
            if place is not None and len(inputs) == len(each) > 1 and alike:
                found.setdefault(network, []).append(each)
    if not found:
        return None
    teacher, calls_of_steps = max(found.items(), key=lambda each: len(each[1]))
    times = min(map(len, calls_of_steps))
    heard = {call.network.serial for step in context.steps for call in step.calls if call.reaches_loss}
    classes = {answers.student.shape[1] for _, answers in context.answers}
    known = [
        *(one.network for one in context.asked if one.classes in classes),
        *(network for network, _ in context.trained),
    ]
    idle = [each for serial, each in {each.serial: each for each in known}.items() if serial not in heard]
    if len(calls_of_steps) < 0.8 * len(context.steps) or len(idle) < times - 1:
        return None
    # Two terms may each ask for the same answer, and the other network be a student of before.
    return CheckResult(
        "problem" if times > 2 else "warning",
        f"One line asks the teacher {teacher.shown} {times} times about the same images in "
        f"{_of(len(calls_of_steps), len(context.steps))}, "
        f"and {len(idle)} other networks that were trained or asked before not at all.",
        {"teacher": teacher.label, "times": times, "idle": [each.label for each in idle]},
        Remedy(
            "Bind each teacher when its function is made: a closure in a loop sees the last one.",
            code="lambda x, teacher=teacher: teacher(x)",
        ),
        location=calls_of_steps[0][0].place,
    )


def _who(context: LoopContext) -> str:
    """Whose answer teaches whom, by their names in the script."""
    learns = " and ".join(dict.fromkeys(each.shown for each in context.students[:3]))
    teaches = " and ".join(dict.fromkeys(each.shown for each in context.teachers[:3]))
    answer = f"answer of the teacher {teaches}" if teaches else "teacher's answer"
    return f"The student {learns} learns: the {answer}" if learns else f"The {answer}"


def _cut_to_nothing(phase: Phase, whose: str, cut: str, place: str | None) -> CheckResult | None:
    """A term whose weight is 0, as an expression is cut to a whole number or its name is not known; else None."""
    if NO_KEY in cut:
        return CheckResult(
            "problem",
            f"The {whose} term has weight 0 in all watched steps: {cut}.",
            {"steps": phase.made, "expression": cut},
            Remedy("Give the term and its weight one name, and look weights up without a default."),
            location=place,
        )
    if not cut or not phase.is_seen_to_its_end:
        return None
    return CheckResult(
        "problem",
        f"The {whose} term has weight 0 from the first of {phase.made} steps to the last: `{cut}` is a whole number.",
        {"steps": phase.made, "expression": cut},
        Remedy("Divide by `/`, and do not round.", code=cut.replace("//", "/") if "//" in cut else None),
        location=place,
    )


def _without_weight(context: LoopContext, terms: Sequence[Term], heard: int) -> CheckResult:
    """The teacher's term has weight 0, by choice or as a whole number is made of its weight."""
    cut, place = context.phase.truncated_weight, most_common([term.place for term in terms])
    whole = _cut_to_nothing(context.phase, "teacher's", cut, place)
    if whole is not None:
        return whole
    why = f": `{cut}` is a whole number" if cut else ""
    return CheckResult(
        "warning",
        f"The teacher's term has weight 0 in all {heard} watched steps{why}.",
        {"steps": heard},
        Remedy("Give the teacher's term a weight above 0; where it begins later, watch more steps (`--steps`)."),
        location=place,
    )


@check(
    threshold="The teacher's answer reaches a loss that goes backward, with a weight that is not 0; it is compared "
    "with the student's, and is another one.",
    source="A key that is dropped on the way, a term that is not added, or the student's own logits in the teacher's "
    "place leave a student trained on labels alone, without a message.",
    problem="The teacher has no effect",
    title="Effect of the teacher",
)
def teacher_unused(context: LoopContext) -> CheckResult:
    steps = [step for step in context.steps if step.backwards]
    if not steps:
        raise Skip("No loss was seen.")
    heard = [step for step in steps if any(backward.reads_teacher for backward in step.backwards)]
    if heard:
        overwritten = _overwritten_teacher(context) if context.kept_target is None else None
        if overwritten is not None:
            return overwritten
        own = _own_answer(context) or _one_for_all(context)
        if own is not None:
            return own
        terms = [term for step in heard for backward in step.backwards for term in backward.terms if term.teacher]
        every = [term for step in heard for backward in step.backwards for term in backward.terms]
        connected = any(term.connected and term.weight for term in every)
        if terms and all(term.weight == 0 for term in terms) and not connected:
            return _without_weight(context, terms, len(heard))
        used_up = _used_up(steps)
        if used_up is not None:
            return used_up
        learns = any(term.student for step in heard for backward in step.backwards for term in backward.terms)
        if terms and learns and not any(term.reads_student for term in terms):
            return CheckResult(
                "problem",
                f"The teacher's term is a constant in {_of(len(heard), len(steps))}: it is computed from the teacher's "
                "answer alone, and not from the student's.",
                {"steps": len(heard)},
                Remedy("Compare the student's logits with the teacher's.", code=textbook_kl()),
                location=most_common([term.place for term in terms]),
            )
        if not context.teachers and len(context.students) > 1 and not any(each.stored for _, each in context.answers):
            peers = ", ".join(each.shown for each in context.students[:4])
            return CheckResult("ok", f"{len(context.students)} networks learn, and no other teaches them: {peers}.")
        return CheckResult("ok", f"{_who(context)} reaches the loss in {_of(len(heard), len(steps))}.")
    if not any(term.student for step in steps for backward in step.backwards for term in backward.terms):
        raise Skip("No loss gives a gradient to a network that an optimizer holds: see student_no_gradient.")
    silent = context.silent_teachers
    if silent:
        network, calls = silent
        lost = [each for step in steps for each in step.lost_terms if each.teacher]
        also = f" {lost[0].function} at {lost[0].place} is computed from it and reaches no backward()." if lost else ""
        return CheckResult(
            "problem",
            f"The teacher {network.shown} is run in {_of(len(calls), len(steps))}, and nothing that it answers reaches "
            f"the loss.{also}",
            {"teacher": network.label, "steps": len(calls), "lost_terms": len(lost)},
            Remedy(
                "Compute the soft targets from the teacher's logits, and add that term to the loss.",
                code=f"loss = loss + {textbook_kl()}",
            ),
            location=lost[0].place if lost else _place(calls),
        )
    stored = context.silent_answers
    if stored is not None:
        return CheckResult(
            "problem",
            f"The answers of {stored.network.label} to {stored.rows} rows, the student's training images among them, "
            "are kept, and no loss reads them.",
            {"teacher": stored.network.label, "rows": stored.rows},
            Remedy("Hand the stored answers on to the loss: look at what the collate function and the batch keep."),
            location=stored.place,
        )
    raise Skip(
        "There is no teacher: no loss is computed from the output of a network that the optimizer does not train."
    )


@check(
    threshold="A loss of the labels that is weighted or added to something reaches backward(), and reads the labels.",
    source="`loss = term` in place of `loss += term`, or a sum that leaves a term out, trains on without a message.",
    problem="The labels' term is lost",
    title="The labels' term",
)
def labels_unused(context: LoopContext) -> CheckResult:
    steps = [step for step in context.steps if step.backwards]
    if not steps:
        raise Skip("No loss was seen.")
    read = [(step, term) for step in steps for each in step.backwards for term in each.terms if term.labels]
    of_labels = [(step, term) for step, term in read if term.chosen is None]
    chosen = [(step, term) for step, term in read if term.chosen is not None and term.student]
    if len({id(step) for step, _ in chosen}) >= 0.5 * len(steps) and not any(term.student for _, term in of_labels):
        replaced = _labels_chosen(chosen, steps)
        if replaced is not None:
            return replaced
    cut, place = context.phase.truncated_label_weight, most_common([term.place for _, term in of_labels])
    whole = _cut_to_nothing(context.phase, "labels'", cut, place)
    if whole is not None:
        return whole
    # A term of the teacher's answers and the labels is a constant.
    own = [(step, term) for step, term in of_labels if term.reads_student]
    if of_labels:
        if own and not any(term.student for _, term in own):
            return CheckResult(
                "problem",
                f"The labels' term gives the student no gradient in {_of(len(of_labels), len(steps))}: its logits are "
                "detached.",
                {"steps": len(of_labels)},
                Remedy("Give the labels' term the student's logits as they are."),
                location=most_common([term.place for _, term in of_labels]),
            )
        constant = _labels_of_teacher(context) if not own else None
        return constant or CheckResult("ok", "A term of the labels reaches backward().")
    found = [each for step in steps for each in step.lost_terms if not each.teacher]
    described = [step for step in steps if step.in_full]
    often = sum(any(not each.teacher for each in step.lost_terms) for step in described) >= 0.8 * len(described)
    weighted = [each for each in found if each.weighted]
    unread = [each for each in found if not each.read]
    if not often or not (weighted or unread):
        return CheckResult("ok", "No loss of the labels was computed and left out.")
    worst = (weighted or unread)[0]
    return CheckResult(
        "problem" if weighted else "warning",
        f"{worst.function} at {worst.place} is computed from the student and the labels"
        f"{', weighted,' if weighted else ''} and reaches no backward().",
        {"steps": len(steps), "weighted": bool(weighted)},
        Remedy("Add it to the loss.", code="loss = loss + weight * term"),
        location=worst.place,
    )


def _labels_of_teacher(context: LoopContext) -> CheckResult | None:
    """The labels' share of the loss, one minus the teacher's, multiplies a constant: the teacher's own loss."""
    found = []
    for _, backward in context.backwards:
        shares = {factor for term in backward.terms if term.teacher and term.student for factor in term.factors}
        found += [
            term
            for term in backward.terms
            if term.labels
            and term.teacher
            and not term.reads_student
            and any(abs(1 - each - other) < 1e-6 for each in term.factors for other in shares)
        ]
    if len(found) < 0.5 * len(context.backwards) or not found:
        return None
    return CheckResult(
        "problem",
        f"{found[0].function} of the labels is computed from the teacher's answer: it is a constant, and no loss of "
        "the student's reads the labels.",
        {"losses": len(found)},
        Remedy("Give it the student's logits.", code="F.cross_entropy(student_logits, labels)"),
        location=most_common([term.place for term in found]),
    )


def _labels_chosen(chosen: Sequence[tuple[Step, Term]], steps: Sequence[Step]) -> CheckResult | None:
    """Where all labels that the losses read are a network's own choice, what the script says that they are."""
    overwritten = [term for _, term in chosen if term.chosen]
    soft = any(
        term.teacher and term.student and term.chosen is None
        for step in steps
        for each in step.backwards
        for term in each.terms
    )
    whose = "teacher" if chosen[0][1].teacher else "student"
    if overwritten:
        name, function = overwritten[0].chosen, overwritten[0].function
        return CheckResult(
            "problem" if soft or whose == "student" else "warning",
            f"{function} reads `{name}`, which the {whose}'s own choice has overwritten: no loss reads the labels in "
            f"{_of(len({id(step) for step, _ in chosen}), len(steps))}.",
            {"variable": name, "steps": len(chosen)},
            Remedy(f"Give the {whose}'s choice a variable of its own, and the labels' term the labels."),
            location=overwritten[0].place,
        )
    for _, term in chosen:
        for name, complement in term.weight_names:
            said, words = meaning_of(name, term.words)
            if said == ("teacher" if complement else "labels"):
                shown = f"1 − {name}" if complement else name
                return CheckResult(
                    "problem",
                    f"{shown} is the labels' share, as {words!r} says, and multiplies a term that reads the {whose}'s "
                    "own choice: no loss reads the labels.",
                    {"option": name},
                    Remedy("Give the labels' term the labels."),
                    location=term.place,
                )
    return None


@check(
    threshold="A term that compares the student with the teacher gives the student a gradient.",
    source="detach(), argmax, .data or torch.no_grad() on the student's side leave a number to print and nothing to "
    "learn from.",
    problem="A term gives the student no gradient",
    title="Gradient of the student",
)
def student_no_gradient(context: LoopContext) -> CheckResult:
    dead: list[str | None] = []
    cut: list[Term] = []
    count = described = 0
    for _, backward in context.backwards:
        of_teacher = [term for term in backward.terms if term.teacher and term.reads_student]
        if of_teacher:
            count += 1
            described += backward.in_full
            if not any(term.student for term in of_teacher):
                dead.append(of_teacher[0].place)
            cut += [term for term in of_teacher if term.cut_off is not None][:1]
    silent = [backward for _, backward in context.backwards if not any(term.student for term in backward.terms)]
    if dead and len(dead) >= 0.5 * max(1, count):
        return CheckResult(
            "problem",
            f"The term between teacher and student gives the student no gradient in {_of(len(dead), count)}: "
            f"its side of "
            "it is detached.",
            {"steps": len(dead)},
            Remedy(
                "Detach the teacher's side alone; take the student's logits as they are.",
                code="teacher_logits = teacher_logits.detach()  # and no .detach() of the student's",
            ),
            location=most_common(dead),
        )
    if cut and len(cut) >= 0.5 * described and cut[0].cut_off is not None:
        projector, student = cut[0].cut_off
        return CheckResult(
            "problem",
            f"From the term between teacher and student only {projector.label} learns, in {_of(len(cut), described)}: "
            f"what it is given of {student.label} is detached.",
            {"steps": len(cut), "learns": projector.label, "cut_off": student.label},
            Remedy(
                "Detach the teacher's features alone: look at the hook, or at the line, that the student's come from."
            ),
            location=most_common([term.place for term in cut]),
        )
    if (numbered := _turned_into_number(context)) is not None:
        return numbered
    if silent and len(silent) == len(context.backwards):
        return CheckResult(
            "problem",
            "No loss gives a gradient to a network that the optimizer holds.",
            {"steps": len(silent)},
            Remedy("Make the optimizer from the parameters of the module that is trained.", code=OPTIMIZER_LINE),
            location=silent[0].place,
        )
    if not count:
        raise Skip("No term compares student and teacher.")
    return CheckResult("ok", "The term between teacher and student gives the student a gradient.")


# Values looked at in a step of which sums are tried.
_MOST_READ = 12


def _turned_into_number(context: LoopContext) -> CheckResult | None:
    """A term that ``.item()`` made a number of before it was added to the loss.

    The number that is added is the same multiple of a value with a gradient that was looked at, or of the sum of some
    that follow each other, in all losses, while both vary.
    """
    seen = [each for _, each in context.backwards if each.added and each.read]
    count = min((len(each.read) for each in seen), default=0)
    if len(seen) < 3 or 2 * len(seen) < len(context.described) or any(len(each.read) != count for each in seen):
        return None
    for first, last in itertools.combinations(range(min(count, _MOST_READ) + 1), 2):
        values = [sum(value for value, _ in each.read[first:last]) for each in seen]
        if min(map(abs, values)) < 1e-6 or max(values) - min(values) < 1e-3 * max(map(abs, values)):
            continue
        ratios = [each.added / value for each, value in zip(seen, values, strict=True)]
        if max(ratios) - min(ratios) < 1e-4 * max(map(abs, ratios)):
            return CheckResult(
                "problem",
                f"A term is made a number before it is added to the loss, in {_of(len(seen), len(seen))}: it changes "
                "the value and gives no gradient.",
                {"losses": len(seen), "weight": ratios[0]},
                Remedy(
                    "Add the tensor itself; use .item() for what is printed alone.",
                    code="loss = loss + weight * torch.stack(terms).mean()  # and no .item()",
                ),
                location=seen[0].read[first][1],
            )
    return None


def missing_backward(idle: Sequence[str | None]) -> CheckResult | None:
    """Optimizers that make steps without a gradient, as ``loss.backward`` is named and not called."""
    if len(idle) < 5:
        return None
    return CheckResult(
        "problem",
        f"optimizer.step() was called {len(idle)} times without a backward() before it: its parameters have no "
        "gradient, and stay as they are.",
        {"steps": len(idle)},
        Remedy("Call backward() before every step.", code="loss.backward()"),
        location=most_common(idle),
    )

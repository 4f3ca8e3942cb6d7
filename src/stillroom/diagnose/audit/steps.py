"""What was seen between two steps becomes a step: who learns in it and who teaches, what its losses are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stillroom.diagnose.audit import facts
from stillroom.diagnose.audit.facts import PICKS
from stillroom.diagnose.audit.networks import Networks, is_in
from stillroom.diagnose.audit.padding import padded_features
from stillroom.diagnose.audit.tape import Call, Source, Tape
from stillroom.diagnose.audit.updates import Follower
from stillroom.diagnose.audit.window import Window
from stillroom.diagnose.checks.loop.record import BackwardFacts, CallFacts, Network, Phase, Step

# Steps of a phase whose inputs are recognised again; inputs of so few numbers are kept in every step.
PRINTED, SMALL = 2, 2**16
# Of a phase's watched steps the first ones, and each tenth after them, are described in full.
FULL, EACH = 4, 10
# Of so many forms of losses the description is kept: of a later loss of the same form only values are read.
FORMS = 64
# Where another step has a loss of a form that was not met, the next one is described in full, so often in a phase.
CHANGES = 2


def in_full(done: int) -> bool:
    """Whether a watched step is described in full, by how many of its phase were watched before."""
    return done < FULL or done % EACH == 0


class StepReader:
    """Reads steps from the tape.

    Args:
        tape: what was computed.
        networks: who the networks are.
    """

    def __init__(self, tape: Tape, networks: Networks) -> None:
        self._tape, self._networks = tape, networks
        self.teachers: set[int] = set()  # modules that were heard as a target, by identity
        self.reached: set[int] = set()  # nodes that went backward
        self._described: dict[Any, facts.Described] = {}  # losses by their form
        self._forms: set[Any] = set()  # all forms that were met
        self._after_changes: set[int] = set()  # steps that are described in full as the one before changed something

    def begin_phase(self) -> None:
        """Forget the teachers and the losses of the training before."""
        self.teachers = set()
        self._described.clear()
        self._forms.clear()
        self._after_changes.clear()

    def is_full(self, done: int) -> bool:
        """Whether a step of the phase is described in full, by how many were watched before."""
        return in_full(done) or done in self._after_changes

    def read(self, step: Step, window: Window, phases: Sequence[Phase], keep_tape: bool) -> None:
        """Fill a step with what a window holds.

        Args:
            step: what is filled.
            window: what was seen.
            phases: the trainings so far; the step belongs to the last one.
            keep_tape: whether a later window may go backward from what this one computed.
        """
        tape, networks = self._tape, self._networks
        learners = 0
        for index, source in enumerate(tape.sources):
            # What is computed from the student's output, by a projector that nobody trains, is the student's side, too.
            derived = source.call is not None and source.tensor.requires_grad and source.call.sources & learners
            if derived or networks.learns(source):
                learners |= 1 << index
        learners, teachers = self._roles(window, learners)
        reached: set[int] = set()
        reads = gradients = 0
        for raw, _, _ in window.backwards:
            reached |= set(raw.nodes)
            reads |= raw.sources
            gradients |= raw.gradient
        made = self._read_calls(step, window, phases, reached, reads, gradients, learners, teachers)
        full = self.is_full(len(phases[-1].steps))
        met = len(self._forms)
        for backward in window.backwards:
            step.backwards.append(self._read_backward(window, *backward, learners, teachers, made, full))
        if not full and len(self._forms) > met and len(self._after_changes) < CHANGES:
            self._after_changes.add(len(phases[-1].steps) + 1)
        self.reached |= reached
        if full and not keep_tape:
            # With the tape kept, what did not go backward yet may do so in the next window.
            step.lost_terms = facts.lost_terms(tape, self.reached, learners, teachers)
            for raw, _, _ in window.backwards:
                step.padded += padded_features(tape, raw, learners, teachers, self.reached, window.tail)
        if window.clipped is not None:
            step.clipped_share, foreign = window.clipped
            owners = (c.module for c in tape.calls if foreign & {id(p) for p in c.module.parameters()})
            step.clipped_for = next((networks.of(each) for each in owners), None)
        step.kept = self._kept(reads & teachers, learners)
        step.in_full = full
        step.escaped = bool(tape.escaped)
        step.gradients = frozenset(window.gradients)
        step.clips_others = bool(window.clips) and not any(window.clips)
        step.pulled = self._pulled_targets(window)
        step.averaging = window.averaging
        for call, graded in window.graded:
            if not any(each.gradient for each in step.calls if each.network is networks.of(call.module)):
                continue
            for left in (networks.left_out(call, graded, tape.networks(call.sources)), networks.frozen(call)):
                if left is not None:
                    step.left_out.append(left)

    def _read_calls(
        self,
        step: Step,
        window: Window,
        phases: Sequence[Phase],
        reached: set[int],
        reads: int,
        gradients: int,
        learners: int,
        teachers: int,
    ) -> dict[int, CallFacts]:
        """The calls of networks, by their identity."""
        tape = self._tape
        # A loss may have been computed from calls of the window before: two optimizers step in turns after one pass.
        own_calls = set(map(id, tape.calls))
        earlier = [
            call for i in sorted(reached) if (call := tape.nodes[i].call) is not None and id(call) not in own_calls
        ]
        calls = [*earlier, *tape.calls]
        owns: dict[int, int] = {}  # by the identity of a call, the bits of its outputs and inner activations
        for i, source in enumerate(tape.sources):
            if source.call is not None:
                owns[id(source.call)] = owns.get(id(source.call), 0) | 1 << i
        used = reads
        for call in reversed(calls):
            if owns.get(id(call), 0) & used:
                used |= call.sources
        # What feeds the teacher alone is a part of it: a backbone that is called apart from its head.
        by_teacher, by_student = reads & teachers, reads & learners
        for call in reversed(calls):
            own = owns.get(id(call), 0)
            by_teacher |= call.sources if own & by_teacher else 0
            by_student |= call.sources if own & by_student else 0
        made: dict[int, CallFacts] = {}
        for call in calls:
            own = owns.get(id(call), 0)
            seen = made[id(call)] = self._read_call(call, window, phases[-1], bool(own & reads), bool(own & gradients))
            seen.used = bool(own & used)
            alone = bool(own & by_teacher) and not own & (by_student | reads)
            seen.feeds_teacher = alone and not seen.held and any(True for _ in call.module.parameters())
            # A network that answers twice, once as a target, is a student all the same.
            seen.role = "student" if own & learners else "teacher" if own & teachers else "none"
            step.calls.append(seen)
            if own & reads and not (seen.held and call.grad):
                self.teachers.add(id(call.module))
            if (not call.grad or not call.training) and not own & used:
                self._networks.note_asked(call.module, call.inputs, call.outputs, phases, call.place, call)
        return made

    def _read_call(self, call: Call, window: Window, phase: Phase, reaches_loss: bool, gradient: bool) -> CallFacts:
        networks, module = self._networks, call.module
        parameters = networks.parameters(module)
        held = [p for p in parameters if id(p) in networks.learners]
        kept = self.is_full(len(phase.steps)) or sum(each.numel() for each in call.inputs[:1]) <= SMALL
        printed = gradient and len(phase.steps) < PRINTED and call.inputs and call.inputs[0].dim() > 1
        return CallFacts(
            network=networks.of(module),
            place=str(call.place) if call.place else None,
            training=call.training,
            grad=call.grad,
            live=frozenset(call.live),
            still=frozenset(call.still),
            held=networks.held(module),
            frozen=not any(p.requires_grad for p in parameters),
            from_networks=tuple(networks.of(each.module) for each in self._tape.networks(call.sources)),
            reaches_loss=reaches_loss,
            gradient=gradient,
            inputs=facts.sample_rows(call.inputs, window.samples) if kept else None,
            outputs=tuple(tuple(each.shape) for each in call.outputs),
            version=sum(t._version for t in (*parameters, *networks.buffers(module))),
            shared=sum(p.numel() for p in held) / max(1, sum(p.numel() for p in parameters)),
            shared_version=sum(p._version for p in held),
            prints=frozenset(facts.row_prints(call.inputs[0])) if printed else frozenset(),
        )

    # Roles.

    def _roles(self, window: Window, learners: int) -> tuple[int, int]:
        """Which sources are the student's, and which are a teacher's or stored answers."""
        teachers = 0
        for index, source in enumerate(self._tape.sources):
            bit = 1 << index
            if source.kind == "network" and not learners & bit:
                call = source.call
                assert call is not None
                if not call.sources & learners or not call.grad or not source.tensor.requires_grad:
                    teachers |= bit
            elif source.kind == "inside" and source.call is not None and not source.tensor.requires_grad:
                # What a hook detached is no target, as an activation that has no gradient by itself may be.
                cut = source.derived and self._networks.is_cut(source)
                teachers |= bit if not cut or self._are_answers(source) else 0
            elif source.kind == "constant" and self._are_answers(source):
                teachers |= bit
        both = self._taught_teacher(window, learners, teachers)
        return learners & ~both, teachers | both

    def _taught_teacher(self, window: Window, learners: int, teachers: int) -> int:
        """Sources with a gradient that are a teacher all the same: targets of a divergence, in no labels' term."""
        tape, networks = self._tape, self._networks
        nodes = [tape.nodes[i] for raw, _, _ in window.backwards for i in raw.nodes]
        groups: dict[int, int] = {}
        for index, source in enumerate(tape.sources):
            if learners >> index & 1 and source.call is not None:
                groups[id(source.call.module)] = groups.get(id(source.call.module), 0) | 1 << index
        if len(groups) < 2 or teachers:
            return 0
        targets = labelled = 0
        for node in nodes:
            if node.call is not None:
                continue
            if node.name == "kl_div":
                target = node.argument(1, "target")
                targets |= tape.bits(target)[1]
                labelled |= tape.bits(node.inputs[0])[0]
            elif node.name in ("cross_entropy", "nll_loss"):
                labelled |= tape.bits(node.inputs[0])[0]
        found = 0
        for module, mask in groups.items():
            known = next(s.call.module for s in tape.sources if s.call is not None and id(s.call.module) == module)
            trained = any(is_in(networks.trained, p) for p in known.parameters())
            if not mask & labelled and (mask & targets or (trained and labelled)):
                found |= mask
        return found

    def _pulled_targets(self, window: Window) -> list[tuple[Network, str | None, bool]]:
        """Networks that learn and that a divergence pulls towards another, whose target they are; not the other way.

        So are two outputs of one call, as of a network with several exits: what one gives is the other's target.
        """
        tape = self._tape
        gradients = 0
        for raw, _, _ in window.backwards:
            gradients |= raw.gradient
        given = [source for source in facts.bits(gradients, tape.sources) if source.call is not None]
        if len(given) < 2:
            return []

        def answers(tensor: Tensor) -> list[Source]:
            # What a target is divided by, or a weight, is no answer: it has other columns.
            found = facts.bits(tape.bits(tensor)[1], tape.sources)
            alike = (each for each in found if each.tensor.shape[-1:] == tensor.shape[-1:])
            return [each for each in alike if each.call is not None and self._networks.held(each.call.module) > 0]

        pairs: list[tuple[Source, Source, str | None]] = []
        for node in (tape.nodes[i] for raw, _, _ in window.backwards for i in raw.nodes):
            if node.call is None and node.name == "kl_div":
                targets, predicted = answers(node.argument(1, "target")), answers(node.inputs[0])
                # A mean that the predicting side is part of is a target of all.
                mixed = any(one is other for one in targets for other in predicted)
                for a, b in itertools.product(targets, predicted):
                    apart = a.call is not None and b.call is not None and a.call.module is not b.call.module
                    if apart or (a.call is b.call and not mixed):
                        pairs.append((a, b, node.where))
        both = {self._sides(a, b) for a, b, _ in pairs}
        return [
            (self._networks.of(a.call.module), place, a.call is b.call)
            for a, b, place in pairs
            if a.call is not None and self._sides(b, a) not in both
        ]

    @staticmethod
    def _sides(target: Source, predicted: Source) -> tuple[int, int]:
        """Which two networks a divergence compares, or which two outputs of one call."""
        one, other = target.call, predicted.call
        if one is None or other is None or one is other:
            return id(target.tensor), id(predicted.tensor)
        return id(one.module), id(other.module)

    def _are_answers(self, source: Source) -> bool:
        """Whether a stored tensor looks like a teacher's answers: of the shape of a student's logits, and no labels."""
        tensor = source.tensor
        if not tensor.is_floating_point() or tensor.dim() < 2 or tensor.shape[-1] < 2:
            return False
        if source.earlier and any(not self._networks.held(call.module) for call in source.earlier):
            return True
        shapes = {
            s.tensor.shape for s in self._tape.sources if s.kind in ("network", "inside") and s.tensor.requires_grad
        }
        if tensor.shape not in shapes:
            # Of answers to a whole data set, loaded from a file, the rows of a batch are picked.
            picks = (each for each in self._tape.nodes if each.name in PICKS and each.inputs[0] is tensor)
            if not any(each.outputs[0].shape in shapes for each in picks):
                return False
        rows = tensor.detach().reshape(-1, tensor.shape[-1])[:64].float()
        if facts._simplex(rows):
            # One-hot, smoothed and mixed labels hold few values in a row; a teacher's probabilities many.
            return tensor.shape[-1] > 4 and all(len(set(row.tolist())) > 4 for row in rows[:8])
        if not bool(rows.any()):
            return True
        # Labels of several classes at once are 0 and 1, or two other numbers where they are smoothed.
        return bool(rows.std() > 0) and len(torch.unique(rows)) > 2

    def _kept(self, reads: int, learners: int) -> frozenset[tuple[int, int]]:
        """What a loss reads whole that was there before the step, as long as what the student gives."""
        own = {len(each.tensor) for each in facts.bits(learners, self._tape.sources) if each.tensor.dim() > 1}
        return frozenset(
            (id(source.tensor), source.tensor._version)
            for source in facts.bits(reads, self._tape.sources)
            if source.kind == "constant" and source.tensor.dim() > 1 and len(source.tensor) in own
        )

    def follower(self, step: Step) -> Follower | None:
        """A teacher that no optimizer holds and a student of the same shape: one may be a moving average."""
        teachers = [call for call in step.calls if call.reaches_loss and call.role == "teacher" and not call.held]
        # The student's may be heard through another network, as through a predictor.
        students = [call for call in step.calls if call.used and call.role == "student" and call.held]
        for teacher in (call.network for call in teachers):
            for student in (call.network for call in students):
                modules = teacher.module(), student.module()
                if teacher.shape == student.shape and None not in modules and modules[0] is not modules[1]:
                    return Follower(*modules)  # type: ignore[arg-type]
        return None

    # Losses.

    def _read_backward(
        self,
        window: Window,
        raw: facts.Raw,
        value: float | None,
        finite: bool,
        learners: int,
        teachers: int,
        made: dict[int, CallFacts],
        full: bool,
    ) -> BackwardFacts:
        tape, networks = self._tape, self._networks
        form = facts.form(tape, raw)
        key = (learners, teachers, form) if form is not None else None
        seen = self._described.get(key) if key is not None else None
        if key is not None and len(self._forms) < FORMS:
            self._forms.add(key)
        again = seen.again(tape) if seen is not None and not full else None
        # Of a loss that is described again, they are asked for where numbers are added alone.
        summands = facts.summands(tape, raw.loss) if again is None or (seen and seen.adds_constant) else ()
        if again is not None:
            found = again[1]
        else:
            found = facts.answers(tape, raw, summands, learners, teachers, as_function=full)
        answers, student, teacher = found
        if answers is not None:
            answers.student_call = made.get(id(student.call)) if student is not None else None
            if teacher is not None:
                origin = (teacher.call,) if teacher.call is not None else teacher.earlier
                answers.teacher_origin = tuple(dict.fromkeys(networks.of(call.module) for call in origin))
                answers.teacher_call = made.get(id(teacher.call)) if teacher.call is not None else None
                asked = sum(call.module is each.module for call in tape.calls for each in origin[:1])
                if asked > 2 * max(1, len(window.backwards)) + 1:
                    # All answers were made before the first step, in the same window.
                    answers.stored, answers.teacher_call = True, None
        if again is not None and seen is not None:
            return BackwardFacts(
                place=raw.place,
                value=value,
                terms=again[0],
                answers=answers,
                oddities=(),
                reads_teacher=bool(raw.sources & teachers),
                not_finite=None if finite and math.isfinite(value or 0.0) else facts.not_finite(tape, raw),
                gradient_finite=finite,
                half=seen.half,
                vanished=seen.vanished,
                scaled="scaler.scale" in window.names,
                in_full=False,
                added=facts.numbers_added(tape, raw.loss, summands) if seen.adds_constant else 0.0,
                read=facts.numbers_read(tape, learners) if seen.adds_constant else (),
            )
        labels = {
            id(t)
            for node in (tape.nodes[i] for i in raw.nodes)
            for t in node.inputs
            if not t.is_floating_point() and t.dtype is not torch.bool
        }
        known = facts.labelled(tape, raw, learners) if answers is not None and answers.labels is None else None
        students = learners | sum(1 << index for index, each in enumerate(tape.sources) if networks.is_cut(each))
        terms = [facts.term(tape, summand, learners, teachers, labels, students, full=full) for summand in summands]
        if full:
            reached = facts.upstream(tape, raw.gradient)
            trained = {p for each in reached if each.call is not None for p in networks.held_parameters(each.call)}
            for summand, term in zip(summands, terms, strict=True):
                gradient = tape.bits(summand.tensor)[1]
                cut = facts.cut_off(tape, gradient, learners, teachers, networks.held_parameters, trained)
                if cut is not None:
                    term.cut_off = networks.of(cut[0].module), networks.of(cut[1].module)
        # Where numbers left torch, it says in each step whether some came back.
        adds = (full or bool(tape.escaped)) and facts.adds_constant(tape, raw.loss)
        described = BackwardFacts(
            place=raw.place,
            value=value,
            terms=terms,
            answers=answers,
            oddities=facts.oddities(tape, raw, learners, teachers) if full else (),
            reads_teacher=bool(raw.sources & teachers),
            not_finite=None if finite and math.isfinite(value or 0.0) else facts.not_finite(tape, raw),
            gradient_finite=finite,
            half=facts.half_operations(tape, raw),
            vanished=facts.vanished(tape, raw),
            scaled="scaler.scale" in window.names,
            in_full=full,
            labelled=(made[id(known[0])], known[1]) if known is not None and id(known[0]) in made else None,
            adds_constant=adds,
            added=facts.numbers_added(tape, raw.loss, summands) if adds else 0.0,
            read=facts.numbers_read(tape, learners) if adds else (),
        )
        if key is not None and seen is None and len(self._described) < FORMS:
            known_form = facts.Described.of(tape, raw, [each.tensor for each in summands], found, described)
            if known_form is not None:
                self._described[key] = known_form
        if answers is not None:
            answers.handed = None
        return described

"""What the checks of a training loop know of it: one phase that has a teacher, and what is measured of it later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stillroom.diagnose.chance import exceeds_chance
from stillroom.diagnose.check import Skip, lazy
from stillroom.diagnose.checks.loop.record import (
    Answers,
    BackwardFacts,
    CallFacts,
    InferenceCall,
    Network,
    Oddity,
    Phase,
    Schedule,
    Step,
)

# What stands in the names of optimizers whose steps do not depend on a factor of the whole loss.
_ADAPTIVE = ("Adam", "RMSprop", "Adagrad", "Adadelta", "Adafactor", "Lion", "Muon", "LAMB", "Lamb")
# Fewer rows with a label than this say nothing of an accuracy.
FEWEST = 40


def is_adaptive(optimizer: str) -> bool:
    """Whether a class of optimizers divides gradients by their size.

    >>> is_adaptive("AdamW"), is_adaptive("SGD")
    (True, False)
    """
    return any(part in optimizer for part in _ADAPTIVE)


class LoopContext:
    """One phase of a training loop.

    Args:
        phase: what was seen of it.
        asked: networks that were run without gradients outside its steps.
        schedules: the learning-rate schedulers of the script.
        identify: says what the losses of some steps are.
        whole_script: whether all that was done to the networks was seen.
        trained: networks that earlier phases trained, with the share of labels that they named at the end.
        earlier: the phases before it.
    """

    def __init__(
        self,
        phase: Phase,
        asked: Sequence[InferenceCall],
        schedules: Sequence[Schedule],
        identify: Callable[[LoopContext], list[Any]] = lambda context: [],
        whole_script: bool = True,
        trained: Sequence[tuple[Network, float]] = (),
        earlier: Sequence[Phase] = (),
    ) -> None:
        self.earlier = earlier
        self.whole_script, self.trained = whole_script, trained
        self.identify = identify
        self.phase = phase
        self.asked = [one for one in asked if one.phases <= phase.number + 1]
        self.schedules = schedules

    @property
    def steps(self) -> list[Step]:
        return self.phase.steps

    @property
    def backwards(self) -> list[tuple[Step, BackwardFacts]]:
        """All calls of ``backward``."""
        return [(step, backward) for step in self.steps for backward in step.backwards]

    @property
    def described(self) -> list[tuple[Step, BackwardFacts]]:
        """The calls of ``backward`` whose operations were looked at, too."""
        return [(step, backward) for step, backward in self.backwards if backward.in_full]

    def calls(self, role: str) -> list[tuple[Step, CallFacts]]:
        """Calls of the student's or the teacher's networks that a loss was computed from."""
        return [
            (step, call)
            for step in self.steps
            for call in step.calls
            if call.role == role and call.reaches_loss and (role == "teacher" or call.gradient)
        ]

    @property
    def students(self) -> list[Network]:
        """The networks that learn."""
        return list(dict.fromkeys(call.network for _, call in self.calls("student") if call.held > 0))

    @property
    def teachers(self) -> list[Network]:
        """The networks that teach, and learn nothing themselves."""
        students = set(self.students)
        found = dict.fromkeys(call.network for _, call in self.calls("teacher"))
        return [each for each in found if each not in students]

    @property
    def follows_student(self) -> bool:
        """Whether the teacher moves with the student, as a moving average does: changed by no optimizer of its own."""
        versions: dict[Network, set[int]] = {}
        for _, call in self.calls("teacher"):
            if call.held == 0 and not call.live:
                versions.setdefault(call.network, set()).add(call.version)
        averaged = any(step.averaging is not None and step.averaging.teacher > 0 for step in self.steps)
        return averaged or any(len(each) > 1 for each in versions.values())

    def oddities(self, kind: str) -> list[Oddity]:
        """What was seen of a kind of oddity, where at least half of the described losses have it; else none."""
        found = [each for _, backward in self.described for each in backward.oddities if each.kind == kind]
        return found if 2 * len(found) >= len(self.described) else []

    @property
    def answers(self) -> list[tuple[Step, Answers]]:
        """Logits of both, by step."""
        return [
            (step, backward.answers)
            for step, backward in self.backwards
            if backward.answers is not None and backward.answers.teacher is not None
        ]

    @lazy
    def labelled(self) -> tuple[Tensor, Tensor, Tensor]:
        """Teacher's answers, the student's, and labels, of all watched rows that have one."""
        found = []
        students = set(self.students)
        for _, each in self.answers:
            if each.labels is None or each.teacher is None:
                continue
            if each.teacher_call is not None and each.teacher_call.network in students:
                continue  # students that teach one another, and one that is its own teacher
            count = min(len(each.labels), len(each.teacher))
            valid = each.labels[:count] >= 0
            found.append((each.teacher[:count][valid], each.student[:count][valid], each.labels[:count][valid]))
        if not found or not sum(len(labels) for *_, labels in found):
            raise Skip("No labels were seen with the teacher's answers.")
        teacher, student, labels = (torch.cat([one[i].cpu() for one in found]) for i in range(3))
        named, wanted = set(teacher.argmax(1).tolist()), set(labels.tolist())
        if len(named) > 1 and len(wanted) < teacher.shape[1] and not named & wanted:
            raise Skip("The labels are of classes that the teacher never names: it knows others, as an old model does.")
        return teacher, student, labels

    @lazy
    def teacher_images(self) -> TeacherImages:
        """What a teacher that gives logits was given, of all watched steps, up to 512 rows that have a label."""
        found: list[tuple[CallFacts, Answers]] = []
        for step, backward in self.backwards:
            own = backward.answers
            if own is None or own.labels is None or len(own.shape) != 2:
                continue
            call = own.teacher_call
            if not any(each.answers is not None and each.answers.teacher is not None for each in step.backwards):
                # A teacher whose features alone are heard gives logits, too; of several calls, which is not known.
                others = [c for c in step.calls if c.role == "teacher" and c.used and own.shape in c.outputs]
                call = others[0] if len(others) == 1 and len(step.backwards) == 1 else None
                call = None if call is not None and _of_another_pass(step, call, own.student_call) else call
            inputs = call.inputs if call is not None else None
            if inputs is not None and inputs.is_floating_point() and len(inputs) <= len(own.labels):
                found.append((call, own))  # type: ignore[arg-type]
        if not found:
            with suppress(Skip):
                return self._images_with_labels_of_its_training()
            return self._images_of_stored_answers()
        network = found[0][0].network
        found = [each for each in found if each[0].network is network]
        inputs = torch.cat([call.inputs for call, _ in found if call.inputs is not None])[:512]
        labels = torch.cat([own.labels[: len(call.inputs)] for call, own in found])[:512]  # type: ignore[index,arg-type]
        valid = labels >= 0
        if int(valid.sum()) < FEWEST:
            raise Skip("Too few labels were seen with the teacher's answers.")
        students = [own.student_call.inputs if own.student_call is not None else None for _, own in found]
        given = [each for each in students if each is not None and each.is_floating_point()]
        other = torch.cat(given)[:512] if len(given) == len(students) else None
        return TeacherImages(
            network,
            inputs[valid],
            labels[valid].cpu(),
            found[0][1].shape[1],
            other[valid] if other is not None and len(other) == len(valid) else None,
            most_common([call.place for call, _ in found]),
            any(call.from_networks for call, _ in found),
        )

    def _images_with_labels_of_its_training(self) -> TeacherImages:
        """The same where the loop has no labels: of images that the teacher was trained on, whatever their units."""
        asked = [
            (own, own.teacher_call, own.teacher_call.inputs)
            for _, backward in self.backwards
            if (own := backward.answers) is not None and len(own.shape) == 2
            if own.teacher_call is not None and own.teacher_call.inputs is not None
            if own.teacher_call.inputs.is_floating_point()
        ]
        if not asked:
            raise Skip("No teacher was run on images with labels in the watched steps.")
        first, network, shape = asked[0][0], asked[0][1].network, asked[0][2].shape[1:]
        asked = [each for each in asked if each[1].network is network and each[2].shape[1:] == shape]
        learnt = [
            (own.labels, own.student_call.inputs)
            for phase in self.earlier
            for step in phase.steps
            for own in (backward.answers for backward in step.backwards)
            if own is not None and own.labels is not None and own.student_call is not None
            if own.student_call.network.serial == network.serial and own.student_call.inputs is not None
        ]
        learnt = [(labels, rows) for labels, rows in learnt if rows.shape[1:] == shape and len(rows) <= len(labels)]
        # Of few numbers, two rows of one class are as good as alike.
        if not learnt or shape.numel() < FEWEST_NUMBERS:
            raise Skip("No teacher was run on images with labels in the watched steps.")
        inputs = torch.cat([rows for *_, rows in asked])[:512].float()
        known = torch.cat([rows for _, rows in learnt])[:1024].float()
        labels = torch.cat([each[: len(rows)] for each, rows in learnt])[:1024].cpu()
        alike, nearest = (_directions(inputs) @ _directions(known).T).max(1)
        wanted = labels[nearest.cpu()]
        same = (alike.cpu() > SAME_IMAGE) & (wanted >= 0)
        if int(same.sum()) < FEWEST:
            raise Skip("Too few images were seen that the teacher was trained on with labels.")
        return TeacherImages(
            network,
            inputs[same.to(inputs.device)],
            wanted[same],
            first.shape[1],
            None,
            most_common([call.place for _, call, _ in asked]),
            any(call.from_networks for _, call, _ in asked),
        )

    def _images_of_stored_answers(self) -> TeacherImages:
        """The student's images, where a teacher was asked about the very same before the loop."""
        seen = [
            (own, own.student_call, own.student_call.inputs, own.labels)
            for _, own in self.answers
            if own.stored and own.labels is not None and len(own.shape) == 2 and own.student_call is not None
            if own.student_call.inputs is not None and own.student_call.inputs.is_floating_point()
            if len(own.student_call.inputs) <= len(own.labels)
        ]
        asked = self._asked_before({each for _, call, *_ in seen for each in call.prints})
        one = next((one for one in asked if not one.live and one.classes == seen[0][0].shape[1]), None)
        if one is None:
            raise Skip("No teacher was run on images with labels in the watched steps.")
        seen = [each for each in seen if each[2].shape[1:] == seen[0][2].shape[1:]]
        inputs = torch.cat([rows for *_, rows, _ in seen])[:512]
        labels = torch.cat([each[: len(rows)] for *_, rows, each in seen])[:512]
        valid = labels >= 0
        if int(valid.sum()) < FEWEST:
            raise Skip("Too few labels were seen with the teacher's answers.")
        return TeacherImages(one.network, inputs[valid], labels[valid].cpu(), one.classes, None, one.place)

    def known_inputs(self, network: Network) -> dict[str, Tensor]:
        """What a network was trained on in an earlier phase, or else evaluated on, float [N, …], and which it was."""
        for phase in reversed(self.earlier):
            calls = [
                call
                for step in phase.steps
                for call in step.calls
                if call.network.serial == network.serial and call.learns and call.gradient and not call.from_networks
            ]
            rows = [call.inputs for call in calls if call.inputs is not None and call.inputs.is_floating_point()]
            if rows:
                return {"trained on": torch.cat([each for each in rows if each.shape[1:] == rows[0].shape[1:]])[:1024]}
        asked = (one for one in self.asked if one.network.serial == network.serial and one.inputs is not None)
        found = [one.inputs for one in asked]
        names = ("evaluated on", "evaluated on later")
        return {name: each for name, each in zip(names, found, strict=False) if each is not None}

    @lazy
    def student_knows(self) -> bool:
        """Whether the student answers better than chance before it has learnt: its weights are no random ones."""
        first = [found.answers for step in self.steps[:1] for found in step.backwards if found.answers is not None]
        for each in first:
            for wanted in (each.labels, each.teacher.argmax(1) if each.teacher is not None else None):
                if wanted is None:
                    continue
                count = min(len(wanted), len(each.student))
                valid = wanted[:count] >= 0
                named, logits = wanted[:count][valid], each.student[:count][valid]
                right = int((logits.argmax(1) == named).sum())
                if len(named) and exceeds_chance(right, len(named), chance(named, logits.shape[1])):
                    return True
        return False

    @property
    def silent_teachers(self) -> tuple[Network, list[tuple[Step, CallFacts]]] | None:
        """A network that is run in most steps, is no student, and whose output no loss was computed from."""
        students = set(self.students)
        calls: dict[Network, list[tuple[Step, CallFacts]]] = {}
        for step in self.steps:
            # What left torch may come back as labels; a number that is added to the loss is a constant.
            if not step.backwards or (step.escaped and not any(each.adds_constant for each in step.backwards)):
                continue
            seen = {call.network: call for call in step.calls if not call.used and call.held == 0}
            for network, call in seen.items():
                if network not in students:
                    calls.setdefault(network, []).append((step, call))
        often = [(network, each) for network, each in calls.items() if 2 * len(each) > len(self.steps)]
        return max(often, key=lambda each: each[0].parameters, default=None)

    @property
    def silent_answers(self) -> InferenceCall | None:
        """Answers of a network to the student's training images that are still kept and were asked before it learnt."""
        seen = {
            print_ for step in self.steps for call in step.calls if call.role == "student" for print_ in call.prints
        }
        return next((one for one in self._asked_before(seen) if one.kept), None)

    def _asked_before(self, prints: set[tuple[float, float]]) -> Iterator[InferenceCall]:
        """Answers of networks that do not learn to half of these images or more, asked before the student learnt."""
        students = {id(each.module()) for each in self.students}
        for one in self.asked if prints else ():
            before = one.phases <= self.phase.number and id(one.network.module()) not in students
            if before and len(prints & one.prints) >= 0.5 * len(prints):
                yield one

    @lazy
    def kept_target(self) -> tuple[list[Step], Network] | None:
        """Steps whose images differ and whose target is one tensor, and a network that is run in them and not heard."""
        counts = Counter(key for step in self.steps for key in step.kept)
        if not counts:
            return None
        ((key, count),) = counts.most_common(1)
        steps = [step for step in self.steps if key in step.kept]
        unheard = [[call.network for call in step.calls if not call.used and call.held == 0] for step in steps]
        if count < max(5, 0.8 * len(self.steps)) or not all(unheard):
            return None
        inputs = [
            call.inputs
            for step in steps
            for call in step.calls
            if call.role == "student" and call.gradient and call.inputs is not None
        ]
        differ = any(one.shape == inputs[0].shape and not torch.equal(one, inputs[0]) for one in inputs[1:])
        return (steps, unheard[0][0]) if differ else None

    @lazy
    def fits(self) -> list[Any]:
        """What the losses of some steps are: filled by :func:`terms.identify`, the first check that asks."""
        return self.identify(self)

    @property
    def source(self) -> str:
        """What the user's files say around the losses."""
        return "\n".join({term.words for _, backward in self.backwards for term in backward.terms if term.words})

    @property
    def candidates(self) -> list[Network]:
        """Networks that may have given stored answers: asked before, of as many classes, and not the student."""
        classes = {answers.student.shape[1] for _, answers in self.answers}
        students = {id(each.module()) for each in self.students}
        found: dict[int, Network] = {}
        for one in self.asked:
            module = one.network.module()
            if module is not None and one.classes in classes and id(module) not in students:
                found[id(module)] = one.network
        return list(found.values())

    @lazy
    def asked_again(self) -> list[tuple[Network, list[tuple[Answers, Tensor]]]]:
        """Networks that may have given the stored answers of the last steps, with what they give now, [n, K] each."""
        # The latest of those whose images were kept.
        known = [(each, each.student_call) for _, each in self.answers if each.stored]
        stored = [(each, call.inputs) for each, call in known if call is not None and call.inputs is not None][-8:]
        found = []
        for network in dict.fromkeys([*(one for each, _ in stored for one in each.teacher_origin), *self.candidates]):
            with suppress(Skip):
                live = []
                for each, inputs in stored:
                    if each.teacher is not None and len(each.shape) == 2:
                        count = min(len(inputs), len(each.teacher), 64)
                        live.append((each, ask(network, inputs[:count], each.student.shape[1])))
                found.append((network, live))
        return found


@dataclass(frozen=True, eq=False)
class TeacherImages:
    """Images that a teacher was given in the watched steps."""

    network: Network  # the teacher
    inputs: Tensor  # float [N, …], as it got them
    labels: Tensor  # int [N]
    classes: int
    to_student: Tensor | None  # the student's input in the same steps; None where that is not known
    place: str | None  # the user's line
    from_networks: bool = False  # whether a network made them

    def correct(self, change: Callable[[Tensor], Tensor] = lambda x: x, count: int | None = None) -> Tensor:
        """Which of the first rows the teacher names right where its input is changed, bool [count]; Skip as in ask."""
        return ask(self.network, change(self.inputs)[:count], self.classes).argmax(1) == self.labels[:count]


# The cosine of two images, each feature standardised over those it was seen with, from which they are one and the same.
SAME_IMAGE, FEWEST_NUMBERS = 0.98, 16


def _directions(rows: Tensor) -> Tensor:
    """Each row as a vector of length 1, its features standardised over the rows: the same in any units."""
    flat = rows.flatten(1)
    spread = flat.std(0)
    flat = torch.where(spread > 0, (flat - flat.mean(0)) / spread.clamp_min(1e-12), 0.0)
    return torch.nn.functional.normalize(flat, dim=1)


def skill(phase: Phase) -> list[tuple[Network, float]]:
    """The networks that a phase trained, with the share of labels that they named in its last watched step."""
    for step in reversed(phase.steps):
        for backward in step.backwards:
            found = backward.answers
            if found is None or found.labels is None or found.student_call is None or phase.distils:
                continue
            count = min(len(found.labels), len(found.student))
            valid = found.labels[:count] >= 0
            if int(valid.sum()) >= 16:
                return [
                    (found.student_call.network, accuracy(found.student[:count][valid], found.labels[:count][valid]))
                ]
    return []


@contextmanager
def untouched(module: nn.Module) -> Iterator[nn.Module]:
    """A module in evaluation mode, without the user's forward hooks; modes, buffers, generators are put back."""
    modes = {each: each.training for each in module.modules()}
    buffers = [(each, each.detach().clone()) for each in module.buffers()]
    hooks = {each: each._forward_hooks for each in module.modules()}
    state = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    try:
        for each in module.modules():
            each.training = False
            each._forward_hooks = type(hooks[each])()
        with torch.no_grad():
            yield module
    finally:
        for each, mode in modes.items():
            each.training = mode
            each._forward_hooks = hooks[each]
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
        torch.set_rng_state(state)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


def ask(network: Network, inputs: Tensor, classes: int) -> Tensor:
    """A network's answers to inputs now, [N, K]; Skip where it is gone, or does not take these inputs."""
    module = network.module()
    if module is None:
        raise Skip("The network is gone.")
    with untouched(module):
        try:
            out: Any = module(inputs)
        except Exception as error:  # a user's network can refuse in any way
            raise Skip(f"{network.label} does not take the student's input: {error}") from None
    for tensor in _tensors(out):
        if tensor.dim() == 2 and tensor.shape[1] == classes and len(tensor) == len(inputs):
            return tensor.detach().float().cpu()
    raise Skip(f"{network.label} gives no logits of {classes} classes.")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif hasattr(value, "__dataclass_fields__"):
        yield from _tensors(list(vars(value).values()))


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of rows whose largest logit is the label's."""
    return float((logits.argmax(1) == labels).float().mean())


def chance(labels: Tensor, classes: int) -> float:
    """The accuracy of always naming the most frequent class; of one that is so by luck, as all are alike, 1/K.

    >>> chance(torch.arange(960) % 96, 100), chance(torch.tensor([0] * 90 + [1] * 10), 2)
    (0.01, 0.9)
    """
    most, count = int(torch.bincount(labels, minlength=classes).max()), len(labels)
    return most / count if exceeds_chance(most, count, 1 / classes, tries=classes) else 1 / classes


def most_common(places: Sequence[str | None]) -> str | None:
    """The place that most of them name."""
    real = [each for each in places if each is not None]
    return max(dict.fromkeys(real), key=real.count, default=None)


def _of_another_pass(step: Step, teacher: CallFacts, labelled: CallFacts | None) -> bool:
    """Whether a teacher was given the images of another pass of the student than the one that has the labels."""

    def shared(call: CallFacts) -> bool:
        one, other = call.inputs, teacher.inputs
        return one is not None and other is not None and one.device == other.device and torch.equal(one, other)

    if labelled is None or shared(labelled):
        return False
    return any(each is not labelled and each.role == "student" and shared(each) for each in step.calls)

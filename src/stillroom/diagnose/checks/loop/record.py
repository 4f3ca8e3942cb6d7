"""What was seen of a training loop: the steps, the networks in them, the losses; a check reads nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

Role = Literal["student", "teacher", "none"]
# Part of what is said of a weight that is looked up by a name which its dictionary does not have.
NO_KEY = " has no key "


@dataclass(eq=False)
class Network:
    """A module that was run."""

    module: Callable[[], nn.Module | None]  # gives the module, while it lives
    label: str  # its class and the variable that held it
    trained_before: bool = False  # whether an optimizer stepped its parameters in an earlier phase
    loaded: list[Loading] = field(default_factory=list)  # what ``load_state_dict`` did to it, latest first
    parameters: int = 0  # its number of parameters
    shape: tuple[tuple[int, ...], ...] = ()  # the shapes of its parameters
    fresh: bool = False  # whether its first weights were neither trained nor loaded, nor copied from what was
    serial: int = 0  # which module it is, of all that were seen: also when that is gone
    # Whether its normalisation layers, where it has any, scaled all channels alike when it was called first.
    drawn: bool = True

    @property
    def shown(self) -> str:
        """Its variable and its class, as they stand behind its role: ``(`self.teacher`, ResNet)``."""
        name, _, kind = self.label.partition(" (")
        return f"(`{name}`, {kind[:-1]})" if kind else f"({name})"


@dataclass(frozen=True, eq=False)
class Loading:
    """A call of ``load_state_dict``."""

    place: str | None  # the user's line
    strict: bool  # whether it was strict
    expected: int  # number of tensors that the module has
    loaded: int  # number of them that the file held
    unexpected: tuple[str, ...]  # keys of the file that the module does not know
    missing: tuple[str, ...]  # keys of the module that the file lacks


@dataclass(eq=False)
class CallFacts:
    """One call of a network in a step."""

    network: Network  # the network
    place: str | None  # the user's line
    training: bool  # its mode
    grad: bool  # whether gradients were recorded
    live: frozenset[str]  # what acted as in training: ``dropout``, ``batch norm``
    still: frozenset[str]  # of these, what was switched off
    held: float  # share of its parameters that an optimizer holds
    frozen: bool  # whether no parameter requires a gradient
    from_networks: tuple[Network, ...]  # networks that its input came from
    reaches_loss: bool  # whether a loss that went backward was computed from its output
    gradient: bool  # whether that loss's gradient reaches its output
    inputs: Tensor | None  # its first input, up to some rows
    outputs: tuple[tuple[int, ...], ...]  # shapes of its outputs
    version: int = 0  # counts in-place changes of its parameters and buffers
    role: Role = "none"  # whose side of the loss it stands on
    used: bool = False  # whether a loss was computed from it, be it through another network
    feeds_teacher: bool = False  # whether it has weights that nobody trains, and only a teacher was given its output
    shared: float = 0.0  # share of its numbers that an optimizer holds
    shared_version: int = 0  # counts in-place changes of these
    # Fingerprints of its input's rows, in the first steps of a phase.
    prints: frozenset[tuple[float, float]] = frozenset()

    @property
    def learns(self) -> bool:
        """Whether an optimizer that steps holds some of it, and gradients are recorded."""
        return self.held > 0 and self.grad


@dataclass(eq=False)
class Term:
    """One summand of a loss."""

    place: str | None  # the user's line
    function: str  # the loss function, or the last operation
    weight: float  # what multiplies it
    value: float | None  # its value, without the weight; None where it is no scalar
    labels: bool  # whether it reads the labels
    student: bool  # whether its gradient reaches a network that learns
    teacher: bool  # whether it is computed from the teacher's output
    connected: bool = False  # whether it reads the teacher's output through a layer that learns, as a connector of it
    reads_student: bool = False  # whether its value is computed from a network that learns, with or without gradient
    summed: float = 0.0  # how many numbers of a row it sums up; 0 for a mean
    rows: float = 0.0  # of a loss of class numbers, how many rows it sums up; 0 for a mean
    # Variables that its weight is made of, and whether it is one minus the variable.
    weight_names: tuple[tuple[str, bool], ...] = ()
    factors: tuple[float, ...] = ()  # the numbers that its weight is the product of
    # Where its weight is 0, the expression that cuts it to a whole number, or which dictionary lacks its name.
    truncated: str = ""
    # What a comment at a list of weights says that a factor of the weight stands for.
    weight_lists: tuple[str, ...] = ()
    # How much the teacher's side differs from row to row, as a share of its size; None where it has no rows.
    spread: float | None = None
    # Of class numbers that a network chose: the user's variable that held something else before, "" where none did.
    chosen: str | None = None
    # Where the student's side is cut off: who alone learns from the term, and who would.
    cut_off: tuple[Network, Network] | None = None
    apart: bool = False  # whether it is a similarity to the teacher that is minimised, or a distance that is maximised
    words: str = ""  # what the function and the script say of such weights: docstrings, comments, help texts
    averaged: int = 0  # how many rows it is the mean of; 0 for a sum, and where that is not known


@dataclass(frozen=True, eq=False)
class LostTerm:
    """A loss with a gradient to the student that no ``backward`` was computed from."""

    function: str  # the loss function
    place: str | None  # the user's line
    teacher: bool  # whether it is computed from the teacher's output; else from labels
    weighted: bool  # whether it was multiplied or added to something: it was meant for a sum
    read: bool  # whether the script looked at its value


@dataclass(frozen=True, eq=False)
class ComparingTerm:
    """A summand of a loss that is computed from the logits of both."""

    function: Any  # of both logits, without the weight
    weight: float  # what multiplies it
    factors: tuple[float, ...]  # the numbers that the weight is the product of
    squared: bool = False  # whether a line that multiplies it squares a number


@dataclass(frozen=True, eq=False)
class TurnedLabels:
    """Rows without a label that an operation gave one, as ``labels.clamp(min=0)`` does."""

    rows: Tensor  # bool [N]: which rows
    classes: frozenset[int]  # what their labels are now
    others: tuple[int, ...]  # the labels of the other rows
    by_index: bool = False  # whether no operation did: a number below 0 counts from the end of a table


@dataclass(frozen=True, eq=False)
class NarrowTeacher:
    """Answers of a teacher that knows fewer classes, and the student's columns that they are compared with."""

    logits: Tensor  # float [N, k], k < K
    first: int  # the first of k columns in a row
    place: str | None  # the user's line that picks them


@dataclass(eq=False)
class Answers:
    """The teacher's and the student's outputs for some rows of a step."""

    student: Tensor  # float [N, K]
    teacher: Tensor | None  # float [N, K]; None where no teacher gives as many numbers
    labels: Tensor | None  # int [N]; None where there are none, -100 where a row has none
    stored: bool  # whether the teacher's were not computed in this step
    shape: tuple[int, ...]  # of the student's logits, as the loss got them
    # The loss as a function of both logits, and of the labels where it has them (``sources`` holds what they were);
    # None where it could not be followed.
    loss: Any
    place: str | None  # the user's line where both meet
    class_dim: int  # which dimension of ``shape`` counts classes
    student_call: CallFacts | None = None  # the call that gave the student's
    teacher_call: CallFacts | None = None  # the call that gave the teacher's; None where they are stored
    teacher_origin: tuple[Network, ...] = ()  # networks that stored answers were made by
    ignored: Tensor | None = None  # bool, of the shape of the labels: rows labelled below 0; None where there are none
    teacher_terms: list[ComparingTerm] = field(default_factory=list)  # the summands that compare both
    derived: bool = False  # whether the teacher's were made of outputs of other shapes, as of several crops
    of_classes: bool = True  # whether no softmax, or one over as many classes, takes the student's
    changed: str | None = None  # where stored answers are multiplied or divided in place
    reordered: bool = False  # whether rows of the teacher's answers are picked, or put into another order
    handed: Tensor | None = None  # the labels as the loss got them, while the step is described
    turned: TurnedLabels | None = None  # rows that had no label, and were given one; None where there are none
    narrower: NarrowTeacher | None = None  # a teacher of fewer classes, as of an earlier task


@dataclass(eq=False)
class Oddity:
    """A value that a known function of torch is not meant for: probabilities in a softmax, logits in ``kl_div``."""

    kind: str  # what is wrong, a key of the check's table
    function: str  # torch's function
    place: str | None  # the user's line
    side: Role  # whose value it is


@dataclass(eq=False)
class BackwardFacts:
    """One call of ``backward``."""

    place: str | None  # the user's line
    value: float | None  # the loss
    terms: Sequence[Term]  # its summands
    answers: Answers | None  # logits of student and teacher, where there are both or labels
    oddities: Sequence[Oddity]  # values that a function is not meant for
    reads_teacher: bool  # whether the loss was computed from a teacher's output, live or stored
    not_finite: tuple[str, str | None] | None  # the first operation that gave NaN or infinity: its name and line
    gradient_finite: bool  # whether all gradients of parameters were finite afterwards
    half: Sequence[tuple[str, str | None]]  # operations of the loss in float16 or bfloat16: names and lines
    # Constants that are 0 in the type they were added in: value, type, line.
    vanished: Sequence[tuple[float, str, str | None]]
    scaled: bool = False  # whether the loss was multiplied by a gradient scaler
    # Whether its operations were looked at; else ``oddities`` and each term's ``cut_off`` are not known.
    in_full: bool = True
    # A call of the student's whose output the labels' term reads, and the labels, where ``answers`` has none.
    labelled: tuple[CallFacts, Tensor] | None = None
    adds_constant: bool = False  # whether a number that no network made is added to it
    added: float = 0.0  # the sum of such numbers
    # Values with a gradient to the student that the script looked at in the step, with their lines.
    read: tuple[tuple[float, str | None], ...] = ()


@dataclass(eq=False)
class Step:
    """One watched step, from one optimizer step to the next."""

    number: int  # how many steps the phase had made before it
    epoch: int  # how often a DataLoader was begun before it, in the phase
    calls: list[CallFacts] = field(default_factory=list)  # calls of networks, in order
    backwards: list[BackwardFacts] = field(default_factory=list)  # what went backward
    stepped: bool = False  # whether an optimizer stepped
    # ``backward``, ``clip``, ``step``, ``zero_grad``, ``unscale`` … with their lines, in order.
    events: list[tuple[str, str | None]] = field(default_factory=list)
    # Parameters with a gradient that no optimizer holds: module, names, line.
    left_out: list[LeftOut] = field(default_factory=list)
    lost_terms: list[LostTerm] = field(default_factory=list)  # losses that were computed and reach no ``backward``
    # Networks that learn and whose answer is the target of another's divergence, which pulls it, too: with the line,
    # and whether the other is a further output of the same call.
    pulled: list[tuple[Network, str | None, bool]] = field(default_factory=list)
    escaped: bool = False  # whether a teacher's output left torch (numpy, lists)
    learning_rate: float = 0.0  # the largest of all groups
    base_rate: float = 0.0  # what a schedule begins with, or comes to: the largest of all groups; 0 without one
    # By which share of its norm the step changed the weight matrix that it changed most; None where that was not
    # measured.
    update: float | None = None
    # Of parameters in 16 bits, which share of the numbers with a gradient the step left as they were; None of others.
    stuck: float | None = None
    optimizer: str = ""  # class of the optimizer that made the step
    # A network that no optimizer holds and whose gradients were clipped with the others.
    clipped_for: Network | None = None
    # How the gradients that it used were treated: ``left_over`` where those of the step before were still there,
    # ``cleared`` where none was left, ``scaled`` where a gradient scaler's factor was on them; ``searched`` where the
    # optimizer itself went on to another evaluation of its closure, as a line search does.
    gradients: frozenset[str] = frozenset()
    clips_others: bool = False  # whether it clips nothing that an optimizer which steps holds
    clipped_share: float = 0.0  # their share of the squared norm that was clipped
    in_full: bool = True  # whether all was looked at; else ``lost_terms`` and what a loss's operations say is empty
    decay: Decay | None = None  # the strongest weight decay of its optimizers, where that was measured
    averaging: Averaging | None = None  # how student and teacher were moved towards each other before it
    # Which tensors that look like answers, are no output of this step, and are as long as the batch a loss reads.
    kept: frozenset[tuple[int, int]] = frozenset()
    padded: list[PaddedFeatures] = field(default_factory=list)  # terms that compare features of padded sequences


@dataclass(frozen=True)
class PaddedFeatures:
    """A term that compares features [B, L, …] of sequences whose padding the labels' term leaves out."""

    share: float  # which share of its gradient to the student's features falls on padded positions
    place: str | None  # the user's line
    unused_mask: str | None  # the line where the step computed a mask of them that nothing reads; None without one


@dataclass(frozen=True)
class Decay:
    """What weight decay does in a step."""

    coefficient: float  # ``weight_decay`` of the group
    shrinks: float | None  # by which share it shrinks the weights; None of optimizers that scale it with the gradient
    to_gradient: float  # its size, as a multiple of the gradient's
    rate: float  # the group's learning rate


@dataclass(frozen=True)
class Averaging:
    """How two networks of one shape moved between a step and the next, by no optimizer."""

    teacher: float  # which share of its way to the student the teacher went
    student: float  # which share of its way to the teacher the student went
    # How far the teacher's running statistics, which have stayed as they were, are from the student's, which have not:
    # in standard deviations, the median over channels. None where they move, or there are none.
    stale: float | None = None
    # Of a teacher in 16 bits that moved, which share of the numbers that differ from the student's stayed as they were.
    stuck: float | None = None


@dataclass(eq=False)
class LeftOut:
    """Parameters that got a gradient and that no optimizer holds."""

    network: Network  # the module that holds them
    names: tuple[str, ...]  # their names in it
    share: float  # their share of its parameters
    role: Role  # whether they stand on the student's or the teacher's side
    place: str | None  # where the module was called
    frozen: bool  # whether an optimizer holds them and they require no gradient; else they get one and none does
    fresh: bool  # whether some of them were neither trained nor loaded before, nor copied from what was


@dataclass(eq=False)
class Schedule:
    """A learning-rate scheduler."""

    name: str  # its class
    place: str | None  # where it was made
    period: int | None  # the number of its own steps that it is made for; None where it has none
    steps: int = 0  # how often it was stepped
    optimizer_steps: int = 0  # how often its optimizer was
    # Learning rates at some steps of the optimizer: (step, rate).
    rates: list[tuple[int, float]] = field(default_factory=list)
    # After how many of its own steps the rate has come to its end; None where it rises, or where that is not known.
    over_at: int | None = None
    never: bool = False  # whether the user's files call no ``.step()`` but the optimizers'
    step_place: str | None = None
    # Of one that waits for a number to stop improving: ``min`` or ``max``, and the numbers that it was given, each with
    # the rate before.
    mode: str = ""
    metrics: list[tuple[float, float]] = field(default_factory=list)


@dataclass(eq=False)
class InferenceCall:
    """A network that was run without gradients outside a step: an evaluation, or answers to be stored."""

    network: Network  # the network
    place: str | None  # the user's line
    rows: int  # how many rows it was given
    classes: int  # the last dimension of its output
    live: frozenset[str]  # dropout or batch norm that acted as in training
    prints: set[tuple[float, float]]  # fingerprints of the rows, not changed by padding with zeros
    kept: bool  # whether its outputs, or rows of them, were still there when the next training began
    inputs: Tensor | None = None  # of the first calls of a network, the first rows that it was given
    during: int = 0
    phases: int = 0


@dataclass(eq=False)
class LoopCount:
    """A loop over a range that the steps of a phase are made in."""

    count: int  # how often it runs
    # Its variable at watched steps: (number of the step, value).
    seen: list[tuple[int, int]] = field(default_factory=list)

    @property
    def steps(self) -> float | None:
        """How many steps are made in each of its turns; None where that was not seen.

        >>> LoopCount(9, [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)]).steps
        2.0
        """
        pairs = list(zip(self.seen, self.seen[1:], strict=False))
        following = [one[1] != other[1] for one, other in pairs if other[0] == one[0] + 1]
        if len(following) > 1 and all(following):
            return 1.0
        (first, start), strides = self.seen[0], [other[1] - one[1] for one, other in pairs if other[1] != one[1]]
        if not strides or min(strides) < 0:
            return None
        # From the first watched step, at the beginning of a turn, to the beginning of the last turn that was seen.
        last, value = [other for one, other in pairs if other[1] != one[1]][-1]
        return (last - first) * min(strides) / (value - start)


@dataclass(eq=False)
class Phase:
    """All that was seen of one training: the same parameters learn in it."""

    number: int
    steps: list[Step] = field(default_factory=list)  # the watched steps
    made: int = 0  # how many steps were made in all
    skipped_by_scaler: int = 0
    scaler_steps: int = 0
    loader_length: int | None = None  # batches of the DataLoader; None where none was used
    epochs: int = 0  # how often a DataLoader was begun
    finished: bool = False  # whether the script came to its end
    loops: dict[Any, LoopCount] = field(default_factory=dict)  # those over ranges around its steps, innermost first
    # Networks, by their number, on which ``train()`` was called since the training before it, and that learnt in
    # evaluation mode all the same.
    switched_on: set[int] = field(default_factory=set)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def complete_steps(self) -> list[Step]:
        """The watched steps without evaluations of a closure that its optimizer only looked at."""
        return [step for step in self.steps if "searched" not in step.gradients]

    @property
    def distils(self) -> bool:
        """Whether a loss was computed from a teacher's output, or from that of another network that learns."""
        heard = any(backward.reads_teacher for step in self.steps for backward in step.backwards)
        return heard or any(step.pulled for step in self.steps)

    @property
    def truncated_weight(self) -> str:
        """Where the teacher's terms have weight 0 in all watched steps, what nobody means it by; else empty."""
        return self._truncated([term for term in self._terms if term.teacher])

    @property
    def truncated_label_weight(self) -> str:
        """The same of the terms that compare the student with the labels alone."""
        return self._truncated([term for term in self._terms if term.labels and term.reads_student])

    @property
    def _terms(self) -> list[Term]:
        return [term for step in self.steps for backward in step.backwards for term in backward.terms]

    @staticmethod
    def _truncated(terms: Sequence[Term]) -> str:
        if not terms or any(term.weight for term in terms):
            return ""
        return next((term.truncated for term in terms if term.truncated), "")

    @property
    def untrained_copy(self) -> Network | None:
        """A teacher from the first step on that is the student as it was drawn, and that has not moved since."""
        heard = [call for step in self.steps for call in step.calls if call.reaches_loss and call.network.fresh]
        shapes = {call.network.shape for call in heard if call.role == "student" and call.held}
        teachers = [call for call in heard if call.role == "teacher" and not call.held and call.network.shape in shapes]
        same = len({(call.network, call.version) for call in teachers}) == 1 and teachers[0] in self.steps[0].calls
        return teachers[0].network if same and not any(call.live for call in teachers) else None

    @property
    def awaits(self) -> bool:
        """Whether what the watched steps lack may still come: a weight above 0, or the first turn of an average."""
        cut = self.truncated_weight or self.truncated_label_weight
        return bool(cut and NO_KEY not in cut) or self.untrained_copy is not None

    @property
    def is_seen_to_its_end(self) -> bool:
        """Whether it is over, and steps were watched to near its end."""
        return self.finished and bool(self.steps) and self.steps[-1].number >= 0.8 * (self.made - 1)

    @property
    def planned(self) -> tuple[int, float] | None:
        """How many epochs the script is to make, and how many steps each has; None where its loops do not say."""
        batches: float | None = float(self.loader_length) if self.loader_length else None
        for loop in self.loops.values():
            steps = loop.steps
            if steps is not None and steps < 1.5:
                batches = float(loop.count)
            elif steps is not None or batches is not None:
                return loop.count, steps if steps is not None else batches or 0.0
        return None

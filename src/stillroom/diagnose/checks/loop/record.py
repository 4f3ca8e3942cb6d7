"""What was seen of a training loop: the steps, the networks in them, the losses; a check reads nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

Role = Literal["student", "teacher", "none"]


@dataclass(eq=False)
class Network:
    """A module that was run.

    Attributes:
        module: gives the module, while it lives.
        label: its class and the variable that held it.
        trained_before: whether an optimizer stepped its parameters in an earlier phase.
        loaded: what ``load_state_dict`` did to it, latest first.
        parameters: its number of parameters.
    """

    module: Callable[[], nn.Module | None]
    label: str
    trained_before: bool = False
    loaded: list[Loading] = field(default_factory=list)
    parameters: int = 0


@dataclass(frozen=True, eq=False)
class Loading:
    """A call of ``load_state_dict``.

    Attributes:
        place: the user's line.
        strict: whether it was strict.
        expected: number of tensors that the module has.
        loaded: number of them that the file held.
        unexpected: keys of the file that the module does not know.
        missing: keys of the module that the file lacks.
    """

    place: str | None
    strict: bool
    expected: int
    loaded: int
    unexpected: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(eq=False)
class CallFacts:
    """One call of a network in a step.

    Attributes:
        network: the network.
        place: the user's line.
        training: its mode.
        grad: whether gradients were recorded.
        live: what acted as in training: ``dropout``, ``batch norm``.
        still: of these, what was switched off.
        held: share of its parameters that an optimizer holds.
        frozen: whether no parameter requires a gradient.
        from_networks: networks that its input came from.
        reaches_loss: whether a loss that went backward was computed from its output.
        gradient: whether that loss's gradient reaches its output.
        inputs: its first input, up to some rows.
        outputs: shapes of its outputs.
        version: counts in-place changes of its parameters and buffers.
        role: whose side of the loss it stands on.
        used: whether a loss was computed from it, be it through another network.
        prints: fingerprints of its input's rows, in the first steps of a phase.
    """

    network: Network
    place: str | None
    training: bool
    grad: bool
    live: frozenset[str]
    still: frozenset[str]
    held: float
    frozen: bool
    from_networks: tuple[Network, ...]
    reaches_loss: bool
    gradient: bool
    inputs: Tensor | None
    outputs: tuple[tuple[int, ...], ...]
    version: int = 0
    role: Role = "none"
    used: bool = False
    prints: frozenset[tuple[float, float]] = frozenset()

    @property
    def learns(self) -> bool:
        """Whether an optimizer that steps holds some of it, and gradients are recorded."""
        return self.held > 0 and self.grad


@dataclass(eq=False)
class Term:
    """One summand of a loss.

    Attributes:
        place: the user's line.
        function: the loss function, or the last operation.
        weight: what multiplies it.
        value: its value, without the weight; None where it is no scalar.
        labels: whether it reads the labels.
        student: whether its gradient reaches a network that learns.
        teacher: whether it is computed from the teacher's output.
        reads_student: whether its value is computed from a network that learns, with or without gradient.
        summed: how many numbers of a row it sums up; 0 for a mean.
        weight_names: variables that its weight is made of, and whether it is one minus the variable.
        factors: the numbers that its weight is the product of.
        words: what the function and the script say of such weights: docstrings, comments, help texts.
    """

    place: str | None
    function: str
    weight: float
    value: float | None
    labels: bool
    student: bool
    teacher: bool
    reads_student: bool = False
    summed: float = 0.0
    weight_names: tuple[tuple[str, bool], ...] = ()
    factors: tuple[float, ...] = ()
    words: str = ""


@dataclass(frozen=True, eq=False)
class ComparingTerm:
    """A summand of a loss that is computed from the logits of both.

    Attributes:
        function: of both logits, without the weight.
        weight: what multiplies it.
        factors: the numbers that the weight is the product of.
    """

    function: Any
    weight: float
    factors: tuple[float, ...]


@dataclass(eq=False)
class Answers:
    """The teacher's and the student's outputs for some rows of a step.

    Attributes:
        student: float [N, K].
        teacher: float [N, K]; None where no teacher gives as many numbers.
        labels: int [N]; None where there are none, -100 where a row has none.
        stored: whether the teacher's were not computed in this step.
        shape: of the student's logits, as the loss got them.
        loss: the loss as a function of both logits, and of the labels where it has them (``sources`` holds what they
            were); None where it could not be followed.
        place: the user's line where both meet.
        class_dim: which dimension of ``shape`` counts classes.
        student_call: the call that gave the student's.
        teacher_call: the call that gave the teacher's; None where they are stored.
        teacher_origin: networks that stored answers were made by.
        teacher_terms: the summands that compare both.
        ignored: bool, of the shape of the labels: rows labelled below 0; None where there are none.
    """

    student: Tensor
    teacher: Tensor | None
    labels: Tensor | None
    stored: bool
    shape: tuple[int, ...]
    loss: Any
    place: str | None
    class_dim: int
    student_call: CallFacts | None = None
    teacher_call: CallFacts | None = None
    teacher_origin: tuple[Network, ...] = ()
    ignored: Tensor | None = None
    teacher_terms: list[ComparingTerm] = field(default_factory=list)


@dataclass(eq=False)
class Oddity:
    """A value that a known function of torch is not meant for: probabilities in a softmax, logits in ``kl_div``.

    Attributes:
        kind: what is wrong, a key of the check's table.
        function: torch's function.
        place: the user's line.
        side: whose value it is.
    """

    kind: str
    function: str
    place: str | None
    side: Role


@dataclass(eq=False)
class BackwardFacts:
    """One call of ``backward``.

    Attributes:
        place: the user's line.
        value: the loss.
        terms: its summands.
        answers: logits of student and teacher, where there are both or labels.
        oddities: values that a function is not meant for.
        reads_teacher: whether the loss was computed from a teacher's output, live or stored.
        not_finite: the first operation that gave NaN or infinity: its name and line.
        gradient_finite: whether all gradients of parameters were finite afterwards.
        half: operations of the loss in float16 or bfloat16: names and lines.
        vanished: constants that are 0 in the type they were added in: value, type, line.
        scaled: whether the loss was multiplied by a gradient scaler.
    """

    place: str | None
    value: float | None
    terms: Sequence[Term]
    answers: Answers | None
    oddities: Sequence[Oddity]
    reads_teacher: bool
    not_finite: tuple[str, str | None] | None
    gradient_finite: bool
    half: Sequence[tuple[str, str | None]]
    vanished: Sequence[tuple[float, str, str | None]]
    scaled: bool = False


@dataclass(eq=False)
class Step:
    """One watched step, from one optimizer step to the next.

    Attributes:
        number: how many steps the phase had made before it.
        epoch: how often a DataLoader was begun before it, in the phase.
        calls: calls of networks, in order.
        backwards: what went backward.
        stepped: whether an optimizer stepped.
        events: ``backward``, ``clip``, ``step``, ``zero_grad``, ``unscale`` … with their lines, in order.
        left_out: parameters with a gradient that no optimizer holds: module, names, line.
        lost_terms: losses between student and teacher that were computed and reach no ``backward``.
        escaped: whether a teacher's output left torch (numpy, lists).
        learning_rate: of the first group.
        finite: whether the parameters are finite.
        moved: relative change of the student's parameters by the step before.
    """

    number: int
    epoch: int
    calls: list[CallFacts] = field(default_factory=list)
    backwards: list[BackwardFacts] = field(default_factory=list)
    stepped: bool = False
    events: list[tuple[str, str | None]] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    lost_terms: list[tuple[str, str | None]] = field(default_factory=list)
    escaped: bool = False
    learning_rate: float = 0.0


@dataclass(eq=False)
class LeftOut:
    """Parameters that got a gradient and that no optimizer holds.

    Attributes:
        network: the module that holds them.
        names: their names in it.
        share: their share of its parameters.
        role: whether they stand on the student's or the teacher's side.
        place: where the module was called.
        fresh: whether the module was neither trained nor loaded before.
    """

    network: Network
    names: tuple[str, ...]
    share: float
    role: Role
    place: str | None
    fresh: bool


@dataclass(eq=False)
class Schedule:
    """A learning-rate scheduler.

    Attributes:
        name: its class.
        place: where it was made.
        period: the number of its own steps that it is made for; None where it has none.
        steps: how often it was stepped.
        optimizer_steps: how often its optimizer was.
        rates: learning rates at some steps of the optimizer: (step, rate).
    """

    name: str
    place: str | None
    period: int | None
    steps: int = 0
    optimizer_steps: int = 0
    rates: list[tuple[int, float]] = field(default_factory=list)
    per_batch: bool = False
    step_place: str | None = None


@dataclass(eq=False)
class InferenceCall:
    """A network that was run without gradients outside a step: an evaluation, or answers to be stored.

    Attributes:
        network: the network.
        place: the user's line.
        rows: how many rows it was given.
        classes: the last dimension of its output.
        live: dropout or batch norm that acted as in training.
        prints: fingerprints of the rows, not changed by padding with zeros.
        kept: whether its outputs, or rows of them, were still there when the next training began.
    """

    network: Network
    place: str | None
    rows: int
    classes: int
    live: frozenset[str]
    prints: set[tuple[float, float]]
    kept: bool
    during: int = 0
    phases: int = 0


@dataclass(eq=False)
class Phase:
    """All that was seen of one training: the same parameters learn in it.

    Attributes:
        steps: the watched steps.
        made: how many steps were made in all.
        loader_length: batches of the DataLoader; None where none was used.
        epochs: how often a DataLoader was begun.
        finished: whether the script came to its end.
    """

    number: int
    steps: list[Step] = field(default_factory=list)
    made: int = 0
    skipped_by_scaler: int = 0
    scaler_steps: int = 0
    loader_length: int | None = None
    epochs: int = 0
    schedules: list[Schedule] = field(default_factory=list)
    asked: list[InferenceCall] = field(default_factory=list)
    finished: bool = False
    place: str | None = None
    trains: list[str] = field(default_factory=list)
    changed: dict[int, bool] = field(default_factory=dict)
    held_idle: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def distils(self) -> bool:
        """Whether a loss was computed from a teacher's output."""
        return any(backward.reads_teacher for step in self.steps for backward in step.backwards)

"""How to call a loss function of the user's: the role of each argument, hyper-parameters, value and gradients."""

from __future__ import annotations

import copy
import inspect
import re
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice, product
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from stillroom.errors import BadInput, format_error
from stillroom.losses.base import Loss, LossInputs
from stillroom.teachers.output import ModelOutput

Role = Literal["student", "teacher", "labels", "student_features", "teacher_features", "mask"]
ROLES: tuple[Role, ...] = get_args(Role)
OptionKind = Literal["temperature", "weight"]
Form = Literal["plain", "probabilities", "softened", "log_probabilities", "one_hot", "list", "output"]
# Hyper-parameters that a loss requires and gives no default.
REQUIRED = {"temperature": 4.0, "weight": 0.5}
# Assignments of roles to arguments that are tried before giving up.
MOST_TRIES = 48
FEATURE_SHAPES: tuple[tuple[int, ...], ...] = ((12, 4, 4), (24,), (5, 24))


def word_set(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


_WORDS: dict[str, frozenset[str]] = {
    "student": word_set(
        "student students stu stud st s small pred preds prediction predictions output outputs out logit logits input "
        "inputs x hyp model net online score scores zs ys ss qs"
    ),
    "teacher": word_set(
        "teacher teachers tea teach tch tchr t large big soft ref reference expert ema old prev frozen anchor zt yt ts "
        "tt pt guide soften dark"
    ),
    "labels": word_set(
        "label labels target targets tgt y yy gt truth hard true cls classes class lab onehot answer answers"
    ),
    "features": word_set(
        "feat feats feature features pooled fmap fmaps hidden hiddens emb embed embedding embeddings rep reps repr "
        "representation representations activation activations act acts hint maps fs ft f g"
    ),
    "mask": word_set("mask masks attention valid padding pad"),
    "temperature": word_set("t tau temp temperature kt temper tmp"),
    "weight": word_set(
        "alpha beta gamma lam lambda lambd lmbda lmbd weight weights w ratio coef coeff coefficient mix mixing share "
        "kd ce soft hard balance scale a b l1 l2"
    ),
    # Rows of other images: what they are, and how many, the name does not say.
    "others": word_set("queue bank memory negative negatives prototype prototypes centers centres centroids"),
    "probabilities": word_set("prob probs probability probabilities softmax dist distribution p"),
}


def words_of(name: str) -> tuple[str, ...]:
    """The words of an identifier, in lower case.

    >>> words_of("studentLogits"), words_of("y_s"), words_of("T")
    (('student', 'logits'), ('y', 's'), ('t',))
    """
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return tuple(word for word in re.split(r"[^A-Za-z]+", split.lower()) if word)


def _has(name: str, kind: str) -> bool:
    return any(word in _WORDS[kind] for word in words_of(name))


def says_probabilities(name: str) -> bool:
    """Whether an argument's name says that it holds probabilities, not logits."""
    words = set(words_of(name))
    return bool(words & _WORDS["probabilities"]) or ("soft" in words and bool(words & _WORDS["labels"]))


def may_be_probabilities(name: str) -> bool:
    """The same, or the name leaves it open: a ``target`` that is no label may be either."""
    words = set(words_of(name))
    is_open = bool(words & _WORDS["labels"]) and not words & {"teacher", "logit", "logits"}
    return says_probabilities(name) or is_open


def option_kind(name: str) -> OptionKind | None:
    """Which hyper-parameter a name stands for.

    >>> option_kind("temperature"), option_kind("kd_weight"), option_kind("eps")
    ('temperature', 'weight', None)
    """
    for kind in ("temperature", "weight"):
        if _has(name, kind):
            return kind
    return None


@dataclass(frozen=True)
class LossOption:
    """A hyper-parameter of a loss: a keyword, an attribute of the module, or a constant the function reads."""

    name: str  # its name in the user's code
    kind: OptionKind  # what it is
    value: float  # its value as the loss is given
    place: Literal["keyword", "attribute", "closure", "global"]  # where it lies
    path: tuple[str, ...] = ()  # attributes that lead to the object that holds it


@dataclass(frozen=True)
class Argument:
    """One argument that the loss is given: a tensor by its role, or a number.

    ``form`` says how it is handed over: logits, probabilities (``softened``: at the loss's own temperature) or
    log-probabilities; labels as indices or one-hot rows; features alone or in a list; logits as the ``logits`` of a
    model's output.
    """

    name: str
    role: Role | None
    value: Any = None
    form: Form = "plain"
    by_keyword: bool = False


@dataclass(frozen=True)
class LossValue:
    """What one call gave."""

    value: Tensor | None  # the scalar, detached, float64; None where the loss returned no tensor
    gradients: Mapping[Role, Tensor | None]  # ∂loss/∂argument by role; None where none reaches it
    returned: str = ""  # what came back, in words, where it is not a scalar tensor: ``a float``, ``a tensor of [6]``

    @property
    def student(self) -> Tensor | None:
        """The gradient in what the student gives: its logits, else its features."""
        found = self.gradients.get("student")
        return found if found is not None else self.gradients.get("student_features")


Tensors = Mapping[Role, Tensor]


@dataclass(frozen=True)
class LossFunction:
    """A loss of the user's, with the meaning of its arguments."""

    function: Callable[..., Any]  # what is called
    name: str  # what findings call it
    arguments: tuple[Argument, ...]  # what it is given, in order
    options: tuple[LossOption, ...] = ()  # the hyper-parameters that were found
    dtype: torch.dtype = torch.float64  # the widest type that it takes
    layout: Literal["rows", "sequence"] = "rows"  # whether it takes [B, K] or only [B, L, K]
    feature_shape: tuple[int, ...] = FEATURE_SHAPES[0]  # of one sample's features
    changed: Mapping[str, float] = field(default_factory=dict)

    @property
    def roles(self) -> frozenset[Role]:
        """The roles that it takes."""
        return frozenset(argument.role for argument in self.arguments if argument.role is not None)

    def argument(self, role: Role) -> Argument:
        """The argument of a role."""
        return next(argument for argument in self.arguments if argument.role == role)

    def name_of_role(self, role: str, default: str) -> str:
        """The user's name of a role's argument."""
        return next((argument.name for argument in self.arguments if argument.role == role), default)

    def option(self, kind: OptionKind) -> LossOption | None:
        """The first hyper-parameter of a kind."""
        return next((option for option in self.options if option.kind == kind), None)

    @property
    def temperature(self) -> float:
        """The temperature that it is called with, as an argument or by an option; 1 where it has none."""
        for argument in self.arguments:
            if argument.role is None and option_kind(argument.name) == "temperature":
                return float(self.changed.get(argument.name, argument.value))
        option = self.option("temperature")
        return 1.0 if option is None else self.changed.get(option.name, option.value)

    def having(self, **changed: float) -> LossFunction:
        """The same loss with other values of its hyper-parameters; the user's object is left as it is."""
        function = self.function
        for option in self.options:
            if option.name in changed and option.place != "keyword":
                function = _with_option(function, option, changed[option.name])
        return replace(self, function=function, changed={**self.changed, **changed})

    def in_form(self, role: Role, form: Form) -> LossFunction:
        """The same loss, one of its arguments handed over in another form."""
        return replace(
            self, arguments=tuple(replace(each, form=form) if each.role == role else each for each in self.arguments)
        )

    def raw(self, tensors: Tensors) -> Any:
        """What the loss returns for these arguments, whatever it is."""
        # Copies of the leaves: a model's logits may be changed in place, as a leaf may not.
        handed = {role: tensor.clone() for role, tensor in tensors.items()}
        args, keywords = [], {}
        for argument in self.arguments:
            given = argument.value if argument.role is None else _formed(handed[argument.role], argument, handed, self)
            if argument.by_keyword:
                keywords[argument.name] = given
            else:
                args.append(given)
        for option in self.options:
            if option.place == "keyword" and option.name in self.changed:
                keywords[option.name] = self.changed[option.name]
        return self.function(*args, **keywords)

    def __call__(self, tensors: Tensors, *, dtype: torch.dtype | None = None, also: Sequence[Role] = ()) -> LossValue:
        """Call it once.

        Args:
            tensors: the arguments by role.
            dtype: type of the floating-point ones; default: the widest that it takes.
            also: roles whose gradient is wanted as well as the student's.

        Raises:
            Exception: whatever the loss raises.
        """
        dtype = dtype or self.dtype
        leaves: dict[Role, Tensor] = {}
        for role, tensor in tensors.items():
            leaf = tensor.detach().clone()
            leaf = leaf.to(dtype) if leaf.is_floating_point() else leaf
            if role in ("student", "student_features", *also):
                leaf.requires_grad_()
            leaves[role] = leaf
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            torch.default_generator.manual_seed(0)  # not of all devices: that takes a millisecond
            value, returned = scalar_of(self.raw(leaves))
        if value is None or not value.requires_grad:
            return LossValue(value.detach().double() if value is not None else None, {}, returned)
        wanted = [role for role, leaf in leaves.items() if leaf.requires_grad]
        found = torch.autograd.grad(value, [leaves[role] for role in wanted], allow_unused=True)
        gradients = {
            role: gradient.detach().double() if gradient is not None else None
            for role, gradient in zip(wanted, found, strict=True)
        }
        return LossValue(value.detach().double(), gradients, returned)


class MakesLoss(BadInput):
    """What was given as a loss returns one."""


def scalar_of(raw: Any) -> tuple[Tensor | None, str]:
    """The scalar in what a loss returned, and in words what that was where it is no scalar tensor.

    >>> scalar_of(torch.ones(3))
    (tensor(1.), 'a tensor of [3]')
    >>> scalar_of(None)
    (None, 'None')
    """
    if isinstance(raw, Mapping):
        named = next((raw[key] for key in ("loss", "total", "total_loss") if isinstance(raw.get(key), Tensor)), None)
        raw = named if named is not None else next((each for each in raw.values() if isinstance(each, Tensor)), None)
        return scalar_of(raw)
    if hasattr(raw, "loss") and isinstance(raw.loss, Tensor):
        return scalar_of(raw.loss)
    if isinstance(raw, tuple | list) and raw and isinstance(raw[0], Tensor):
        return scalar_of(raw[0])
    if inspect.isroutine(raw) or isinstance(raw, nn.Module):
        expected = (
            "a loss: this makes one, so give its result a name, such as kd_loss = make_loss(teacher), and check that"
        )
        raise MakesLoss("loss", f"a function that returns a {type(raw).__name__}", expected)
    if not isinstance(raw, Tensor):
        kind = type(raw).__name__
        return None, "None" if raw is None else f"a {kind}"
    if raw.dim() == 0:
        return raw, ""
    return raw.mean() if raw.is_floating_point() else raw.double().mean(), f"a tensor of {list(raw.shape)}"


def _formed(tensor: Tensor, argument: Argument, leaves: Mapping[Role, Tensor], loss: LossFunction) -> Any:
    if argument.form == "probabilities":
        return tensor.softmax(-1)
    if argument.form == "softened":
        return (tensor / loss.temperature).softmax(-1)
    if argument.form == "log_probabilities":
        return tensor.log_softmax(-1)
    if argument.form == "one_hot":
        like = leaves["student"]
        rows = nn.functional.one_hot(tensor.clamp(min=0), like.shape[-1]).to(like.dtype)
        return rows * (tensor >= 0).unsqueeze(-1)
    if argument.form == "output":
        return types.SimpleNamespace(logits=tensor)
    return [tensor] if argument.form == "list" else tensor


def draw_tensors(
    loss: LossFunction | None,
    *,
    lead: tuple[int, ...],
    classes: int,
    scale: float = 3.0,
    seed: int = 0,
    feature_shape: tuple[int, ...] = FEATURE_SHAPES[0],
) -> dict[Role, Tensor]:
    """Random arguments for every role: logits [*lead, K], labels [*lead], features [B, *shape], a mask of ones."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shape = loss.feature_shape if loss is not None else feature_shape
    drawn: dict[Role, Tensor] = {
        "student": scale * normal(*lead, classes),
        "teacher": scale * normal(*lead, classes),
        "labels": torch.randint(classes, lead, generator=generator),
        "student_features": scale * normal(lead[0], *shape),
        "teacher_features": scale * normal(lead[0], *shape),
        "mask": torch.ones(lead, dtype=torch.bool),
    }
    return {role: tensor for role, tensor in drawn.items() if loss is None or role in loss.roles}


def find_loss_function(
    loss: Any,
    *,
    num_classes: int,
    roles: Mapping[str, str] | None = None,
    feature_shape: tuple[int, ...] | None = None,
    device: torch.device | None = None,
    reorder: bool = True,
) -> LossFunction:
    """Find out how a loss is called, from the names of its arguments and by trying.

    Args:
        loss: a function, a module, a class of either, or a :class:`stillroom.Loss` of logits.
        num_classes: classes of the logits that it is tried with.
        roles: argument → role, where the names do not tell.
        feature_shape: shape of one sample's features.
        device: where it is tried; the CPU by default.
        reorder: whether another order is tried where no gradient reaches the student in the likeliest.

    Raises:
        BadInput: it is no function, or no way to call it was found; the message says what was tried.

    >>> find_loss_function(lambda outputs, labels, teacher_outputs: (outputs - teacher_outputs).pow(2).mean(),
    ...                    num_classes=5).arguments[2].role
    'teacher'
    """
    name = name_of(loss)
    if isinstance(loss, type):
        loss = make_instance(loss, num_classes)
    if isinstance(loss, Loss):
        return _own_loss(loss, name)
    if not callable(loss):
        raise BadInput("loss", loss, "a function or a module: loss(student_logits, teacher_logits, labels) → scalar")
    unknown = [role for role in (roles or {}).values() if role not in ROLES]
    if unknown:
        raise BadInput.unknown("roles", unknown[0], ROLES)
    names = _argument_names(loss)
    for argument in roles or {}:
        if names and argument not in names:
            raise BadInput.unknown("roles", argument, names)
    if isinstance(loss, nn.Module):
        loss = copy.deepcopy(loss)
    options = tuple(_options(loss))
    tried: dict[str, list[str]] = {}
    silent: LossFunction | None = None
    shapes = (feature_shape,) if feature_shape is not None else FEATURE_SHAPES
    for arguments in islice(_assignments(loss, roles or {}), MOST_TRIES):
        has_features = any(each.role in ("student_features", "teacher_features") for each in arguments)
        has_logits = any(each.role in ("student", "teacher") for each in arguments)
        errors = []
        for dtype, layout, shape in product(
            (torch.float64, torch.float32),
            ("rows", "sequence") if has_logits else ("rows",),
            shapes if has_features else shapes[:1],
        ):
            function = copy.deepcopy(loss).double() if isinstance(loss, nn.Module) and dtype == torch.float64 else loss
            found = LossFunction(function, name, arguments, options, dtype, layout, shape)  # type: ignore[arg-type]
            try:
                drawn = draw_tensors(found, lead=_lead(found, num_classes), classes=num_classes)
                value = found({role: tensor.to(device) for role, tensor in drawn.items()})
            except MakesLoss:
                raise
            except Exception as error:  # a user's loss can fail in any way
                errors.append(format_error(error, 120))
                continue
            if layout == "sequence" and not roles and (maps := _as_features(found, num_classes, shapes, device)):
                return maps
            is_open = reorder and _may_differ(arguments, roles or {})
            if value.value is None or _is_felt(value) or not is_open:
                return found
            # Perhaps the tensors were handed over in the wrong order.
            silent = silent or found
            errors.append("no gradient reaches the student")
        text = ", ".join(f"{each.name}={_shown(each)}" for each in arguments)
        tried.setdefault(errors[0] if errors else "no value", []).append(f"({text})")
    if silent is not None:
        return silent
    shown = [
        f"{calls[0]}{f' and {len(calls) - 1} more' if len(calls) > 1 else ''}: {why.rstrip('.')}"
        for why, calls in tried.items()
    ]
    listed = "; ".join(shown[:4]) or "nothing: its arguments are unknown"
    hint = (
        "It is called with logits, not with models or batches: check the function that compares logits, or watch the "
        "training itself: stillroom audit train.py"
        if any("not callable" in why or "must be a mapping" in why for why in tried)
        or any(_has(each, "others") for each in names)
        else "Say what each argument is: --role a=student --role b=teacher, in Python roles={'a': 'student', …}"
    )
    raise BadInput.with_message(
        "loss",
        name,
        f"loss: {name} could not be called with logits [{6}, {num_classes}] and labels [{6}]. Tried {listed}. {hint}",
    )


def _as_features(
    loss: LossFunction, classes: int, shapes: Sequence[tuple[int, ...]], device: torch.device | None
) -> LossFunction | None:
    """Of two tensors that may not be rows of logits: the loss as one of features, where it takes maps [B, C, H, W]."""
    if set(loss.roles) != {"student", "teacher"}:
        return None
    of_features: dict[str, Role] = {"student": "student_features", "teacher": "teacher_features"}
    arguments = tuple(replace(each, role=of_features.get(each.role or "", each.role)) for each in loss.arguments)
    for shape in shapes:
        found = replace(loss, arguments=arguments, layout="rows", feature_shape=shape)
        if len(shape) == 3:
            with suppress(Exception):  # a user's loss can fail in any way
                drawn = draw_tensors(found, lead=_lead(found, classes), classes=classes)
                if found({role: tensor.to(device) for role, tensor in drawn.items()}).value is not None:
                    return found
    return None


def name_of(loss: Any) -> str:
    """What findings call a loss.

    >>> name_of(nn.KLDivLoss())
    'KLDivLoss'
    """
    name = getattr(loss, "__qualname__", None) or getattr(getattr(loss, "func", None), "__qualname__", None)
    return str(name or type(loss).__name__)


def _lead(loss: LossFunction, classes: int) -> tuple[int, ...]:
    batch = 6 if classes != 6 else 7
    return (batch,) if loss.layout == "rows" else (batch, 4 if classes != 4 else 3)


def _shown(argument: Argument) -> str:
    return argument.role if argument.role is not None else repr(argument.value)


def _is_felt(value: LossValue) -> bool:
    """Whether a gradient that is not zero reaches the student."""
    return value.student is not None and bool((value.student != 0).any())


def _may_differ(arguments: Sequence[Argument], roles: Mapping[str, str]) -> bool:
    """Whether names leave it open what a tensor is: whose, or whether logits or features."""
    named = [each for each in arguments if each.role in ("student", "teacher") and each.name not in roles]
    return not any({"logit", "logits", "outputs", "output", "student"} & set(words_of(each.name)) for each in named)


def _own_loss(loss: Loss[Any], name: str) -> LossFunction:
    """A loss of stillroom's own form; only what reads logits and labels can be checked without models."""
    required = loss.requires
    if (
        required.teacher_features
        or required.student_features
        or required.tails
        or loss.family
        not in (
            "labels",
            "logits",
            "other",
        )
    ):
        raise BadInput("loss", name, "a loss of logits; one that reads features needs its models: check its function")

    def call(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        teacher = ModelOutput(teacher_logits) if required.teacher else None
        index = torch.arange(len(labels))
        value: Tensor = loss(LossInputs(ModelOutput(student_logits), teacher, labels, index, 0.0))
        return value

    def call_with_labels(student_logits: Tensor, labels: Tensor) -> Tensor:
        return call(student_logits, student_logits, labels)

    def call_with_teacher(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return call(student_logits, teacher_logits, torch.zeros(len(student_logits), dtype=torch.long))

    reads: dict[Role, bool] = {"student": True, "teacher": required.teacher, "labels": required.labels}
    roles = [role for role, is_read in reads.items() if is_read]
    function: Callable[..., Tensor] = call
    if not required.teacher:
        function = call_with_labels
    elif not required.labels:
        function = call_with_teacher
    names = {"student": "student_logits", "teacher": "teacher_logits", "labels": "labels"}
    return LossFunction(function, name, tuple(Argument(names[role], role) for role in roles))


def make_instance(kind: type, num_classes: int) -> Any:
    """An object of a class of losses, made with its defaults; sizes and hyper-parameters without one are filled in."""
    keywords: dict[str, Any] = {}
    try:
        parameters = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError):
        parameters = ()  # type: ignore[assignment]
    for parameter in parameters:
        if parameter.default is not inspect.Parameter.empty or parameter.kind in (
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        ):
            continue
        words = set(words_of(parameter.name))
        if words & {"classes", "class", "vocab", "n", "k", "c", "num"}:
            keywords[parameter.name] = num_classes
        elif words & {"dim", "channels", "width", "size", "in", "out"}:
            keywords[parameter.name] = FEATURE_SHAPES[0][0]
        elif (option := option_kind(parameter.name)) is not None:
            keywords[parameter.name] = REQUIRED[option]
        else:
            raise BadInput(
                "loss",
                kind.__name__,
                f"an object of it, made in the file, such as `loss = {kind.__name__}(…)`: it cannot be made "
                f"without {parameter.name!r}",
            )
    try:
        return kind(**keywords)
    except Exception as error:
        raise BadInput("loss", kind.__name__, f"a class that can be made; it raised {format_error(error)}") from None


def _target(loss: Any) -> Any:
    return loss.forward if isinstance(loss, nn.Module) else loss


def _argument_names(loss: Any) -> list[str]:
    """Of a loss's arguments; none where it takes any, or has no signature."""
    try:
        parameters = inspect.signature(_target(loss)).parameters.values()
    except (TypeError, ValueError):
        return []
    is_open = any(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters)
    return [] if is_open else [each.name for each in parameters]


def _assignments(loss: Any, roles: Mapping[str, str]) -> Iterator[tuple[Argument, ...]]:
    """Ways to hand tensors to a loss, the likeliest first."""
    try:
        parameters = list(inspect.signature(_target(loss)).parameters.values())
    except (TypeError, ValueError):  # built in, without a signature
        parameters = []
    kinds = inspect.Parameter
    first = [each for each in parameters if each.default is kinds.empty and each.kind is not kinds.KEYWORD_ONLY][:2]
    if first and all(words_of(each.name)[-1:] in (("loss",), ("losses",)) for each in first):
        expected = f"a function of logits or features, not of losses that were computed before ({first[0].name})"
        raise BadInput("loss", getattr(loss, "__name__", type(loss).__name__), expected)
    named = [each for each in parameters if each.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)]
    if any(each.kind is kinds.VAR_POSITIONAL for each in parameters) or not parameters:
        named = [each for each in named if each.kind is kinds.KEYWORD_ONLY]
        for order in (("student", "teacher", "labels"), ("student", "teacher"), ("student", "labels")):
            yield tuple(Argument(role, role) for role in order)
        return
    choices: list[list[Argument | None]] = []
    required = [each for each in named if each.default is kinds.empty]
    for parameter in named:
        position = required.index(parameter) if parameter in required else None
        choices.append(_choices(parameter, position, roles, named))
    seen = set()
    deepest = 6 if len(choices) <= 5 else 3
    every = product(*(list(enumerate(each[:deepest])) for each in choices))

    def rank_of(picked: Sequence[tuple[int, Argument | None]]) -> int:
        # What is called the teacher's is not left out, while another argument takes its answer.
        usurped = any(
            argument is None and each[0] is not None and each[0].role == "teacher"
            for (_, argument), each in zip(picked, choices, strict=True)
        ) and any(argument is not None and argument.role == "teacher" for _, argument in picked)
        return sum(rank for rank, _ in picked) + 3 * usurped

    for picked in sorted(every, key=rank_of):
        arguments = tuple(argument for _, argument in picked if argument is not None)
        taken = [argument.role for argument in arguments if argument.role is not None]
        # Two labels occur under names alike (mixed images: y_a, y_b); two students or two teachers do not.
        label_names = {words_of(argument.name)[:1] for argument in arguments if argument.role == "labels"}
        unique = [role for role in taken if role != "mask" and (role != "labels" or len(label_names) > 1)]
        has_student = any(role in ("student", "student_features") for role in taken)
        key = tuple((argument.name, argument.role, str(argument.value), argument.form) for argument in arguments)
        if len(unique) == len(set(unique)) and has_student and key not in seen:
            seen.add(key)
            yield arguments


def _choices(
    parameter: inspect.Parameter, position: int | None, roles: Mapping[str, str], named: Sequence[inspect.Parameter]
) -> list[Argument | None]:
    """What a parameter may be given, the likeliest first; None leaves it out."""
    name = parameter.name
    by_keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY or position is None
    if name in roles:
        return [Argument(name, roles[name], by_keyword=by_keyword)]  # type: ignore[arg-type]
    found: list[Argument | None] = []

    def add(role: Role | None, value: Any = None, form: Any = "plain") -> None:
        each = Argument(name, role, value, form, by_keyword)
        if each not in found:
            found.append(each)

    if parameter.default is not inspect.Parameter.empty:
        if parameter.default is None:
            words = words_of(name)
            for role in ("teacher", "labels", "mask"):
                if _has(name, role) and not (role == "teacher" and words == ("t",)):
                    add(role)
        return [*found, None]
    words = words_of(name)
    if words and words[-1] in ("params", "args", "config", "cfg", "opt", "opts", "hparams", "hp"):
        return [Argument(name, None, Hyperparameters(), by_keyword=by_keyword)]
    if _has(name, "others") and not _has(name, "labels"):
        return [None]
    if _has(name, "mask"):
        add("mask")
    rest = [word for word in words if word not in _WORDS["features"] or word == "f"]
    is_feature = _has(name, "features") and not {"logit", "logits", "output", "outputs"} & set(words)
    side = _side(words)
    if is_feature and side is not None:
        # A plural may be a list, one entry a layer.
        forms = ("list", "plain") if name.endswith("s") and name[-2:-1] not in ("_", "") else ("plain", "list")
        for form in forms:
            add(f"{side}_features", form=form)  # type: ignore[arg-type]
        add(side)
    elif is_feature and not rest:
        add("student_features")
    kind = option_kind(name)
    tensors = ("teacher", "labels", "student", "features", "mask")
    is_number = kind is not None and (side is None or words == ("t",)) and not _has(name, "labels") and not is_feature
    if is_number and words != ("t",) and not any(_has(name, each) for each in tensors if each != "teacher"):
        add(None, REQUIRED[str(kind)])
    if side is not None and not (is_number and name == "T"):
        if {"list", "all", "several", "ensemble", "teachers"} & set(words):
            add(side, form="list")
        add(side)
        if {"output", "outputs", "out", "result", "results"} & set(words):
            add(side, form="output")
        if side == "teacher" and _has(name, "labels"):
            add("labels")
            add("labels", form="one_hot")
    if is_number:
        add(None, REQUIRED[str(kind)])
    if _has(name, "labels") and side != "student":
        add("labels")
        if words[-1:] in (("target",), ("targets",)):
            add("teacher")
        add("labels", form="one_hot")
        add("teacher")
    if not found and set(words) & {"epoch", "step", "iteration", "iter", "progress", "global"}:
        add(None, 1)
    if position is not None and not (is_number and len(name) > 1) and name != "T":
        # Where the name is misleading, any role, that of its position first.
        order: list[Role] = ["student", "teacher", "labels"]
        for role in sorted(order, key=lambda role: order.index(role) != position):
            add(role)
        add("labels", form="one_hot")
        add(None, 0.5)
    return found or [None]


def _side(words: Sequence[str]) -> Literal["student", "teacher"] | None:
    """Whose tensor an argument is, by its words; the last word that tells decides."""
    clear = {
        "teacher": _WORDS["teacher"] - {"soft", "t"},
        "student": word_set("student students stu stud small online zs ys ss qs fs"),
    }
    for side, of_side in clear.items():
        if any(word in of_side for word in words):
            return side  # type: ignore[return-value]
    for word in reversed(words):
        if word == "s":
            return "student"
        if word in ("t", "ft"):
            return "teacher"
    if "soft" in words:
        return "teacher"
    if any(word in _WORDS["labels"] for word in words) and not any(word in ("logits", "logit") for word in words):
        # y_pred is the student's, target_logits the teacher's.
        return "student" if any(word.startswith("pred") for word in words) else None
    if any(word in _WORDS["labels"] for word in words):
        return "teacher"
    if any(word in _WORDS["student"] for word in words):
        return "student"
    return None


class Hyperparameters(dict[str, Any]):
    """Stands for a loss's ``params``: any hyper-parameter by its usual names, as an item and as an attribute.

    >>> params = Hyperparameters()
    >>> params.temperature, params["alpha"]
    (4.0, 0.5)
    """

    def __missing__(self, key: str) -> float:
        kind = option_kind(key)
        if kind is None:
            raise KeyError(key)
        return REQUIRED[kind]

    def __getattr__(self, key: str) -> float:
        if key.startswith("__"):
            raise AttributeError(key)
        try:
            return float(self[key])
        except KeyError:
            raise AttributeError(key) from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _options(loss: Any) -> Iterator[LossOption]:
    """The hyper-parameters of a loss, by their names."""
    try:
        parameters = inspect.signature(_target(loss)).parameters.values()
    except (TypeError, ValueError):
        parameters = ()  # type: ignore[assignment]
    seen = set()
    for parameter in parameters:
        kind = option_kind(parameter.name)
        if kind is not None and _is_number(parameter.default) and parameter.kind is not parameter.POSITIONAL_ONLY:
            seen.add(parameter.name)
            yield LossOption(parameter.name, kind, float(parameter.default), "keyword")
    holder = loss if not inspect.isroutine(loss) else getattr(loss, "__self__", None)
    if holder is not None and not isinstance(holder, types.ModuleType):
        for path, key, value in _attributes(holder):
            kind = option_kind(key)
            if kind is not None and key not in seen:
                seen.add(key)
                yield LossOption(key, kind, float(value), "attribute", path)
    function = inspect.unwrap(loss) if inspect.isfunction(loss) else None
    if isinstance(function, types.FunctionType):
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
        for key, cell in cells.items():
            kind = option_kind(key)
            if kind is not None and key not in seen and _is_number(_content(cell)):
                seen.add(key)
                yield LossOption(key, kind, float(cell.cell_contents), "closure")
        for key in function.__code__.co_names:
            kind = option_kind(key)
            if kind is not None and key not in seen and _is_number(function.__globals__.get(key)):
                seen.add(key)
                yield LossOption(key, kind, float(function.__globals__[key]), "global")


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _attributes(holder: Any) -> Iterator[tuple[tuple[str, ...], str, float]]:
    for key, value in vars(holder).items() if hasattr(holder, "__dict__") else ():
        if _is_number(value) and not key.startswith("_"):
            yield (), key, value
    if isinstance(holder, nn.Module):
        for child_name, child in holder.named_children():
            for path, key, value in _attributes(child):
                yield (child_name, *path), key, value


def _with_option(function: Any, option: LossOption, value: float) -> Any:
    if option.place == "attribute":
        holder = getattr(function, "__self__", None) if inspect.isroutine(function) else function
        holder = copy.deepcopy(holder)
        owner = holder
        for key in option.path:
            owner = getattr(owner, key)
        setattr(owner, option.name, type(getattr(owner, option.name))(value))
        return getattr(holder, function.__name__) if inspect.isroutine(function) else holder
    closure, names = function.__closure__, function.__globals__
    if option.place == "closure":
        position = function.__code__.co_freevars.index(option.name)
        closure = (*closure[:position], types.CellType(value), *closure[position + 1 :])
    else:
        names = {**names, option.name: value}
    made = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, closure)
    made.__kwdefaults__ = function.__kwdefaults__
    return made

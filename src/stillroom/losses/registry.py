"""Finds the losses of this folder, reads their options from a recipe, and makes them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from inspect import isfunction
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, Union

from pydantic import BeforeValidator, Discriminator, Field, Tag, TypeAdapter, ValidationError
from torch import Tensor

from stillroom.config import bad_input
from stillroom.errors import BadInput, nearest
from stillroom.losses import loss_classes
from stillroom.losses.base import FAMILIES, Loss, LossConfig
from stillroom.models.custom import find_callable
from stillroom.tasks import Task


@cache
def losses() -> dict[str, type[Loss[Any]]]:
    """Every loss of this folder by its name, ordered by family.

    Raises:
        TypeError: a file's name, the default of its config's ``name`` and its function's name are not one.

    >>> list(losses())[:3]
    ['binary_cross_entropy', 'cross_entropy', 'label_smoothing']
    """
    found: dict[str, type[Loss[Any]]] = {}
    for class_name, module_name in loss_classes().items():
        module = importlib.import_module(module_name)
        kind, stem = getattr(module, class_name), module_name.rpartition(".")[2]
        if kind.Config.model_fields["name"].default != stem or not callable(getattr(module, stem, None)):
            raise TypeError(f"{module_name}: expected a function {stem!r}, and {stem!r} as the name in its config")
        found[stem] = kind
    return dict(sorted(found.items(), key=lambda item: (FAMILIES.index(item[1].family), item[0])))


def functions() -> dict[str, Callable[..., Tensor]]:
    """The public functions that the losses' files define, by name."""
    modules = [sys.modules[kind.__module__] for kind in losses().values()]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }


class CustomLossConfig(LossConfig):
    """A loss of your own, named module:Class."""

    name: str = Field(pattern=r"^[\w.]+:[\w.<>]+$", description="module:Class of a Loss.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the class, checked by its own config."
    )


def _named(value: Any) -> Any:
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    if not isinstance(name, str):
        given = f"{{name: {value}}}" if isinstance(value, str) and value in losses() else nearest("", losses())
        raise ValueError(f"a mapping with a name, {given}")
    if ":" not in name and name not in losses():
        raise ValueError(f"a loss that exists ({_nearest_loss(name)}), or module:Class of your own")
    return value


def _nearest_loss(name: str) -> str:
    """A hint for a name that no loss has: the loss that others call so, else the nearest.

    >>> _nearest_loss("RKD"), _nearest_loss("dkdd")
    ("'rkd' is called relational here", "did you mean 'dkd'?")
    """
    other = name.lower()
    here = next((each for each, kind in losses().items() if other in kind.other_names), None)
    return nearest(name, losses()) if here is None else f"{other!r} is called {here} here"


def _tag(value: Any) -> str:
    name = value["name"] if isinstance(value, dict) else value.name
    return "tag:custom" if ":" in name else f"tag:{name}"


def _any_loss() -> Any:
    tagged = [Annotated[kind.Config, Tag(f"tag:{name}")] for name, kind in losses().items()]
    tagged.append(Annotated[CustomLossConfig, Tag("tag:custom")])
    return Annotated[Union[tuple(tagged)], Discriminator(_tag), BeforeValidator(_named)]  # noqa: UP007


# An entry of a recipe's list of losses: the options of one of them, discriminated by name.
if TYPE_CHECKING:
    AnyLoss: TypeAlias = LossConfig
else:
    AnyLoss = _any_loss()


def loss_class(config: LossConfig) -> type[Loss[Any]]:
    """The class of a recipe's entry, for its flags.

    A custom loss is not imported for that: it gives the base class, whose flags claim nothing.

    >>> from stillroom.losses.kl import KLConfig
    >>> loss_class(KLConfig()).kl_like
    True
    """
    return losses().get(config.name, Loss)


def is_custom(config: LossConfig) -> bool:
    """Whether a recipe's entry names a class of the user's, module:Class."""
    return isinstance(config, CustomLossConfig)


def build_loss(config: LossConfig, field: str = "loss") -> Loss[Any]:
    """Make the loss a config describes.

    >>> from stillroom.losses.kl import KLConfig
    >>> build_loss(KLConfig(temperature=2)).config.temperature
    2.0
    """
    if isinstance(config, CustomLossConfig):
        return _build_custom(config, field)
    return losses()[config.name](config)


def build_losses(configs: Sequence[LossConfig]) -> list[Loss[Any]]:
    """Make all terms of the training loss, in order."""
    return [build_loss(config, f"losses.{position}") for position, config in enumerate(configs)]


def describe(loss: Loss[Any]) -> dict[str, Any]:
    """The recipe entry that makes this loss again."""
    dumped: dict[str, Any] = loss.config.model_dump(mode="json")
    kind = type(loss)
    if kind in losses().values():
        return dumped
    shared = {key: value for key, value in dumped.items() if key in ("weight", "teacher")}
    options = {key: value for key, value in dumped.items() if key not in ("name", *shared)}
    name = getattr(loss, "path", None) or f"{kind.__module__}:{kind.__qualname__}"
    return {"name": name, **shared, "options": options}


def parse_loss(content: Mapping[str, Any]) -> LossConfig:
    """The config of a recipe's entry.

    >>> parse_loss({"name": "kl", "temperature": 2}).weight
    1.0
    """
    config: LossConfig = TypeAdapter(AnyLoss).validate_python(content)
    return config


def labels_alone() -> list[dict[str, Any]]:
    """The list of losses of a recipe that learns from labels only.

    >>> labels_alone()
    [{'name': 'cross_entropy'}]
    """
    return [{"name": name} for name, kind in losses().items() if kind.rescaling_part == "labels"]


def names_for_task(task: Task) -> list[str]:
    """The losses that make sense for a task, those of labels first, then of logits.

    >>> names_for_task("regression")[:3]
    ['target_mse', 'logit_mse', 'activation_boundary']
    """
    order = ("labels", "logits")
    found = [(kind.family, name) for name, kind in losses().items() if task in kind.tasks]
    return [name for _, name in sorted(found, key=lambda one: (one[0] not in order, one[0] != order[0]))]


def default_losses(task: Task, *, teacher: bool) -> list[dict[str, Any]]:
    """The entries of a recipe that names no losses, for labels alone or with a teacher.

    >>> default_losses("multi_label", teacher=True)
    [{'name': 'binary_cross_entropy', 'weight': 0.1}, {'name': 'bce_kl', 'weight': 0.9}]
    """
    if task == "single_label":
        labels, logits = labels_alone()[0]["name"], default_teacher_loss()
    else:
        labels, name = {
            "multi_label": ("binary_cross_entropy", "bce_kl"),
            "regression": ("target_mse", "logit_mse"),
        }[task]
        logits = {"name": name, "weight": 0.9}
    return [{"name": labels, "weight": 0.1}, logits] if teacher else [{"name": labels}]


def default_teacher_loss() -> dict[str, Any]:
    """The entry of a recipe for the divergence from a teacher, as is usual with labels.

    >>> default_teacher_loss()
    {'name': 'kl', 'weight': 0.9, 'temperature': 4}
    """
    names = (name for name, kind in losses().items() if kind.rescaling_part == "teacher")
    return {"name": next(names), "weight": 0.9, "temperature": 4}


def _build_custom(config: CustomLossConfig, field: str) -> Loss[Any]:
    kind = find_callable(config.name, field=field)
    if not (isinstance(kind, type) and issubclass(kind, Loss)):
        raise BadInput(f"{field}.name", config.name, "a subclass of stillroom.Loss")
    options: dict[str, Any] = {"weight": config.weight, "teacher": config.teacher, **config.options}
    if kind.Config.model_fields["name"].is_required():
        options["name"] = config.name.partition(":")[2]
    try:
        return kind(kind.Config.model_validate(options))
    except ValidationError as error:
        raise bad_input(error, kind.Config, f"{field}.options") from None

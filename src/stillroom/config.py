"""The base class of all options, and one-line errors for wrong ones: the field, the value, what was expected."""

from __future__ import annotations

import types
import typing
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Discriminator, ValidationError, ValidationInfo, field_validator

from stillroom.errors import BadInput, cut, nearest, shorten


class Config(BaseModel):
    """Typed options: unknown names are refused, values are checked, nothing changes after it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_not_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # YAML reads `yes` and `on` as true, and pydantic would quietly take true for 1.
        field = cls.model_fields.get(info.field_name or "")
        if isinstance(value, bool) and field is not None and not _admits_bool(field.annotation):
            raise ValueError("a number or a name, not true/false")
        return value


def _admits_bool(annotation: Any) -> bool:
    if annotation in (bool, Any, object):
        return True
    if get_origin(annotation) in (types.UnionType, typing.Union):
        return any(_admits_bool(part) for part in get_args(annotation))
    if get_origin(annotation) is Literal:
        return any(isinstance(part, bool) for part in get_args(annotation))
    return False


_PLAIN = {
    "model_type": "a mapping of its fields",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}


def bad_input(error: ValidationError, model: type[BaseModel], prefix: str = "") -> BadInput:
    """Turn pydantic's first error into one line that names the field, the value and what was expected.

    Args:
        error: what pydantic raised.
        model: the model that was being made, for the nearest valid name.
        prefix: put before the field's path.
    """
    # A misspelt name also leaves its field missing: tell the misspelling, which is the cause.
    first = min(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
    # Union branches add their own tag to the path; what a user wrote has only names and positions.
    where = [str(part) for part in first["loc"] if not _is_tag(part)]
    field = cut(".".join([*([prefix] if prefix else []), *where]), 200) or "recipe"
    kind = first["type"]
    context = first.get("ctx", {})
    value = first.get("input")
    if kind == "extra_forbidden":
        known = _known_names(model, first["loc"][:-1])
        return _unknown_name(field, where[-1], known)
    if kind == "missing":
        return BadInput.with_message(field, None, f"{field}: missing; this field is required")
    if kind == "value_error" and isinstance(context.get("error"), BadInput):
        # A validator that names the inner field itself.
        inner: BadInput = context["error"]
        return BadInput(".".join([*([prefix] if prefix else []), *where, inner.field]), inner.value, inner.expected)
    if kind == "value_error":
        return BadInput(field, value, str(context.get("error", first["msg"])))
    if kind in _PLAIN:
        return BadInput(field, value, _PLAIN[kind])
    if kind == "too_short":
        return BadInput(field, value, f"at least {context['min_length']} item")
    if kind == "literal_error":
        names = [part.strip(" '") for part in str(context["expected"]).replace(" or ", ",").split(",")]
        # As YAML writes them.
        names = [name.lower() if name in ("True", "False") else name for name in names]
        return BadInput.unknown(field, value, names) if len(names) > 1 else BadInput(field, value, names[0])
    message = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return BadInput(field, value, message)


def by_shape(kind: str) -> Discriminator:
    """Tell ``tag:table`` (a mapping, or its model) from ``tag:{kind}``, so that an error speaks of what was meant."""
    return Discriminator(lambda value: "tag:table" if isinstance(value, dict | BaseModel) else f"tag:{kind}")


def _unknown_name(field: str, name: str, known: list[str]) -> BadInput:
    hint = nearest(name, known) if known else "no such field"
    return BadInput.with_message(field, name, f"{field}: unknown field {shorten(name)}; {hint}")


def _is_tag(part: int | str) -> bool:
    return isinstance(part, str) and part.startswith("tag:")


def _known_names(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The valid field names at a place of a nested model."""
    candidates: list[Any] = [model]
    for part in location:
        found: list[Any] = []
        for candidate in candidates:
            if isinstance(part, str) and part in candidate.model_fields:
                found += _models_in(candidate.model_fields[part].annotation)
        candidates = found or candidates
    tags = [part for part in location if isinstance(part, str)]
    named = [c for c in candidates if tags and _tag_of(c) == tags[-1].removeprefix("tag:")]
    return sorted({name for candidate in named or candidates for name in candidate.model_fields})


def _tag_of(model: Any) -> str | None:
    field = model.model_fields.get("name")
    return str(field.default) if field is not None else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]

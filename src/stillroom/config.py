"""The base class of all options, and one-line errors for wrong ones: the field, the value, what was expected."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Discriminator, ValidationError, ValidationInfo, field_validator

from stillroom.errors import BadInput, cut, nearest, shorten


class Config(BaseModel):
    """Typed options: unknown names are refused, values are checked, nothing changes after it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)
    # What other libraries call a field of this class: an unknown name that is one of these is met with the field.
    synonyms: ClassVar[Mapping[str, str]] = {}

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
        hint = _hint(model, where[-1], _known_names(model, first["loc"][:-1]), prefix)
        return BadInput.with_message(field, where[-1], f"{field}: unknown field {shorten(where[-1])}; {hint}")
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


def _hint(model: type[BaseModel], name: str, known: list[str], prefix: str) -> str:
    """The field that an unknown name may mean: a like one of its own place, else one of its name anywhere."""
    paths = list(_field_paths(model))
    alike = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    meant = name if not alike else ""
    found = sorted({path for last, path in paths if last == meant}, key=lambda path: (path.count("."), path))
    if not found and not (known and nearest(name, known).startswith("did you mean")):
        close = difflib.get_close_matches(name, {last for last, _ in paths}, n=1, cutoff=0.8)
        found = sorted({path for last, path in paths if [last] == close}, key=lambda path: (path.count("."), path))
    if found:
        whole = [f"{prefix}.{path}" if prefix else path for path in found[:3]]
        return f"did you mean {' or '.join(map(repr, whole))}?"
    return nearest(name, known) if known else "no such field"


def _field_paths(
    model: type[BaseModel], before: str = "", above: tuple[type[BaseModel], ...] = ()
) -> Iterator[tuple[str, str]]:
    """Every field and synonym of a model, at any depth, by its last name; items of lists and mappings are ``NAME``."""
    for name, field in model.model_fields.items():
        yield name, f"{before}{name}"
        parts = (field.annotation, *get_args(field.annotation))
        item = "NAME." if any(get_origin(part) in (tuple, dict) for part in parts) else ""
        for inner in _models_in(field.annotation):
            if inner not in above:
                yield from _field_paths(inner, f"{before}{name}.{item}", (*above, inner))
    if issubclass(model, Config):
        yield from ((other, f"{before}{field}") for other, field in model.synonyms.items())


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

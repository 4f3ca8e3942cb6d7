"""Conventions of all file models: strict reading with one clear error, writing in a fixed order, no NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, TypeAdapter, ValidationError

from stillroom.config import bad_input
from stillroom.errors import BadInput
from stillroom.files import read_bytes, write_json

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound="JsonObject")

# JSON has lists only: a tuple field of a strict model must take one.
Items = Annotated[tuple[T, ...], Strict(False)]
Couple = Annotated[tuple[T, T], Strict(False)]


def _none_is_empty(value: Any) -> Any:
    return () if value is None else value


# A list that may be missing or null, which both read as empty.
OptionalItems = Annotated[tuple[T, ...], Strict(False), BeforeValidator(_none_is_empty)]

Percent = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Correlation = Annotated[float, Field(ge=-1, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]

# Control characters, characters that reverse the direction of text, and lone surrogates, which UTF-8 cannot hold.
_UNPRINTABLE = dict.fromkeys(
    [
        *range(9),
        *range(11, 32),
        *range(127, 160),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        *range(0xD800, 0xE000),
    ],
    "\ufffd",
)


class JsonObject(BaseModel):
    """An object inside a file, or a line of one.

    Types are strict (no text for a number, no true for 1), NaN and infinity are refused, unknown fields are ignored,
    nothing changes once made. Fields are declared in the order in which the file has them.
    """

    model_config = ConfigDict(
        extra="ignore", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True, protected_namespaces=()
    )

    def as_dict(self) -> dict[str, Any]:
        """The JSON object to write: fields in order of declaration, those that were never given left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class JsonFile(JsonObject):
    """A whole JSON file, with the version of its format in ``schema``; another version is refused."""

    version: Literal[1] = Field(default=1, alias="schema")

    def as_dict(self) -> dict[str, Any]:
        """The JSON object to write, ``schema`` first."""
        return {"schema": self.version, **super().as_dict()}


def read_json(model: type[ModelT], path: Path) -> ModelT:
    """Read a JSON file.

    Raises:
        BadInput: it cannot be read, is no JSON object, or a field is wrong; names the file, the field, the value and
            what was expected.
    """
    return parse(model, read_object(path), path)


def read_optional(model: type[ModelT], path: Path) -> ModelT | None:
    """Read a JSON file that may be missing.

    Returns:
        The model; None where there is no such file.

    Raises:
        BadInput: as :func:`read_json`.
    """
    return read_json(model, path) if path.is_file() else None


def read_jsonl(model: Any, path: Path, *, skip_damaged: bool = False) -> list[Any]:
    """Read a log of one JSON object a line.

    Args:
        model: what a line holds: a model, or a union of models.
        path: the file; none means no lines.
        skip_damaged: leave out lines that cannot be read, such as the half line that a killed run leaves.

    Raises:
        BadInput: a line is wrong, and ``skip_damaged`` is off; names the file, the line and the field.
    """
    adapter = TypeAdapter(model)
    found = []
    for number, line in _lines(path, skip_damaged):
        try:
            found.append(_validate(adapter, parse_object(line, path, number), f"{path}: line {number}"))
        except BadInput:
            if not skip_damaged:
                raise
    return found


def parse(model: type[ModelT], content: Any, where: Path | str) -> ModelT:
    """Check an object that was read already.

    Raises:
        BadInput: naming the file, the field, the value and what was expected.
    """
    if issubclass(model, JsonFile) and isinstance(content, dict) and "schema" not in content:
        raise BadInput.with_message(f"{where}: schema", None, f"{where}: schema: missing; this field is required")
    found: ModelT = _validate(TypeAdapter(model), content, str(where))
    return found


def write(path: Path, document: JsonObject) -> None:
    """Write a model as indented JSON, atomically.

    Raises:
        ValueError: a number in it is not finite.
    """
    write_json(path, document.as_dict(), checksum=True)


def json_line(line: JsonObject) -> str:
    """One line of a log, with its newline.

    >>> class Step(JsonObject):
    ...     step: int
    >>> json_line(Step(step=3))
    '{"step": 3}\\n'
    """
    return json.dumps(line.as_dict(), allow_nan=False, ensure_ascii=False) + "\n"


def six_digits(value: float) -> float:
    """A number to six significant digits: what lies beyond them is the machine's rounding.

    >>> six_digits(0.12345678)
    0.123457
    """
    return float(f"{value:.6g}")


def six_digits_or_none(value: float | None) -> float | None:
    """The same; None for None, NaN and infinity."""
    return None if value is None or not math.isfinite(value) else six_digits(value)


def read_text(path: Path) -> str:
    """A file's text; BadInput where it cannot be read, is no text, or is not what was written."""
    try:
        return read_bytes(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise BadInput(path.name, str(path), f"a readable file ({reason})") from None


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds, its texts cleaned; BadInput where it cannot be read, or is no JSON object."""
    return parse_object(read_text(path), path)


def parse_object(text: str, path: Path, line: int | None = None) -> dict[str, Any]:
    """The JSON object in a text, its texts cleaned.

    Raises:
        BadInput: it is no JSON object.
    """
    place = "" if line is None else f" in line {line}"
    try:
        content = json.loads(text)
    # json raises ValueError also for numbers of thousands of digits, RecursionError for nesting beyond the stack.
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", type(error).__name__)
        raise BadInput(path.name, str(path), f"a JSON object{place} ({reason})") from None
    if not isinstance(content, dict):
        raise BadInput(path.name, str(path), f"a JSON object{place}")
    return dict(clean(content))


def clean(content: Any) -> Any:
    """Replace characters that cannot be printed or that turn the text around them; mappings and lists within too.

    >>> clean({"a\\x00": ["b\\ud800"]})
    {'a\ufffd': ['b\ufffd']}
    """
    if isinstance(content, str):
        return content.translate(_UNPRINTABLE)
    if isinstance(content, dict):
        return {clean(key): clean(value) for key, value in content.items()}
    if isinstance(content, list):
        return [clean(item) for item in content]
    return content


def _lines(path: Path, skip_damaged: bool) -> Iterator[tuple[int, str]]:
    if not path.is_file():
        return
    text = read_bytes(path).decode("utf-8", errors="replace") if skip_damaged else read_text(path)
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def _validate(adapter: TypeAdapter[Any], content: Any, where: str) -> Any:
    """Validate, and turn what is wrong into one line."""
    try:
        return adapter.validate_python(content)
    except ValidationError as error:
        raise bad_input(error, JsonObject).within(where) from None
    except OverflowError:
        raise BadInput(where, "a number without end", "numbers that a float can hold") from None


def is_finite(value: object) -> bool:
    """Whether a value of a JSON file is a number that a float can hold.

    >>> is_finite(1.5), is_finite(True), is_finite(float("nan")), is_finite(10**400)
    (True, False, False, False)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of more than 308 digits
        return False

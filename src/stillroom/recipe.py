"""A recipe: everything that decides one run. Read from YAML, changed by overrides, written back resolved."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticSerializationError

from stillroom.config import Config, bad_input
from stillroom.continual.config import IncrementalConfig
from stillroom.continual.presets import PRESETS, apply_preset
from stillroom.data.config import DataConfig
from stillroom.errors import BadInput, format_error, nearest, shorten
from stillroom.files import canonical_json, digest, parse_yaml
from stillroom.losses.cross_entropy import CrossEntropyConfig
from stillroom.losses.registry import AnyLoss, default_losses
from stillroom.models.config import ModelConfig, PreprocessConfig
from stillroom.teachers.config import CacheConfig, TeacherConfig
from stillroom.train.config import TrainingConfig
from stillroom.wording import whole_number

_NAME = re.compile(r"[\w-]+")
_TERMS: TypeAdapter[tuple[AnyLoss, ...]] = TypeAdapter(tuple[AnyLoss, ...])


class Recipe(Config):
    """One run, whole: the same recipe on the same machine gives the same bytes."""

    name: str | None = Field(
        None,
        max_length=80,
        description="What reports call this run; left out: student ← teacher, or student from labels.",
    )
    data: DataConfig = Field(default_factory=DataConfig, description="Where the images come from.")
    teacher: TeacherConfig | None = Field(
        None, description="The model that teaches; left out: labels alone, or several `teachers`."
    )
    teachers: dict[str, TeacherConfig] | None = Field(
        None, description="Several models that teach, by names of yours; each loss names the one that it reads."
    )
    student: ModelConfig = Field(description="The model that learns.")
    losses: tuple[AnyLoss, ...] = Field((CrossEntropyConfig(),), min_length=1, description="The terms of the loss.")
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="How it is trained.")
    cache: CacheConfig = Field(default_factory=CacheConfig, description="Whether the teachers' outputs are stored.")
    incremental: IncrementalConfig | None = Field(
        None, description="Classes come in tasks, for `stillroom incremental`; left out: all at once."
    )
    seed: int = Field(
        0, ge=0, description="Seed of the student's initial weights, of the order of images and of dropout."
    )

    @model_validator(mode="after")
    def _losses_differ(self) -> Recipe:
        terms = [(loss.name, loss.teacher) for loss in self.losses]
        for name, teacher in terms:
            if (count := terms.count((name, teacher))) > 1:
                raise ValueError(f"each loss once for each teacher, but {name!r} is there {count} times")
            if teacher is not None and teacher not in self.all_teachers:
                expected = nearest(teacher, self.all_teachers) if self.all_teachers else "the recipe has no teacher"
                raise ValueError(f"losses.{name}.teacher that the recipe has ({expected}), not {teacher!r}")
        return self

    @model_validator(mode="after")
    def _one_form(self) -> Recipe:
        if self.teachers is not None:
            if self.teacher is not None:
                raise ValueError("either teacher, or teachers by names, not both")
            wrong = next((name for name in self.teachers if not _NAME.fullmatch(name)), None)
            if not self.teachers or wrong is not None:
                raise ValueError(f"teachers by names of letters, digits, - and _, not {wrong or 'none'!r}")
            if any(name == "student" and config.learns for name, config in self.teachers.items()):
                raise ValueError("another name than student for a teacher that learns: its weights lie next to those")
        for name, config in self.all_teachers.items():
            others = [other for other, each in self.all_teachers.items() if each.members is None]
            for member in config.members or ():
                if member not in others:
                    hint = nearest(member, others) if others else "the recipe has no other teacher"
                    raise BadInput(f"{self.teacher_field(name)}.members", member, f"a teacher of the recipe: {hint}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _preset_is_written_out(cls, given: Any) -> Any:
        return apply_preset(_with_losses_of_task(given))

    @field_validator("incremental")
    @classmethod
    def _fits_tasks(cls, incremental: IncrementalConfig | None, info: ValidationInfo) -> IncrementalConfig | None:
        if incremental is None:
            return None
        if (info.data.get("teacher") or info.data.get("teachers")) and incremental.task is None:
            raise ValueError("no teacher in the recipe: the teacher of a task is the student of the task before")
        preset = PRESETS.get(incremental.preset or "")
        losses = _TERMS.validate_python(preset.losses) if preset is not None else ()
        if preset is not None and info.data.get("losses", losses) != losses:
            raise ValueError(f"no losses with preset {incremental.preset}, which sets them; or no preset")
        student, training = info.data.get("student"), info.data.get("training")
        data = info.data.get("data")
        if data is not None and data.task not in (None, "single_label"):
            raise ValueError(f"no data.task {data.task}: tasks are made of classes of which each image has one")
        if data is not None and (data.labelled is not None or data.unlabelled is not None):
            raise ValueError("neither data.labelled nor data.unlabelled: tasks are made of labels")
        if data is not None and data.validation is not None:
            raise ValueError("no data.validation: each task is measured on the test images of its classes")
        if student is not None and isinstance(student.preprocess, PreprocessConfig) and student.preprocess.class_order:
            raise ValueError("no student.preprocess.class_order in the recipe: tasks order the classes")
        if training is not None and training.record_gradient_rescaling:
            raise ValueError("training.record_gradient_rescaling false: ω needs a teacher that knows every label")
        return incremental

    @model_serializer(mode="wrap")
    def _parts_only_where_used(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A recipe without tasks, and one of a single teacher, has neither key.
        written: dict[str, Any] = handler(self)
        for key in ("incremental", "teachers"):
            if getattr(self, key) is None:
                written.pop(key, None)
        return written

    @property
    def all_teachers(self) -> dict[str, TeacherConfig]:
        """Every teacher by its name; that of the short form ``teacher:`` is named ``teacher``."""
        if self.teachers is not None:
            return dict(self.teachers)
        return {} if self.teacher is None else {"teacher": self.teacher}

    @property
    def model_teachers(self) -> list[str]:
        """Names of the teachers with logits that can be run here."""
        return [name for name, config in self.all_teachers.items() if config.is_model and not config.embeddings]

    @property
    def default_teacher(self) -> str | None:
        """The teacher that a loss reads which names none: the only one that is no member of another, if there is."""
        members = {member for config in self.all_teachers.values() for member in config.members or ()}
        heads = [name for name in self.all_teachers if name not in members]
        return heads[0] if len(heads) == 1 else None

    def teacher_field(self, name: str) -> str:
        """The path of a teacher's options, for messages: ``teacher``, or ``teachers.NAME``."""
        return "teacher" if self.teachers is None else f"teachers.{name}"

    def with_teachers(self, teachers: Mapping[str, TeacherConfig]) -> Recipe:
        """The recipe with other options of its teachers, in the form that it has."""
        if self.teachers is None:
            return self.model_copy(update={"teacher": teachers.get("teacher")})
        return self.model_copy(update={"teachers": dict(teachers)})

    def hash(self) -> str:
        """SHA-256 of the recipe's content, 64 hex digits."""
        return digest(canonical_json(self.model_dump(mode="json")))

    def to_yaml(self) -> str:
        """The recipe as YAML, every field written out."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _with_losses_of_task(given: Any) -> Any:
    """A recipe that names no losses with those that learn from its labels, where these are not one class an image."""
    data = given.get("data") if isinstance(given, dict) else None
    task = data.get("task") if isinstance(data, dict) else None
    if task not in ("multi_label", "regression") or given.get("losses") is not None:
        return given
    return {**given, "losses": default_losses(task, teacher=False)}


def parse_recipe(content: object) -> Recipe:
    """Check a recipe given as plain objects.

    Raises:
        BadInput: naming the field, the value, what was expected and the nearest valid name.

    >>> parse_recipe({"student": {"name": "resnet8"}, "sead": 1})
    Traceback (most recent call last):
    ...
    stillroom.errors.BadInput: sead: unknown field 'sead'; did you mean 'seed'?
    """
    if not isinstance(content, dict):
        raise BadInput("recipe", content, "a mapping with at least `student`")
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise bad_input(error, Recipe) from None
    except ValueError as error:  # such as a number of thousands of digits, which cannot be written
        raise BadInput("recipe", content, f"values that can be written ({format_error(error)})") from None
    try:
        recipe.hash()
    except (PydanticSerializationError, UnicodeError, TypeError, ValueError):
        # Free options are the one place where other types of YAML, such as dates, get through.
        raise BadInput("recipe", content, "options of text, numbers, true/false, lists and mappings alone") from None
    return recipe


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply ``key.path=value`` overrides.

    Args:
        path: a YAML file.
        overrides: such as ``training.epochs=3`` or ``losses.kl.temperature=2``.

    Raises:
        BadInput: the file cannot be read, is not YAML, or holds a bad value.
    """
    content = read_yaml(path, "recipe", "at least `student`")
    if {"recipe", "methods"} <= content.keys():
        raise BadInput("recipe", str(path), "a recipe; this file is a study, which `stillroom compare` runs")
    for override in overrides:
        apply_override(content, override)
    return parse_recipe(content)


def read_yaml(path: Path, field: str, holding: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        path: the file.
        field: what an error calls it.
        holding: what the mapping needs, for the error.

    Raises:
        BadInput: it cannot be read, is not YAML, names a key twice, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise BadInput(field, str(path), f"a readable {field} file ({reason})") from None
    try:
        content = parse_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise BadInput(
            field, str(path), f"valid YAML ({getattr(error, 'problem', None) or 'cannot be parsed'}{where})"
        ) from None
    if not isinstance(content, dict):
        raise BadInput(field, shorten(content, 40), f"a mapping with {holding}, in {path}")
    return content


def apply_override(content: dict[str, Any], override: str) -> None:
    """Set one value in place: ``a.b=value``, the value read as YAML; items of a list go by position or by their name.

    >>> recipe = {"losses": [{"name": "kl", "temperature": 4}]}
    >>> apply_override(recipe, "losses.kl.temperature=2"); recipe["losses"][0]["temperature"]
    2
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise BadInput("override", override, "key.path=value, such as training.epochs=3")
    if not text.strip():
        # Of an unset variable of a shell, training.epochs=$EPOCHS, YAML would make null, which means the default.
        raise BadInput(key.strip(), text, f"a value after the equals sign; {key.strip()}=null for none")
    try:
        value = parse_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise BadInput(key, text, "a value in YAML, such as 3, true or [1, 2]") from None
    set_value(content, key.strip(), value, override)


def set_value(content: dict[str, Any], key: str, value: Any, shown: object = None) -> None:
    """Set the value at ``a.b`` in place, making the mappings that lead there.

    Args:
        content: a recipe as plain objects.
        key: its path; items of a list go by position or by their name.
        value: what to put there.
        shown: what an error shows; the value where left out.

    Raises:
        BadInput: the path leads through something that has no fields, or to no item of a list.
    """
    shown = value if shown is None else shown
    parts = key.split(".")
    place: Any = content
    for position, part in enumerate(parts[:-1]):
        here = ".".join(parts[: position + 1])
        if isinstance(place, dict):
            if here == "losses" and place.get(part) is None and whole_number(parts[position + 1]) is None:
                raise BadInput(key, shown, f"losses in the recipe; it lists none: losses=[{{name: {parts[1]}}}]")
            if place.get(part) is None:
                place[part] = {}
            place = place[part]
        elif isinstance(place, list):
            place = place[_position(place, part, here)]
        else:
            raise BadInput(here, shown, f"a field of a mapping, but {'.'.join(parts[:position])} is {shorten(place)}")
    if isinstance(place, dict):
        place[parts[-1]] = value
    elif isinstance(place, list):
        place[_position(place, parts[-1], key)] = value
    else:
        raise BadInput(key, shown, f"a field of a mapping, but {'.'.join(parts[:-1])} is {shorten(place)}")


def _position(items: list[Any], part: str, where: str) -> int:
    position = whole_number(part)
    if position is not None and position < len(items):
        return position
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if part in names:
        return names.index(part)
    valid = ", ".join([*(str(name) for name in names if name), f"0 … {len(items) - 1}"])
    raise BadInput(where, part, f"an item of the list by name or position: {valid}")


def schema_of(model: type[Config], title: str) -> str:
    """The JSON Schema of a file's content, for editors."""
    schema = model.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = title
    return json.dumps(schema, indent=2, ensure_ascii=False)

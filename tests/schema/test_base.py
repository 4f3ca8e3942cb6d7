"""Reading and writing files through their models: strict types, one clear line for what is wrong, fixed bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError, model_validator

from stillroom.errors import BadInput
from stillroom.schema.base import (
    Items,
    JsonFile,
    JsonObject,
    Percent,
    parse,
    read_json,
    read_jsonl,
    read_optional,
    write,
)


class Inner(JsonObject):
    share: Percent
    names: Items[str] = ()


class Example(JsonFile):
    count: int
    mean: float | None = None
    inner: Inner | None = None

    @model_validator(mode="after")
    def _check(self) -> Example:
        if self.count == 13:
            raise BadInput("count", self.count, "another number")
        return self


@pytest.mark.parametrize(
    ("content", "field", "expected"),
    [
        ({}, "count", "required"),
        ({"count": "3"}, "count", "whole number"),
        ({"count": True}, "count", "whole number"),
        ({"count": 1.0}, "count", "whole number"),
        ({"count": 1, "mean": float("nan")}, "mean", "finite"),
        ({"count": 1, "mean": float("inf")}, "mean", "finite"),
        ({"count": 1, "mean": 10**400}, "mean", "number"),
        ({"count": 1, "inner": []}, "inner", "mapping"),
        ({"count": 1, "inner": {"share": 101}}, "inner.share", "100"),
        ({"count": 1, "inner": {"share": 1, "names": ["a", 2]}}, "inner.names.1", "text"),
        ({"count": 13}, "count", "another number"),
        ({"count": 1, "schema": 2}, "schema", "1"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(content: Any, field: str, expected: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(Example, {"schema": 1, **content}, "example.json")
    assert f"example.json: {field}: " in str(caught.value)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_a_version_is_refused() -> None:
    with pytest.raises(BadInput, match=r"e\.json: schema: missing"):
        parse(Example, {"count": 1}, "e.json")


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, '{"count": ' + "9" * 5000 + "}", "\ud800"])
def test_what_is_no_json_object_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "example.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(BadInput) as caught:
        read_json(Example, path)
    assert "example.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_written_reads_back_with_fields_in_order_and_absent_ones_left_out(tmp_path: Path) -> None:
    path = tmp_path / "example.json"
    assert read_optional(Example, path) is None
    write(path, Example(inner=Inner(share=50.0, names=("ä",)), count=2))
    assert path.read_text(encoding="utf-8").startswith('{\n  "schema": 1,\n  "count": 2,\n  "inner": {')
    assert "mean" not in json.loads(path.read_text(encoding="utf-8"))
    again = read_json(Example, path)
    assert again == Example(count=2, inner=Inner(share=50.0, names=("ä",)))
    with pytest.raises(ValidationError, match="frozen"):
        again.count = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Example(count=1, mean=float("nan"))


def test_unknown_fields_are_ignored_and_unprintable_characters_replaced(tmp_path: Path) -> None:
    path = tmp_path / "example.json"
    content = {"schema": 1, "count": 1, "later": {}, "inner": {"share": 1, "names": ["a\x00\u202e"]}}
    path.write_text(json.dumps(content), encoding="utf-8")
    found = read_json(Example, path).inner
    assert found is not None
    assert found.names == ("a\ufffd\ufffd",)


def test_a_log_names_its_line_or_leaves_out_damaged_ones(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert read_jsonl(Inner, path) == []
    path.write_bytes(b'{"share": 1}\n\n{"share": 2}\n{"share": "x"}\n{"sha\xff')
    with pytest.raises(BadInput, match=r"log\.jsonl"):
        read_jsonl(Inner, path)
    assert [line.share for line in read_jsonl(Inner, path, skip_damaged=True)] == [1, 2]
    path.write_text('{"share": 1}\n{"share": "x"}\n', encoding="utf-8")
    with pytest.raises(BadInput, match="line 2: share"):
        read_jsonl(Inner, path)

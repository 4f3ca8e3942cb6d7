"""Faults of texts, each planted for a teacher that is right on every text: another tokenizer, case, length, classes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stillroom.data.config import TextConfig
from stillroom.data.text import train_word_pieces
from stillroom.diagnose.recipe import diagnose_recipe
from stillroom.models.text import BagOfEmbeddings
from stillroom.models.weights import save_weights
from stillroom.recipe import apply_override, parse_recipe
from stillroom.schema.diagnosis import Finding

pytest.importorskip("tokenizers")
KEYS = {"animal": ("cat", "dog", "fox"), "number": ("many", "count", "few"), "place": ("city", "river", "lake")}
FILLER = ("what", "is", "the", "of", "a", "in", "name", "did", "how", "who", "big", "small", "old", "new")


def write_texts(folder: Path, *, capital: bool = False) -> None:
    """Texts whose last word says their class, so that a text that is cut does not."""
    draw = random.Random(0)
    for split, count in (("train", 150), ("test", 90)):
        lines = ["text,label"]
        for row in range(count):
            label = list(KEYS)[row % 3]
            words = [*draw.choices(FILLER, k=draw.randint(7, 14)), draw.choice(KEYS[label])]
            lines.append(f"{' '.join(word.capitalize() if capital else word for word in words)},{label}")
        (folder / f"{split}.csv").write_text("\n".join(lines))


def write_teacher(folder: Path, tokenizer: Any, order: tuple[int, ...] = (0, 1, 2)) -> None:
    """A bag of embeddings, made by hand, that knows the key words; its tokenizer beside its weights."""
    vocabulary = tokenizer.get_vocab()
    model = BagOfEmbeddings(len(vocabulary), 3, dim=3)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    nn.init.eye_(model.hidden.weight)
    with torch.no_grad():
        model.head.weight.copy_(20 * torch.eye(3)[list(order)])
        for place, words in enumerate(KEYS.values()):
            for word in words:
                model.tokens.weight[vocabulary[word], place] = 1.0
    folder.mkdir()
    save_weights(model, folder / "student.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    """The teacher's, which knows lower case alone and, of capitals, single letters."""
    write_texts(tmp_path)
    texts = (tmp_path / "train.csv").read_text().splitlines()[1:]
    letters = " ".join(sorted({word[0].upper() for word in (*FILLER, *sum(KEYS.values(), ()))}))
    return train_word_pieces([*texts, letters], TextConfig(vocabulary=400, lower_case=False))


def content(folder: Path, **text: Any) -> dict[str, Any]:
    return {
        "data": {
            "source": "text",
            "path": str(folder),
            "batch_size": 16,
            "text": {"tokenizer": str(folder / "t" / "tokenizer.json")} | text,
        },
        "teacher": {"name": "text_bag", "options": {"dim": 3}, "weights": str(folder / "t" / "student.safetensors")},
        "student": {"name": "text_bag", "options": {"dim": 4}},
        "losses": [{"name": "kl", "temperature": 2}],
        "training": {"epochs": 4, "threads": 1},
    }


def found(made: dict[str, Any]) -> dict[str, Finding]:
    return {finding.check: finding for finding in diagnose_recipe(parse_recipe(made), images=150)}


def of_teacher(findings: dict[str, Finding]) -> dict[str, str]:
    chosen = (
        *("teacher_tokenizer", "teacher_case", "text_length", "untrained_layers", "class_order"),
        *("teacher_accuracy", "teacher_logits", "teacher_batch_norm"),
    )
    return {name: findings[name].verdict for name in chosen if findings[name].verdict != "ok"}


def repaired(made: dict[str, Any], finding: Finding) -> dict[str, Any]:
    assert finding.remedy is not None
    assert finding.remedy.overrides
    changed: dict[str, Any] = json.loads(json.dumps(made))
    for argument in finding.remedy.arguments():
        apply_override(changed, argument)
    return changed


def test_nothing_is_wrong_with_a_right_teacher_and_nothing_is_said_of_images(tmp_path: Path, tokenizer: Any) -> None:
    write_teacher(tmp_path / "t", tokenizer)
    findings = found(content(tmp_path))
    assert of_teacher(findings) == {}
    said = [finding for finding in findings.values() if "image" in finding.summary or "pixel" in finding.summary]
    assert [finding.summary for finding in said] == []
    assert "texts" in findings["teacher_accuracy"].summary


def test_another_tokenizer_of_as_many_tokens_is_found_by_the_one_beside_the_weights(
    tmp_path: Path, tokenizer: Any
) -> None:
    write_teacher(tmp_path / "t", tokenizer)
    other = json.loads(tokenizer.to_str())
    words = other["model"]["vocab"]
    words |= {word: len(words) + 4 - number for word, number in words.items() if number > 4}
    (tmp_path / "other.json").write_text(json.dumps(other))
    made = content(tmp_path, tokenizer=str(tmp_path / "other.json"))
    findings = found(made)
    assert of_teacher(findings) == {"teacher_tokenizer": "problem"}
    evidence = findings["teacher_tokenizer"].evidence
    assert evidence["other_tokens"] == evidence["with_its_own"] == 1
    assert evidence["accuracy"] < 0.6
    assert of_teacher(found(repaired(made, findings["teacher_tokenizer"]))) == {}


def test_texts_of_another_case_than_the_teacher_knows_are_found(tmp_path: Path, tokenizer: Any) -> None:
    write_texts(tmp_path, capital=True)
    write_teacher(tmp_path / "t", tokenizer)
    findings = found(content(tmp_path))
    assert of_teacher(findings) == {"teacher_case": "problem"}
    assert "100% with lower case" in findings["teacher_case"].summary


def test_texts_that_are_cut_before_what_the_teacher_needs_are_found(tmp_path: Path, tokenizer: Any) -> None:
    write_teacher(tmp_path / "t", tokenizer)
    made = content(tmp_path, max_length=10)
    findings = found(made)
    assert findings["text_length"].verdict == "problem"
    assert findings["text_length"].evidence["not_cut"] == 1
    assert of_teacher(found(repaired(made, findings["text_length"]))) == {}


def test_another_order_of_the_classes_is_found_and_the_remedy_repairs_it(tmp_path: Path, tokenizer: Any) -> None:
    write_teacher(tmp_path / "t", tokenizer, order=(2, 0, 1))
    made = content(tmp_path)
    findings = found(made)
    assert of_teacher(findings) == {"class_order": "problem"}
    assert of_teacher(found(repaired(made, findings["class_order"]))) == {}

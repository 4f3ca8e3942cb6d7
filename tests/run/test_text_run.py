"""Texts, from a CSV file to a finished run: distilled with and without cache, resumed, scored, exported."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from torch import nn

import stillroom as sr
from run.conftest import StopAt, bytes_of, stop_and_resume
from stillroom.data.config import AugmentationConfig
from stillroom.data.dataset import from_dataset
from stillroom.data.sources import load
from stillroom.data.tokens import text_view
from stillroom.diagnose.recipe import CHECKS, diagnose_recipe
from stillroom.errors import BadInput
from stillroom.explain.words import explain_words
from stillroom.files import write_bytes
from stillroom.models.config import ModelConfig
from stillroom.models.registry import build
from stillroom.models.weights import save_weights
from stillroom.observer import Observer
from stillroom.recipe import parse_recipe
from stillroom.report.run.page import write_report
from stillroom.run.export import export_run
from stillroom.run.fidelity.measure import load_run
from stillroom.run.run import execute
from stillroom.schema.predictions import read_predictions
from stillroom.study.compare import compare
from stillroom.study.config import parse_study
from stillroom.study.engine.in_process import InProcessEngine

pytest.importorskip("tokenizers")
WORDS = {"animal": ("cat", "dog", "fox"), "place": ("city", "river", "lake"), "number": ("many", "count", "few")}
FILLER = ["what", "is", "the", "of", "a", "in", "name", "did", "how", "who", "big", "small", "old", "new"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task that one word of each text decides, and a teacher of it with random weights."""
    made = tmp_path_factory.mktemp("texts")
    draw = random.Random(0)
    for split, count in (("train", 96), ("test", 30)):
        lines = ["text,label"]
        for row in range(count):
            label = list(WORDS)[row % 3]
            text = draw.choices(FILLER, k=draw.randint(1, 12))
            text.insert(draw.randrange(len(text) + 1), draw.choice(WORDS[label]))
            lines.append(f"{' '.join(text)},{label}")
        (made / f"{split}.csv").write_text("\n".join(lines))
    return made


def content(folder: Path, **changes: Any) -> dict[str, Any]:
    made = {
        "data": {"path": str(folder), "batch_size": 16, "augmentation": {"token_dropout": 0.2, "views": 2}},
        "student": {"name": "bert_micro", "options": {"dim": 16, "depth": 1}},
        "training": {"epochs": 4, "optimizer": {"name": "adamw", "lr": 0.02}, "threads": 1},
    }
    return made | changes


def with_teacher(folder: Path, **changes: Any) -> dict[str, Any]:
    options = {"dim": 16, "depth": 2, "heads": 2}
    path = folder / "teacher.safetensors"
    if not path.exists():
        data = load(parse_recipe(content(folder)).data).train
        torch.manual_seed(0)
        text = (data.vocabulary, data.shape[0])
        config = ModelConfig(name="bert_mini", options=options)
        save_weights(build(config, num_classes=3, in_channels=1, image_size=None, text=text), path)
    teacher = {"name": "bert_mini", "options": options, "weights": str(path)}
    return content(folder, teacher=teacher, losses=[{"name": "kl", "temperature": 2}], **changes)


def test_a_student_of_texts_learns_its_task_and_is_exported(folder: Path, tmp_path: Path) -> None:
    made = content(folder, student={"name": "text_bag", "options": {"dim": 16}})
    made["training"]["epochs"] = 10
    finished = execute(parse_recipe(made), tmp_path / "run")
    assert finished.summary["top1"] > 60
    assert finished.summary["data"]["vocabulary"] > 20
    assert json.loads((tmp_path / "run" / "tokenizer.json").read_text())["model"]["type"] == "WordPiece"
    assert export_run(tmp_path / "run", "pt2", None)["max_abs_error"] < 1e-4


def test_a_resumed_run_of_texts_ends_in_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    recipe = parse_recipe(with_teacher(folder))
    execute(recipe, tmp_path / "whole", hooks=[StopAt(-1)])
    stop_and_resume(recipe, tmp_path / "cut", 13)
    assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")


def test_cached_and_live_teachers_of_texts_give_the_same_losses(folder: Path, tmp_path: Path) -> None:
    losses = []
    for enabled in (True, False):
        cache = {"enabled": enabled, "dtype": "float32"}
        execute(parse_recipe(with_teacher(folder, cache=cache)), tmp_path / str(enabled))
        lines = map(json.loads, (tmp_path / str(enabled) / "metrics.jsonl").read_text().splitlines())
        losses.append([line["loss"] for line in lines if line["split"] == "train"])
    # A small divergence is a difference of terms near 1: it is known to float32's rounding of those, not of itself.
    assert losses[0] == pytest.approx(losses[1], rel=1e-4, abs=5e-7)


def test_texts_whose_answer_changed_are_on_the_page_escaped(folder: Path, tmp_path: Path) -> None:
    recipe = parse_recipe(with_teacher(folder) | {"training": {"epochs": 1, "checkpoints": [0, 1], "threads": 1}})
    execute(recipe, tmp_path / "run", latency=True)
    path = tmp_path / "run" / "predictions.safetensors"
    held = load_file(path)
    texts = json.loads(bytes(held["example_texts"].tolist()))
    assert len(texts) == len(held["example_indices"]) == 30
    assert all(set(text.split()) <= {*FILLER, *sum(WORDS.values(), ())} for text in texts)
    answers = read_predictions(path)
    assert answers.example_texts == tuple(texts)
    # As a text that means harm would be.
    texts = [f"<script>alert({place})</script>" for place in range(30)]
    held["example_texts"] = torch.tensor(list(json.dumps(texts).encode()), dtype=torch.uint8)
    held["student_logits"] = -held["teacher_logits"]
    write_bytes(path, save(held, {"class_names": json.dumps(answers.class_names)}), checksum=True)
    page = write_report([tmp_path / "run"]).read_text()
    assert "&lt;script&gt;alert(0)" in page
    assert "<script>alert" not in page
    assert "Latency, 8 tokens" in page
    # The unit that the page's sentences leave open is filled in.
    assert "30 test texts" in page
    assert not re.findall(r"\$\w*(?:image|Image|pixels)", page)
    (tmp_path / "key.txt").write_text("\n".join(sum(WORDS.values(), ())))
    explained = explain_words([tmp_path / "run"], texts=6, mask=tmp_path / "key.txt")
    assert [each.epoch for each in explained.networks[0].checkpoints] == [0, 1]
    # One word of each text says its class.
    assert explained.rationales is not None
    assert explained.rationales.words == pytest.approx(6 / sum(len(text.words) for text in explained.texts), rel=1e-5)
    assert explained.rationales.without == 0
    assert all(sum(text.rationale) == 1 for text in explained.texts)
    assert [each.epoch for each in explained.networks[0].concepts] == [0, 1]
    assert explained.networks[0].checkpoints[-1].with_end.mean == 1
    with pytest.raises(BadInput, match=r"data\.source"):
        load_run(tmp_path / "run", Observer())


def test_texts_are_explained_against_a_baseline_of_the_same_seed_alone(folder: Path, tmp_path: Path) -> None:
    training = {"epochs": 1, "checkpoints": [0, 1]}
    for name, seed in (("one", 0), ("other", 1)):
        execute(parse_recipe(content(folder, training=training, seed=seed)), tmp_path / name)
    with pytest.raises(BadInput, match=r"--baseline.*seed 1.*expected the seed of .*one, 0"):
        explain_words([tmp_path / "one"], [tmp_path / "other"], texts=4)


def test_the_order_of_texts_in_a_study_is_not_held_against_it(folder: Path, tmp_path: Path) -> None:
    made = with_teacher(folder)
    methods = [{"name": "labels", "set": {"losses": [{"name": "cross_entropy"}]}}, {"name": "kl"}]
    made["losses"] = [{"name": "kl"}]
    content = {"name": "texts", "seeds": [0, 1], "budget": {"epochs": 1}, "recipe": made, "methods": methods}
    study = parse_study(content)
    assert compare(study, tmp_path / "study", lambda folder, threads: InProcessEngine()).sound


def test_losses_within_transformers_leave_padding_out_cached_or_live(folder: Path, tmp_path: Path) -> None:
    pairs = [{"teacher": "blocks.0", "student": "blocks.0"}]
    losses: list[dict[str, Any]] = [
        {"name": "block_logit", "taps": pairs},
        {"name": "feature_mse", "taps": pairs},
        {"name": "feature_full_fisher", "taps": pairs},
        {"name": "relational", "taps": pairs},
    ]
    found = []
    for enabled in (True, False):
        made = with_teacher(folder, cache={"enabled": enabled, "dtype": "float32"}) | {"losses": losses}
        made["training"] = made["training"] | {"epochs": 1}
        execute(parse_recipe(made), tmp_path / str(enabled))
        lines = map(json.loads, (tmp_path / str(enabled) / "metrics.jsonl").read_text().splitlines())
        found.append([line["loss"] for line in lines if line["split"] == "train"])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_loss_that_would_compare_padding_is_refused(folder: Path, tmp_path: Path) -> None:
    made = with_teacher(folder) | {"losses": [{"name": "feature_cosine", "taps": ["blocks.1"]}]}
    with pytest.raises(BadInput, match="the padding of texts") as caught:
        execute(parse_recipe(made), tmp_path / "run")
    assert caught.value.field == "losses.feature_cosine.taps"


def test_a_recipe_of_texts_is_diagnosed_with_a_loss_on_features(folder: Path) -> None:
    losses = [{"name": "cross_entropy"}, {"name": "relational", "taps": ["features"]}]
    checks = [check for check in CHECKS if check.id in ("loss_finite", "loss_balance")]
    findings = diagnose_recipe(parse_recipe(with_teacher(folder) | {"losses": losses}), images=32, checks=checks)
    assert {finding.check: finding.verdict for finding in findings} == {"loss_finite": "ok", "loss_balance": "ok"}


class Classifier(nn.Module):
    """Takes what models of transformers take, and gives an object with logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(20, width), nn.Linear(width, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> SimpleNamespace:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        weight = mask[..., None] / mask.sum(1)[:, None, None]
        return SimpleNamespace(logits=self.head((self.tokens(input_ids) * weight).sum(1)))


def dicts(count: int, padding: int = 9) -> list[dict[str, Any]]:
    """Texts whose class is said by one of their tokens; padded by token 19."""
    made = []
    for row in range(count):
        ids = [(7 * row + place) % 15 for place in range(1 + row % 5)] + [15 + row % 3]
        mask = [1] * len(ids) + [0] * (padding - len(ids))
        made.append({"input_ids": ids + [19] * (padding - len(ids)), "attention_mask": mask, "labels": row % 3})
    return made


def test_a_dataset_of_dicts_and_models_of_input_ids_are_distilled_as_they_are(tmp_path: Path) -> None:
    teacher, student = Classifier(8), Classifier(4)
    result = sr.distill(
        teacher,
        student,
        dicts(48),
        [{**each, "input_ids": torch.tensor(each["input_ids"])} for each in dicts(12, padding=20)],
        ["kl"],
        epochs=2,
        batch_size=16,
        out=tmp_path / "run",
        progress=False,
    )
    # Padding is left out: the longest text has 6 tokens.
    assert result.summary["data"]["shape"] == [8]
    ids = torch.tensor(dicts(4)[3]["input_ids"])[None]
    own = result.student(input_ids=ids, attention_mask=(ids != 19).long()).logits
    assert torch.allclose(result.student(ids.masked_fill(ids == 19, -1).int()), own)
    assert type(result.student).__name__ == "Classifier"


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no label": ({"input_ids": [1, 2]}, "dicts with input_ids and label"),
    "a mask of another length": ({"input_ids": [1], "attention_mask": [1, 1], "label": 0}, "as many of both"),
    "no token": ({"input_ids": [1], "attention_mask": [0], "label": 0}, "one token or more"),
    "text in place of ids": ({"input_ids": ["a"], "label": 0}, "whole numbers, one a token"),
    "two segments": ({"input_ids": [1, 2], "token_type_ids": [0, 1], "label": 0}, "texts of one segment"),
    "a label that is a word": ({"input_ids": [1], "label": "cat"}, "a class number"),
}


@pytest.mark.parametrize(("item", "message"), BROKEN.values(), ids=list(BROKEN))
def test_a_dict_that_is_no_text_is_named(item: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=f"{message}.*item 1"):
        from_dataset([{"input_ids": [3], "label": 0}, item])


def test_views_of_ids_without_a_tokenizer_are_refused() -> None:
    data = from_dataset(dicts(3))
    assert data.tokens is not None
    with pytest.raises(BadInput, match="ids without a tokenizer"):
        text_view(data.images[:], np.arange(3), AugmentationConfig(token_dropout=0.1), 0, data.tokens)

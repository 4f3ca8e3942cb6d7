"""Texts: columns, tokens, views, batches of like length, and one clear line for each bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from stillroom.data.augmentation import check_augmentable
from stillroom.data.config import AugmentationConfig, DataConfig, TextConfig
from stillroom.data.loader import BatchLoader, BatchSampler
from stillroom.data.sources import load, parse_data_argument
from stillroom.data.text import train_word_pieces
from stillroom.data.tokens import by_length, lengths, text_view
from stillroom.errors import BadInput

pytest.importorskip("tokenizers")
TEXTS = ["what cat is it", "where is the city", "cats and more cats in a long row of words", "city"] * 5
LABELS = [0, 1, 0, 1] * 5


def write(folder: Path, texts: object = TEXTS, labels: object = LABELS, name: str = "text") -> Path:
    for split in ("train", "test"):
        pq.write_table(pa.table({name: texts, "label": labels}), folder / f"{split}.parquet")
    return folder


def read(folder: Path, **options: object) -> object:
    return load(DataConfig(source="text", path=str(folder), text=TextConfig(**options)))


def test_a_folder_of_texts_is_recognised_and_read_as_token_ids(tmp_path: Path) -> None:
    config = parse_data_argument(str(write(tmp_path, name="sentence")))
    pair = load(config)
    assert config.source == "text"
    assert pair.train.images.dtype == torch.int32
    assert pair.train.tokens is not None
    assert pair.train.tokens.decode(pair.train.images[1]) == "where is the city"
    assert pair.train.images.shape == pair.test.images.shape == (20, 16)
    assert "'sentence'" in pair.train.notes[0]


def test_csv_with_words_as_labels_numbers_them_as_the_training_split_does(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("question,label\nwhat cat,pet\nwhich city,town\n")
    (tmp_path / "test.csv").write_text("question,label\nthat city,town\n")
    pair = load(DataConfig(path=str(tmp_path)))
    assert pair.test.class_names == ("pet", "town")
    assert pair.test.labels.tolist() == [1]
    (tmp_path / "test.csv").write_text("question,label\nthat city,village\n")
    with pytest.raises(BadInput, match="row 0 has 'village'"):
        load(DataConfig(path=str(tmp_path)))


def test_pairs_are_two_texts_with_a_separator_between(tmp_path: Path) -> None:
    table = pa.table({"premise": ["a cat", "a city"], "hypothesis": ["a pet", "a cat"], "label": [0, 1]})
    for split in ("train", "test"):
        pq.write_table(table, tmp_path / f"{split}.parquet")
    train = load(DataConfig(path=str(tmp_path))).train
    assert int((train.images[0] == 3).sum()) == 2  # [SEP] after each


def test_a_trained_tokenizer_is_the_same_each_time() -> None:
    first, second = (train_word_pieces(TEXTS, TextConfig(vocabulary=60)).to_str() for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"words": [1.0, 2.0], "label": [0, 1]}, "a column of text"),
        ({"text": ["a", None], "label": [0, 1]}, "row 1 has none"),
        ({"text": pa.array([b"a", b"\xff\xfe"]).view(pa.binary()), "label": [0, 1]}, "row 1 is not UTF-8"),
        ({"one": ["a", "b"], "two": ["a", "b"], "label": [0, 1]}, "more than one column of text"),
        ({"text": ["a", "b"], "number": [0.5, 1.5]}, "the column of classes"),
        ({"text": ["a", "b"], "label": [0, -1]}, "row 1 has -1"),
    ],
)
def test_bad_texts_are_refused_in_one_line(tmp_path: Path, content: dict[str, object], expected: str) -> None:
    if "text" in content and isinstance(content["text"], pa.Array):
        raw = content["text"]
        content["text"] = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    for split in ("train", "test"):
        pq.write_table(pa.table(content), tmp_path / f"{split}.parquet")
    with pytest.raises(BadInput, match=expected) as caught:
        load(DataConfig(source="text", path=str(tmp_path)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        (b"text,label\na cat,x\na \xff dog,y\n", b"text,label\na cat,x\n", "row 1 is not UTF-8 .byte 2: 0xff"),
        (b"text,label\na cat,x\na dog,y\n", b"text,label\na cat,z\n", "a label of the training split .* row 0 has 'z'"),
        (b"number,label\n1.5,0\n", b"number,label\n1.5,0\n", r"a column of text; it has 'number' \(double\), 'label'"),
        (b"text,label\n,0\n,1\n", b"text,label\n,0\n", r"a column of text; it has 'text' \(empty\)"),
        (b"text,label\na,0.5\n", b"text,label\na,0.5\n", r"whole numbers or words; .* 'label' \(double\)"),
        (b"text,label\n", b"text,label\n", "a row or more"),
    ],
)
def test_bad_csv_files_are_refused_in_one_line(tmp_path: Path, train: bytes, test: bytes, expected: str) -> None:
    (tmp_path / "train.csv").write_bytes(train)
    (tmp_path / "test.csv").write_bytes(test)
    with pytest.raises(BadInput, match=expected) as caught:
        load(DataConfig(source="text", path=str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_empty_and_very_long_texts_are_said(tmp_path: Path) -> None:
    write(tmp_path, ["", "cat " * 25_000, "a cat", "a city"], [0, 1, 0, 1])
    train = load(DataConfig(path=str(tmp_path))).train
    assert train.images.shape == (4, 128)
    assert any("1 of 4 train texts are empty" in note for note in train.notes)
    assert any("1 of 4 train texts are cut at 128 tokens" in note for note in train.notes)


def test_a_tokenizer_file_is_used_and_a_damaged_one_refused(tmp_path: Path) -> None:
    write(tmp_path)
    file = tmp_path / "own.json"
    train_word_pieces(TEXTS, TextConfig(vocabulary=50)).save(str(file))
    assert read(tmp_path, tokenizer=str(file)).train.vocabulary <= 60  # type: ignore[attr-defined]
    file.write_text("{}")
    with pytest.raises(BadInput, match=r"data\.text\.tokenizer"):
        read(tmp_path, tokenizer=str(file), max_length=64)


def test_ids_are_mapped_from_the_store_the_second_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillroom.data.decoded._LEAST", 1)
    monkeypatch.setenv("STILLROOM_CACHE", str(tmp_path / "cache"))
    write(tmp_path)
    first = read(tmp_path)
    monkeypatch.setattr("stillroom.data.text._Coder.encode", lambda self, texts: pytest.fail("tokenised again"))
    second = read(tmp_path)
    assert torch.equal(first.train.images, second.train.images)  # type: ignore[attr-defined]
    assert first.train.fingerprint == second.train.fingerprint  # type: ignore[attr-defined]


def test_a_view_depends_on_seed_view_and_sample_alone(tmp_path: Path) -> None:
    train = load(DataConfig(path=str(write(tmp_path)))).train
    assert train.tokens is not None
    config = AugmentationConfig(token_dropout=0.3, span_mask=0.3)
    rows = np.arange(20)
    whole = text_view(train.images, rows, config, 3, train.tokens)
    back = text_view(train.images[torch.from_numpy(rows[::-1].copy())], rows[::-1], config, 3, train.tokens)
    assert torch.equal(whole, back.flip(0))
    assert not torch.equal(whole, text_view(train.images, rows, config, 4, train.tokens))
    special = torch.isin(train.images, torch.tensor([-1, 2, 3]))
    assert torch.equal(whole[special], train.images[special])
    changed = whole != train.images
    assert bool((whole[changed] == train.tokens.replacement).all())
    with pytest.raises(BadInput, match="token_dropout"):
        check_augmentable(load(DataConfig()).train, config)


def test_batches_hold_texts_of_like_length_and_every_text_once(tmp_path: Path) -> None:
    train = load(DataConfig(path=str(write(tmp_path)))).train
    sampler = BatchSampler(len(train), 4, 0, train.lengths)
    assert sorted(sampler.order(1).tolist()) == list(range(20))
    assert not np.array_equal(sampler.order(0), sampler.order(1))
    loader = BatchLoader(train, AugmentationConfig(), torch.device("cpu"))
    batches = list(loader.batches((sampler.indices(0, step), 0) for step in range(5)))
    assert {batch.images.shape[1] for batch in batches} == {4, 8, 12}
    assert all(torch.equal(batch.labels, train.labels[batch.index]) for batch in batches)


def test_by_length_answers_in_the_order_of_the_texts() -> None:
    ids = torch.full((3, 20), -1, dtype=torch.int32)
    for row, count in enumerate((17, 2, 9)):
        ids[row, :count] = row
    assert lengths(ids).tolist() == [17, 2, 9]
    answer = by_length(lambda part: torch.stack([part[:, 0].float(), torch.full((len(part),), part.shape[1])], 1), ids)
    assert answer.tolist() == [[0, 20], [1, 4], [2, 12]]

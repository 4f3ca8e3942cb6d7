"""Texts: a column, or a pair of columns, of parquet or CSV files, as token ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import torch

from stillroom.data.config import DataConfig, TextConfig
from stillroom.data.decoded import stored_images
from stillroom.data.images import ImageSet, balanced_rows, number_classes
from stillroom.data.parquet import (
    ARROW,
    SavedTable,
    class_labels,
    declared_class_names,
    declared_features,
    parquet_splits,
)
from stillroom.data.reading import data_name, list_folder, path_error, read_error, split_error
from stillroom.data.tokens import BUCKET, NO_TOKEN, Tokenization
from stillroom.errors import BadInput, format_error, nearest
from stillroom.files import digest, file_hash, find_input

_TEXTS = (("text",), ("sentence",), ("question",), ("content",), ("review",), ("utterance",))
_PAIRS = (
    *(("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text1", "text2")),
    *(("question", "sentence"), ("text_a", "text_b"), ("query", "document")),
)
_LABELS = ("label", "labels", "class", "category", "target", "intent", "fine_label")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Columns:
    """Where texts and labels lie."""

    text: tuple[str, ...]  # one, or the two of a pair
    label: str
    class_names: tuple[str, ...] | None  # where the file has them


def text_splits(folder: Path) -> dict[str, list[Path]]:
    """The splits of a folder of texts: CSV files, or parquet files that hold text and no pictures.

    >>> text_splits(Path("tests"))
    {}
    """
    found = {path.stem: [path] for path in list_folder(folder) if path.suffix in SEPARATORS and path.is_file()}
    for split, paths in parquet_splits(folder).items():
        try:
            types = (SavedTable(paths[0]).schema_arrow if paths[0].suffix == ARROW else pq.read_schema(paths[0])).types
        except (OSError, pa.ArrowException, ValueError):
            continue  # damaged: whoever reads it says so
        if any(map(is_text, types)) and not any(map(_holds_bytes, types)):
            found.setdefault(split, paths)
    return found


def read_text(
    folder: Path, split: str, config: DataConfig, *, limit: int | None = None, field: str = "split"
) -> ImageSet:
    """Read one split of texts as token ids, int32 [N, L], −1 where there is no token.

    L is the number of tokens of the longest text of the training split, at most ``data.text.max_length``, rounded up
    to a multiple of 8; longer texts are cut. The ids are kept on disk for all runs.

    Args:
        limit: only the texts of ``ImageSet.balanced_subset(limit)``.

    Raises:
        BadInput: no such split or column, a cell that is no text, a label that is none, or a tokenizer that does not
            fit.
    """
    # Named as texts, a file without them is said to have none.
    splits = parquet_splits(folder) | text_splits(folder)
    if split not in splits:
        raise split_error(field, split, splits)
    train = config.train_split if config.train_split in splits else split
    options = config.text or TextConfig()
    table = _Table(splits[split], config, options)
    reference = table if split == train else _Table(splits[train], config, options)
    labels, names = table.labels(reference)
    coder = _coder(tuple(map(str, splits[train])), tuple(map(file_hash, splits[train])), config.label_column, options)
    rows = balanced_rows(labels, limit)

    def source() -> dict[str, Any]:
        content = [file_hash(path) for path in splits[split]]
        return {"text": content, "columns": list(table.columns.text), "rows": digest(rows.tobytes()), **coder.identity}

    def encode() -> npt.NDArray[np.uint8]:
        ids = coder.encode(table.texts(rows))
        return ids.view(np.uint8).reshape(*ids.shape, 4)

    stored = stored_images(data_name(folder), len(rows), source, encode)
    ids = torch.from_numpy(stored).view(torch.int32)[..., 0]
    count = (ids >= 0).sum(1)
    if not bool(count.all()):
        first = int(rows[int((count == 0).nonzero()[0, 0])])
        raise path_error(splits[split][0], f"a text of one token or more in every row, but row {first} has none")
    notes = [f"texts of {' and '.join(map(repr, table.columns.text))}, labels of {table.columns.label!r}; {coder.note}"]
    if empty := int((coder.tokens.words(ids).sum(1) == 0).sum()):
        notes.append(f"{empty:,} of {len(rows):,} {split} texts are empty: special tokens alone")
    if cut := int((ids[:, -1] >= 0).sum()) if coder.length == options.max_length else 0:
        notes.append(f"{cut:,} of {len(rows):,} {split} texts are cut at {coder.length} tokens (data.text.max_length)")
    return ImageSet(
        ids, torch.from_numpy(labels[rows]), names, data_name(folder), notes=tuple(notes), tokens=coder.tokens
    )


def text_class_names(folder: Path, split: str, config: DataConfig) -> tuple[str, ...]:
    """The classes of a split that is there, without tokenising a text."""
    splits = text_splits(folder)
    if split not in splits:
        return ()
    train = splits.get(config.train_split, splits[split])
    table, reference = (_Table(paths, config, config.text or TextConfig()) for paths in (splits[split], train))
    return table.labels(reference)[1]


class _Table:
    """The files of a split, read whole: what a text is takes little room next to what is computed of it."""

    def __init__(self, paths: Sequence[Path], config: DataConfig, options: TextConfig) -> None:
        self.path = paths[0]
        tables = [read_table(path) for path in paths]
        first = tables[0].schema
        for path, table in zip(paths, tables, strict=True):
            if table.schema.names != first.names:
                raise path_error(path, f"the same columns as in {self.path.name}")
        if not sum(map(len, tables)):
            raise path_error(self.path, "a row or more")
        self.columns = _find_columns(first, self.path, config, options)
        self._table = pa.concat_tables([table.select([*self.columns.text, self.columns.label]) for table in tables])

    def labels(self, reference: _Table) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
        """Class numbers, int64 [N], and the names of the classes; words are numbered as in the training split."""
        label = self.columns.label
        words = reference._table[label]
        return label_numbers(self._table[label], words, self.path, label, self.columns.class_names)

    def texts(self, rows: npt.NDArray[np.int64] | None = None) -> list[tuple[str, ...]]:
        """The texts of some rows, by default of all, one or two a row."""
        table = self._table if rows is None else self._table.take(pa.array(rows))
        return list(
            zip(*(column_strings(table[name], self.path, name, rows) for name in self.columns.text), strict=True)
        )


def read_table(path: Path) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        if path.suffix == ARROW:
            return SavedTable(path).read()
        options = pc.ParseOptions(delimiter=SEPARATORS[path.suffix], newlines_in_values=True)
        return pc.read_csv(path, parse_options=options, convert_options=pc.ConvertOptions(check_utf8=False))
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        raise read_error(path, error) from None


def label_numbers(
    column: pa.ChunkedArray,
    train: pa.ChunkedArray,
    path: Path,
    name: str,
    class_names: tuple[str, ...] | None = None,
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Class numbers, int64 [N], and the names of the classes; words are numbered as in the training split's column."""
    if not is_text(column.type):
        labels = class_labels(column.combine_chunks(), path, 0).copy()
        return labels, class_names or number_classes(torch.from_numpy(labels))
    names = tuple(sorted(set(column_strings(train, path, name))))
    numbers = {word: number for number, word in enumerate(names)}
    labels = np.empty(len(column), np.int64)
    for row, word in enumerate(column_strings(column, path, name)):
        if word not in numbers:
            raise path_error(path, f"a label of the training split in every row, but row {row} has {word!r}")
        labels[row] = numbers[word]
    return labels, names


def column_strings(column: Any, path: Path, name: str, rows: npt.NDArray[np.int64] | None = None) -> list[str]:
    """A column's texts; the first cell that is none is named."""
    cells = column.combine_chunks().cast(pa.large_binary()).to_pylist()

    def refuse(place: int, why: str) -> BadInput:
        row = place if rows is None else int(rows[place])
        return path_error(path, f"text in every row of column {name!r}, but row {row} {why}")

    found = []
    for place, cell in enumerate(cells):
        if cell is None:
            raise refuse(place, "has none")
        try:
            found.append(cell.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise refuse(place, f"is not UTF-8 (byte {error.start}: 0x{cell[error.start]:02x})") from None
    return found


def _find_columns(schema: pa.Schema, path: Path, config: DataConfig, options: TextConfig) -> Columns:
    types = dict(zip(schema.names, schema.types, strict=True))
    features = declared_features(schema)
    label = find_label(types, features, path, config.label_column)
    texts = [name for name in types if is_text(types[name]) and name != label]
    if options.columns is not None:
        for name in options.columns:
            if name not in texts:
                expected = f"a column of text of {path.name} ({nearest(name, texts) if texts else 'it has none'})"
                raise BadInput("data.text.columns", name, expected)
        chosen = options.columns
    else:
        usual = [names for names in (*_PAIRS, *_TEXTS) if set(names) <= set(texts)]
        if not texts:
            raise path_error(path, f"a column of text; it has {_with_types(types)}")
        if not usual and len(texts) > 1:
            expected = f"one of {', '.join(texts)}, or two of a pair: {path.name} has more than one column of text"
            raise BadInput("data.text.columns", None, expected)
        chosen = usual[0] if usual else (texts[0],)
    return Columns(chosen, label, declared_class_names(features.get(label)))


def find_label(types: dict[str, Any], features: dict[str, Any], path: Path, named: str | None) -> str:
    if named is not None:
        if named not in types:
            raise BadInput("data.label_column", named, f"a column of {path.name} ({nearest(named, types)})")
        if not (pa.types.is_integer(types[named]) or is_text(types[named])):
            raise BadInput("data.label_column", named, f"whole numbers or words, but it holds {types[named]}")
        return named
    whole = [name for name in types if pa.types.is_integer(types[name])]
    fitting = [*whole, *(name for name in types if is_text(types[name]))]
    usual = [name for name in _LABELS if name in fitting] or (whole if len(whole) == 1 else [])
    if not usual:
        expected = f"the name of the column of classes, whole numbers or words; {path.name} has {_with_types(types)}"
        raise BadInput("data.label_column", None, expected)
    return usual[0]


def _with_types(types: dict[str, Any]) -> str:
    """Columns with what they hold, for a message."""
    held = (f"{name!r} ({'empty' if pa.types.is_null(kind) else kind})" for name, kind in types.items())
    return ", ".join(held) or "no columns"


def is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return any(_holds_bytes(kind.field(place).type) for place in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


@dataclass(frozen=True, eq=False)
class _Coder:
    """A tokenizer, and how many tokens a text may have."""

    tokenizer: Any
    tokens: Tokenization
    length: int
    note: str

    @property
    def identity(self) -> dict[str, Any]:
        """What the ids depend on besides the texts."""
        return {"tokenizer": digest(self.tokens.json.encode()), "length": self.length}

    def encode(self, texts: Sequence[tuple[str, ...]]) -> npt.NDArray[np.int32]:
        """Texts, or pairs of them, as ids, int32 [N, L], −1 where there is no token."""
        ids = np.full((len(texts), self.length), NO_TOKEN, np.int32)
        for row, encoded in enumerate(_encode(self.tokenizer, texts)):
            own = encoded.ids[: self.length]
            ids[row, : len(own)] = own
        return ids


@lru_cache(maxsize=8)
def _coder(files: tuple[str, ...], hashes: tuple[str, ...], label_column: str | None, options: TextConfig) -> _Coder:
    """The tokenizer of some data: of its file, or trained on the training split, whose hashes tell it from another."""
    config = DataConfig(source="text", path=".", label_column=label_column, text=options)
    texts = _Table([Path(file) for file in files], config, options).texts()
    if options.tokenizer is not None:
        tokenizer = read_tokenizer(options.tokenizer)
        note = f"tokenizer {options.tokenizer}, {tokenizer.get_vocab_size():,} tokens"
    else:
        tokenizer = train_word_pieces((text for row in texts for text in row), options)
        note = f"word-piece of {tokenizer.get_vocab_size():,} tokens, trained on the training split"
    tokenizer.no_padding()
    tokenizer.enable_truncation(options.max_length)
    longest = max((len(encoded.ids) for encoded in _encode(tokenizer, texts)), default=1)
    length = min(-(-longest // BUCKET) * BUCKET, options.max_length)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    added = {number: each.content for number, each in tokenizer.get_added_tokens_decoder().items() if each.special}
    special = {*added, *(vocabulary[name] for name in _SPECIAL if name in vocabulary)}
    stands_in = next((vocabulary[name] for name in ("[MASK]", "<mask>", "[UNK]", "<unk>") if name in vocabulary), 0)
    size = max(vocabulary.values(), default=-1) + 1
    tokens = Tokenization(size, tuple(sorted(special)), stands_in, tokenizer.to_str())
    return _Coder(tokenizer, tokens, length, note)


def _encode(tokenizer: Any, texts: Sequence[tuple[str, ...]]) -> Iterable[Any]:
    found: list[Any] = tokenizer.encode_batch([row if len(row) > 1 else row[0] for row in texts])
    return found


def read_tokenizer(name: str | Path) -> Any:
    """A tokenizer of its file, or of the folder of a tokenizer.json; without padding.

    Raises:
        BadInput: there is no such file, or it is none of the library.
    """
    tokenizers = _library()
    path = find_input(name)
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise BadInput("data.text.tokenizer", str(name), "a tokenizer.json that exists, here or under $STILLROOM_DATA")
    try:
        read = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        expected = f"a file of the tokenizers library; it raised {format_error(error, 120)}"
        raise BadInput("data.text.tokenizer", str(name), expected) from None
    read.no_padding()
    return read


def train_word_pieces(texts: Iterable[str], options: TextConfig) -> Any:
    """A word-piece tokenizer of some texts, the same for the same texts: [CLS] text [SEP], or [CLS] a [SEP] b [SEP].

    >>> tokenizer = train_word_pieces(["the cat", "the cats", "a cat"], TextConfig(vocabulary=60))
    >>> tokenizer.encode("The cats").tokens
    ['[CLS]', 'the', 'cat', '##s', '[SEP]']
    """
    tokenizers = _library()
    held = list(texts)
    normalizer = tokenizers.normalizers.BertNormalizer(lowercase=options.lower_case)
    letters = sorted({letter for text in held for letter in normalizer.normalize_str(text) if not letter.isspace()})
    # Named in order: else the library numbers the letters inside words in the order of a random hash, and ties between
    # pieces fall differently in each process.
    first = [*_SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    trained = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizer
    trained.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=max(options.vocabulary, len(first)), min_frequency=2, special_tokens=first, show_progress=False
    )
    trained.train_from_iterator(held, trainer)
    vocabulary = dict(sorted(trained.get_vocab().items(), key=lambda item: item[1]))
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizer, trained.pre_tokenizer
    made.post_processor = tokenizers.processors.BertProcessing(
        ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
    )
    made.add_special_tokens(list(_SPECIAL))
    made.decoder = tokenizers.decoders.WordPiece()
    return made


def _library() -> Any:
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise BadInput("data", "text", "tokenizers to be installed: pip install 'stillroom[text]'") from None
    return tokenizers

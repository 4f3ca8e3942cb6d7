"""What a layer keeps of each word: exact on linear networks, of words alone, the same for pieces of one word."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stillroom.data.images import ImageSet
from stillroom.data.tokens import Tokenization
from stillroom.errors import BadInput
from stillroom.explain.words import EmbeddedTexts, KnownWords, word_information
from stillroom.models.text import TextEncoder
from stillroom.report.explain.words import write_word_explanation
from stillroom.schema.base import write
from stillroom.schema.explanation import EXPLANATION_WORDS, WordExplanation


def test_what_is_kept_of_words_is_the_optimum_in_closed_form_on_a_linear_network() -> None:
    draw = torch.Generator().manual_seed(0)
    weights = torch.randn(6, 4, 3, generator=draw, dtype=torch.float64)  # features, words, d
    words = torch.tensor([[True, True, True, False]])
    found = word_information(lambda x: torch.einsum("mld,bld->bm", weights, x.double()), torch.zeros(1, 4, 3), words)
    energies = weights.square().sum((0, 2))[:3]
    assert found[0, :3].tolist() == pytest.approx((energies.log() / 2 - energies.log().mean() / 2).tolist(), rel=1e-6)
    assert math.isnan(found[0, 3])
    # Of all noise of this mean entropy, it changes the features least: E‖f(x + σε) − f(x)‖² = Σ a_i σ_i².
    best = float((energies * (-2 * found[0, :3]).exp()).sum())
    for _ in range(20):
        other = torch.randn(3, generator=draw, dtype=torch.float64)
        moved = -found[0, :3] + 0.1 * (other - other.mean())
        assert float((energies * (2 * moved).exp()).sum()) > best


def test_a_word_that_changes_nothing_is_kept_least_and_a_layer_that_reads_none_is_refused() -> None:
    words = torch.ones(1, 2, dtype=torch.bool)
    found = word_information(lambda x: x[:, 0], torch.zeros(1, 2, 3), words)
    assert found[0].tolist() == pytest.approx([math.log(1e8) / 4, -math.log(1e8) / 4])
    with pytest.raises(BadInput, match="depend on the embeddings"):
        word_information(lambda x: torch.ones(1, 3), torch.zeros(1, 2, 3), words)


def test_a_model_is_a_function_of_its_embeddings() -> None:
    model = TextEncoder(10, 6, 3, dim=4, depth=1, heads=2).eval()
    ids = torch.tensor([[2, 7, 8, 3, -1, -1]], dtype=torch.int32)
    texts = EmbeddedTexts(model, 10)
    features = texts.features(ids, "features")
    embedded = texts.embed(ids)
    assert torch.equal(model.head(features(embedded)), model(ids))
    assert not torch.equal(features(2 * embedded), features(embedded))
    with pytest.raises(BadInput, match=r"an nn\.Embedding of 11 rows"):
        EmbeddedTexts(nn.Sequential(nn.Embedding(4, 2)), 11)


class Pieces(Tokenization):
    def piece(self, token: int) -> str:
        return ("[CLS]", "play", "##ing", "▁well")[token]


def test_pieces_are_glued_to_words() -> None:
    tokens = Pieces(4, (0,), 0, "")
    ids = torch.tensor([0, 1, 2, 3, -1], dtype=torch.int32)
    assert tokens.spans(ids) == [("playing", (1, 2)), ("well", (3,))]


def test_pieces_of_a_tokenizer_that_marks_first_pieces_are_glued_to_words_as_they_read() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=258, initial_alphabet=letters, show_progress=False)
    made.train_from_iterator(["a cafés"], trainer)
    tokens = Tokenization(made.get_vocab_size(), (), 0, made.to_str())
    assert [word for word, _ in tokens.spans(tokens.encode("a cafés bad"))] == ["a", "cafés", "bad"]


def known_words(cells: list[list[bool]], matters: list[list[bool]]) -> KnownWords:
    spans = [[(str(place), (place,)) for place, there in enumerate(row) if there] for row in cells]
    return KnownWords("key.txt", spans, torch.tensor(cells)[:, None], torch.tensor(matters)[:, None])


def test_concepts_of_words_are_those_of_known_energies() -> None:
    # A linear layer: the energy of word i is w_i², so that its entropy is −log w_i but for a constant. Two texts, of
    # three and two words; the first word of the first matters, and none of the second.
    known = known_words([[True, True, True], [True, True, False]], [[True, False, False], [False] * 3])
    words = known.cells[:, 0]
    weights = torch.tensor([[1.0, 1.0, 1.0], [math.e, 1.0, 1.0], [math.e**1.5, 1.0, math.e**1.5]])

    def kept(weight: torch.Tensor) -> Any:
        layer = lambda x: torch.stack([(weight[:, None] * each).sum(0) for each in x])  # noqa: E731
        return word_information(layer, torch.zeros(2, 3, 2), words).numpy()

    course = [kept(each) for each in weights]
    found = known.statistics(course)
    # Entropies of the first text by checkpoint: 0 0 0; −2/3 1/3 1/3; −1/2 1 −1/2. Of the second, which the second and
    # third checkpoint begin with e and e^1.5: 0 0; −1/2 1/2; −3/4 3/4, all of them background. The background's means
    # are 0, (1/3 + 0)/2 and (1/4 + 0)/2.
    assert found.background.tolist() == pytest.approx([0, 1 / 6, 1 / 8], abs=1e-6)
    assert found.n_fg.tolist() == [[0, 0], [1, 0], [1, 0]]
    assert found.n_bg.tolist() == [[0, 0], [0, 1], [1, 1]]
    assert found.ratio[1:, 0].tolist() == [1, 0.5]
    assert found.stability[0] == 1
    assert math.isnan(found.stability[1])
    assert known.facts.words == pytest.approx(1 / 5)
    assert known.facts.without == 1


def test_the_words_that_matter_are_read_as_the_tokenizer_splits_them(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    from stillroom.data.config import TextConfig
    from stillroom.data.text import train_word_pieces

    texts = ["What is a cat?", "the old city of Rome"]
    made = train_word_pieces(texts * 3, TextConfig(vocabulary=90))
    tokens = Tokenization(made.get_vocab_size(), (0, 1, 2, 3, 4), 4, made.to_str())
    coded = [made.encode(text).ids for text in texts]
    most = max(map(len, coded))
    ids = torch.tensor([row + [-1] * (most - len(row)) for row in coded], dtype=torch.int32)
    data = ImageSet(ids, torch.tensor([0, 1]), ("a", "b"), "x", tokens=tokens)
    spans, rows = [tokens.spans(row) for row in ids], np.arange(2)
    masks = ids.numpy() == ids[0, 4].item()
    np.save(tmp_path / "key.npy", masks)
    (tmp_path / "key.txt").write_text("CAT\nrome,\n")
    (tmp_path / "key.jsonl").write_text('["cat"]\n["Old Rome"]\n')
    found = {}
    for name in ("key.txt", "key.jsonl", "key.npy"):
        known = KnownWords.read(tmp_path / name, data, rows, spans)
        found[name] = [
            [word for (word, _), key in zip(words, mask[0].tolist(), strict=False) if key]
            for words, mask in zip(spans, known.matters, strict=True)
        ]
    assert found == {
        "key.txt": [["cat"], ["rome"]],
        "key.jsonl": [["cat"], ["old", "rome"]],
        "key.npy": [[tokens.spans(ids[0])[3][0]], []],
    }
    for content, name, message in (
        ("dog", "none.txt", "none of the texts' words"),
        ('["cat"]', "short.jsonl", "each of the 2 test texts"),
        ("cat", "no.jsonl", "a list of words .* line 1"),
        ("", "words.csv", r"FILE\.txt"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(BadInput, match=message) as caught:
            KnownWords.read(tmp_path / name, data, rows, spans)
        assert caught.value.field == "--mask"


def test_the_page_escapes_words(tmp_path: Path) -> None:
    mean = {"mean": 0.2, "low": 0.1, "high": 0.3, "texts": 4}
    network = {
        **{"run": "kl", "name": "a ← b", "role": "explained", "seed": 0, "tap": "features", "accuracy": 0.5},
        "checkpoints": [{"epoch": 1, "with_teacher": mean, "with_end": mean}],
    }
    network |= {"concepts": [{"epoch": 1, "n_fg": 1, "n_bg": 0.5, "ratio": 0.75}], "stability": {"rho": 0.5}}
    text = {"row": 0, "label": "<i>", "words": ["<script>", "is"], "teacher": [0.9, -0.9], "kept": [[[0.5, -0.5]]]}
    text |= {"rationale": [True, False]}
    content = {"teacher": "b", "networks": [network], "gain": mean, "texts": [text]}
    content |= {"rationales": {"file": "<b>.txt", "threshold": 0.2, "words": 0.25, "without": 0}}
    write(tmp_path / EXPLANATION_WORDS, WordExplanation.model_validate(content))
    page = write_word_explanation(tmp_path).read_text()
    assert '<span class="more3 key" title="+0.90 nats">&lt;script&gt;</span>' in page
    assert "&lt;b&gt;.txt" in page
    assert "At the end 75.0% of its concepts are words that matter, which are 25.0% of all words." in page
    assert "That is more than of the same student from labels" in page
    assert '<tr><th scope="row">&lt;script&gt;</th><td>+0.90 nats</td><td>+0.50 nats</td></tr>' in page, "as numbers"

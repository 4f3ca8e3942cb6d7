"""What a layer keeps of each word: exact on linear networks, of words alone, the same for pieces of one word."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from stillroom.data.tokens import Tokenization
from stillroom.errors import BadInput
from stillroom.explain.words import EmbeddedTexts, _pieces, word_information
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
    assert _pieces(ids, ids > 0, tokens) == [("playing", (1, 2)), ("well", (3,))]


def test_the_page_escapes_words(tmp_path: Path) -> None:
    mean = {"mean": 0.2, "low": 0.1, "high": 0.3, "texts": 4}
    network = {
        **{"run": "kl", "name": "a ← b", "role": "explained", "seed": 0, "tap": "features", "accuracy": 0.5},
        "checkpoints": [{"epoch": 1, "with_teacher": mean, "with_end": mean}],
    }
    text = {"row": 0, "label": "<i>", "words": ["<script>", "is"], "teacher": [0.9, -0.9], "kept": [[[0.5, -0.5]]]}
    content = {"teacher": "b", "networks": [network], "gain": mean, "texts": [text]}
    write(tmp_path / EXPLANATION_WORDS, WordExplanation.model_validate(content))
    page = write_word_explanation(tmp_path).read_text()
    assert '<span class="more3" title="+0.90 nats">&lt;script&gt;</span>' in page
    assert "That is more than of the same student from labels" in page
    assert '<tr><th scope="row">&lt;script&gt;</th><td>+0.90 nats</td><td>+0.50 nats</td></tr>' in page, "as numbers"

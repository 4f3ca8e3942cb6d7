"""Models of texts: padding changes nothing, a model of images is refused, transformers by their config."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stillroom.diagnose.checks.recipe.text_input import find_untrained
from stillroom.errors import BadInput
from stillroom.losses.attention_maps import AttentionMaps
from stillroom.losses.base import LossInputs
from stillroom.losses.setup_context import ModelInfo, SetupContext
from stillroom.models.config import ModelConfig
from stillroom.models.export import export_program
from stillroom.models.reader import TapReader
from stillroom.models.registry import build
from stillroom.models.tail import tail_of
from stillroom.models.text import TextEncoder
from stillroom.models.tracing import trace
from stillroom.models.weights import load_weights, save_weights
from stillroom.teachers.output import ModelOutput

IDS = torch.tensor([[2, 7, 9, 3, -1, -1, -1, -1], [2, 8, 8, 8, 9, 9, 7, 3]], dtype=torch.int32)
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
RELATIVE = {
    **{"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False},
    **{"max_relative_positions": 8, "type_vocab_size": 0},
}
TINY: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "roberta": SIZES,
    "electra": SIZES | {"embedding_size": 16},
    "mpnet": SIZES,
    "deberta": SIZES | RELATIVE,
    # As DeBERTa-v3's: positions in buckets, projections shared with the content's, their norm.
    "deberta-v2": SIZES | RELATIVE | {"position_buckets": 4, "norm_rel_ebd": "layer_norm", "share_att_key": True},
    "modernbert": SIZES | {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "local_attention": 4},
}


def make(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    config = ModelConfig(name=name, options=options)
    return build(config, num_classes=4, in_channels=1, image_size=None, text=(50, 8), field="student").eval()


@pytest.mark.parametrize("name", ["bert_mini", "bert_micro", "text_bag", "text_lstm"])
def test_padding_changes_no_logit(name: str) -> None:
    model = make(name)
    assert torch.allclose(model(IDS)[:1], model(IDS[:1, :4]), atol=1e-6)


def test_a_program_takes_any_number_of_texts_of_any_length(tmp_path: Path) -> None:
    export_program(make("bert_micro"), tmp_path / "student.pt2", example=IDS)
    program = torch.export.load(tmp_path / "student.pt2").module()
    assert torch.allclose(program(IDS[:1, :5]), make("bert_micro")(IDS[:1]), atol=1e-5)


@pytest.mark.parametrize("kind", TINY)
def test_transformers_are_made_of_a_config_and_take_ids(kind: str) -> None:
    pytest.importorskip("transformers")
    model = make(f"transformers:{kind}", vocab_size=50, **TINY[kind])
    logits = model(IDS)
    assert logits.shape == (2, 4)
    assert torch.allclose(logits[:1], model(IDS[:1, :4]), atol=1e-5)
    assert torch.equal(copy.deepcopy(model)(IDS), logits)


def test_a_pooler_that_nobody_trained_is_found_in_a_model_whose_other_layers_are() -> None:
    pytest.importorskip("transformers")
    model = make("transformers:bert", vocab_size=50, **TINY["bert"])
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and "pooler" not in name:
            nn.init.normal_(parameter, std=0.02)
    assert find_untrained(model)[0] == ("bert.pooler.dense",)
    nn.init.normal_(model.get_parameter("bert.pooler.dense.bias"), std=0.02)
    assert find_untrained(model)[0] == ()


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused() -> None:
    pytest.importorskip("transformers")
    with pytest.raises(BadInput, match="an embedding of 50 tokens or more") as caught:
        make("transformers:bert", vocab_size=20, **TINY["bert"])
    assert caught.value.field == "student.options.vocab_size"
    with pytest.raises(BadInput, match="max_position_embeddings"):
        make("transformers:bert", vocab_size=50, max_position_embeddings=4, **TINY["bert"])


def test_weights_of_another_tokenizer_are_refused_with_what_to_do(tmp_path: Path) -> None:
    save_weights(TextEncoder(40, 8, 4, dim=8, depth=1, heads=2), tmp_path / "other.safetensors")
    model = TextEncoder(50, 8, 4, dim=8, depth=1, heads=2)
    with pytest.raises(BadInput, match=r"has \[40, 8\], wants \[50, 8\] .*data.text.tokenizer"):
        load_weights(model, tmp_path / "other.safetensors")


@pytest.mark.parametrize("name", ["resnet8", "vit_mini", "timm:resnet18"])
def test_models_of_images_are_refused_for_texts(name: str) -> None:
    with pytest.raises(BadInput, match="a model for texts"):
        make(name)
    with pytest.raises(BadInput, match="a model for images"):
        build(ModelConfig(name="bert_mini"), num_classes=4, in_channels=3, image_size=32)


# Of two blocks the tail from the first; of one, which is traced in half the time, from what goes into it.
BLOCKS = {
    "text_lstm": ("lstm", 1),
    "bert_mini": ("blocks.0", 2),
    "bert": ("bert.encoder.layer.0", 2),
    "deberta": ("deberta.encoder.layer.0", 2),
    "deberta-v2": ("deberta.embeddings", 1),
    "distilbert": ("distilbert.embeddings", 1),
    "roberta": ("roberta.embeddings", 1),
    "electra": ("electra.embeddings", 1),
    "mpnet": ("mpnet.embeddings", 1),
    "modernbert": ("model.embeddings", 1),
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_tails_are_exact_with_masks(kind: str) -> None:
    tap, depth = BLOCKS[kind]
    if kind in TINY:
        pytest.importorskip("transformers")
        layers = "n_layers" if kind == "distilbert" else "num_hidden_layers"
        model = make(f"transformers:{kind}", vocab_size=50, **(TINY[kind] | {layers: depth}))
    else:
        model = make(kind, dim=16, depth=depth)
    traced = trace(model, IDS)
    # Padded elsewhere than the texts that the tail was cut with.
    other = torch.tensor([[2, 11, 3, -1, -1, -1, -1, -1], [2, 5, 8, 8, 9, 3, -1, -1]], dtype=torch.int32)
    for name in (tap, *(["features"] if kind in ("text_lstm", "bert") else [])):
        taps = TapReader(model, [name])
        with taps, torch.no_grad():
            wanted = model(other)
        features = taps.take()[name]
        tail = tail_of(model, name, IDS, traced=traced)
        assert torch.allclose(tail(features, other), wanted, atol=1e-5)
        assert not tail.replayed
        if features.dim() == 3:  # what stands for padding counts nothing
            noise = features.masked_fill((other < 0)[..., None], 100.0)
            assert torch.allclose(tail(noise, other), wanted, atol=1e-4)


# DeBERTa and ModernBERT make all three by one layer.
@pytest.mark.parametrize("kind", [*sorted(TINY.keys() - {"deberta", "modernbert"}), "bert_mini"])
def test_attention_is_found_in_each_kind_of_encoder(kind: str) -> None:
    if kind in TINY:
        pytest.importorskip("transformers")
        model = make(f"transformers:{kind}", vocab_size=50, **TINY[kind])
    else:
        model = make(kind, dim=16, depth=2, heads=2)
    context = SetupContext(
        ModelInfo(model, lambda: IDS, "student"), ModelInfo(model, lambda: IDS, "teacher"), num_classes=4, seed=0
    )
    loss = AttentionMaps(taps="all")
    if kind == "deberta-v2":  # with share_att_key, the layer of queries is that of positions
        with pytest.raises(BadInput, match="share_att_key"):
            loss.setup(context)
        return
    loss.setup(context)
    assert [(its.heads, its.width, own.heads) for its, own in loss.attentions] == [(2, 16, 2)] * 2
    reader = TapReader(model, loss.requires.student_features)
    with reader:
        model(IDS)
    output = ModelOutput(torch.zeros(2, 4), reader.take())
    inputs = LossInputs(output, output, torch.tensor([0, 1]), torch.tensor([0, 1]), 0.0, mask=IDS >= 0)
    assert loss(inputs).item() == 0

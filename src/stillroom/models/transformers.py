"""Classifiers of the transformers library, by ``transformers:NAME``: random weights, nothing is downloaded."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stillroom.data.tokens import DTYPE
from stillroom.errors import BadInput, format_error, nearest
from stillroom.files import find_input
from stillroom.models.external import declare_missing_ops


class TakesIds:
    """Put before a classifier of input_ids and attention_mask: token ids int32 [B, L], −1 for none → logits [B, K]."""

    def forward(self, ids: Tensor | None = None, **given: Any) -> Any:
        if given or ids is None or ids.dtype != DTYPE:  # as its own code calls it
            return super().forward(*([] if ids is None else [ids]), **given)  # type: ignore[misc]
        mask = ids >= 0
        padding = getattr(getattr(self, "config", None), "pad_token_id", None) or 0
        # Not −1 also where padding has no id: each is looked up.
        filled = torch.where(mask, ids, padding).long()
        output = super().forward(input_ids=filled, attention_mask=mask.long())  # type: ignore[misc]
        return output.logits if hasattr(output, "logits") else output


def take_ids(model: nn.Module) -> nn.Module:
    """A user's model of texts, its parameters and modules the same objects, as one of token ids.

    One whose ``forward`` takes ``input_ids`` is called with these and an ``attention_mask``; any other is as it was.
    """
    taken = set(inspect.signature(model.forward).parameters)
    if isinstance(model, TakesIds) or not {"input_ids", "attention_mask"} <= taken:
        return model
    return _taking_ids(copy.copy(model))


def _taking_ids(model: nn.Module) -> nn.Module:
    model.__class__ = type(type(model).__name__, (TakesIds, type(model)), {})
    return model


def build_transformers(
    name: str, options: Mapping[str, Any], *, num_classes: int, vocabulary: int, length: int, field: str = "model"
) -> nn.Module:
    """Make a sequence classifier of transformers with random weights.

    Args:
        name: ``transformers:TYPE``, such as ``transformers:distilbert``, whose sizes are the options; or
            ``transformers:FOLDER`` with a config.json. Its weights are ``weights: FOLDER/model.safetensors``.
        options: entries of the model's config.
        num_classes: K.
        vocabulary: number that the data's ids are below.
        length: most tokens of a text.

    Raises:
        BadInput: no such model, or one whose embedding has no row for a token or a position of the data.
    """
    library, config = _library_and_config(name, options, f"{field}.name")
    config.num_labels = num_classes
    rows = getattr(config, "vocab_size", vocabulary)
    if rows < vocabulary:
        expected = f"an embedding of {vocabulary:,} tokens or more, as the data's tokenizer has; this has {rows:,}"
        raise BadInput(f"{field}.options.vocab_size", rows, f"{expected}: give data.text.tokenizer the model's own")
    # RoBERTa and its kin count positions from the padding's number on.
    spare = (config.pad_token_id or 0) + 1 if config.model_type in _COUNT_FROM_PADDING else 0
    places = getattr(config, "max_position_embeddings", None)
    if places is not None and 0 < places < length + spare:
        expected = f"{length + spare} or more, as texts have up to {length} tokens; or a smaller data.text.max_length"
        raise BadInput(f"{field}.options.max_position_embeddings", places, expected)
    made = _classifier(library, config, "SequenceClassification", name, f"{field}.name")
    return _taking_ids(made).train()


def build_vision_transformers(
    name: str,
    options: Mapping[str, Any],
    *,
    num_classes: int,
    in_channels: int,
    image_size: int | None,
    field: str = "model",
) -> nn.Module:
    """Make an image classifier of transformers with random weights: ``transformers:vit``, or a folder, as for texts.

    Raises:
        BadInput: no such model, or one that is not for images.
    """
    library, config = _library_and_config(name, options, f"{field}.name")
    config.num_labels = num_classes
    for key, value in (("num_channels", in_channels), ("image_size", image_size)):
        if hasattr(config, key) and key not in options and value is not None:
            setattr(config, key, value)
    return _classifier(library, config, "ImageClassification", name, f"{field}.name").train()


def _library_and_config(name: str, options: Mapping[str, Any], where: str) -> tuple[Any, Any]:
    """The library, and the config of one of its models."""
    wanted = name.partition(":")[2]
    declare_missing_ops()
    try:
        # A library that draws as it is imported must not move the weights drawn next.
        with torch.random.fork_rng(devices=[]):
            library = importlib.import_module("transformers")
            types = library.models.auto.configuration_auto.CONFIG_MAPPING_NAMES
    except ModuleNotFoundError:
        raise BadInput(where, name, "transformers to be installed: pip install 'stillroom[transformers]'") from None
    folder = find_input(wanted)
    there = folder if (folder / "config.json").is_file() else None
    return library, _config(library, there, wanted, types, options, name, where)


def _classifier(library: Any, config: Any, kind: str, name: str, where: str) -> nn.Module:
    """A model for ``SequenceClassification`` or ``ImageClassification``."""
    try:
        # Its plain form of attention alone can be traced, differentiated twice and tapped.
        made: nn.Module = getattr(library, f"AutoModelFor{kind}").from_config(config, attn_implementation="eager")
    except Exception as error:  # in whatever words it refuses its config
        what = "sequences" if kind.startswith("Sequence") else "images"
        expected = f"a model that transformers makes to classify {what}; it raised {format_error(error, 160)}"
        raise BadInput(where, name, expected) from None
    return made


_COUNT_FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "data2vec-text", "ibert")


def _config(
    library: Any,
    folder: Path | None,
    wanted: str,
    types: Mapping[str, str],
    options: Mapping[str, Any],
    name: str,
    where: str,
) -> Any:
    try:
        if folder is not None:
            config = library.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            for key, value in options.items():
                setattr(config, key, value)
            return config
        if wanted in types:
            return library.AutoConfig.for_model(wanted, **options)
    except Exception as error:  # in whatever words it refuses its options
        raise BadInput(where, name, f"a config that transformers reads; it raised {format_error(error, 160)}") from None
    known = nearest(wanted, types) if wanted in types or len(wanted) < 40 else "none is near"
    raise BadInput(
        where, name, f"a type of transformers, or a folder with a config.json ({known}); nothing is downloaded"
    )

"""Token ids in place of pixels: what a batch of texts is, how it is padded, and its views.

A text is a row of int32 ids, −1 where there is no token. So a batch of texts is one tensor [B, L] that says itself
where it is padded, and goes through loader, step, teachers, cache and evaluation as a batch of images does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stillroom.data.config import AugmentationConfig
from stillroom.errors import BadInput
from stillroom.randomness import counter_uniform

NO_TOKEN = -1
DTYPE = torch.int32
BUCKET = 8  # ids are stored at a multiple of so many tokens
PADDED = 4  # a batch is padded to a multiple of so many: of short texts, every one of them is much
_MARKS = ("Ġ", "▁")  # of a word's first piece, where the tokenizer marks it
# Images have these numbers for what they are mixed by, which texts are not.
_DROPPED, _SPAN = 16, 17
# Above any number of tokens: the draw of a token is addressed by sample · this + position.
_POSITIONS = 1 << 16


@dataclass(frozen=True, eq=False)
class Tokenization:
    """What the ids of a set of texts mean."""

    vocabulary: int  # ids are below it
    special: tuple[int, ...]  # ids that no word has, such as [CLS] and [SEP]
    replacement: int  # the id that stands for a dropped token: [MASK], else [UNK]
    json: str  # the tokenizer, as a file of the `tokenizers` library; empty where it is not known

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer itself, where it is known."""
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.json)

    def decode(self, ids: Tensor) -> str:
        """The text of one row of ids, int32 [L], without special tokens; the ids where no tokenizer is known."""
        held = [each for each in ids.tolist() if each >= 0]
        if not self.json:
            return " ".join(map(str, held))
        text: str = self.tokenizer.decode(held)
        return text

    def encode(self, text: str) -> Tensor:
        """The ids of a text without special tokens, int32 [L]; of a tokenizer that is known."""
        return torch.tensor(self.tokenizer.encode(text, add_special_tokens=False).ids, dtype=DTYPE)

    @cached_property
    def _marks_first_pieces(self) -> bool:
        """Whether it marks the first piece of a word, as BPE and unigram models do, not the others, as word-piece."""
        return bool(self.json) and json.loads(self.json)["model"]["type"] in ("BPE", "Unigram")

    def spans(self, ids: Tensor) -> list[tuple[str, tuple[int, ...]]]:
        """The words of one row of ids, int32 [L], each with the places of its pieces.

        >>> ids = torch.tensor([0, 5, NO_TOKEN], dtype=torch.int32)
        >>> Tokenization(9, (0, 1), 1, "").spans(ids)
        [('5', (1,))]
        """
        found: list[tuple[str, tuple[int, ...]]] = []
        for place in self.words(ids).nonzero().flatten().tolist():
            piece = self.piece(int(ids[place]))
            goes_on = not piece.startswith(_MARKS) if self._marks_first_pieces else piece.startswith("##")
            if goes_on and found:
                word, places = found[-1]
                found[-1] = (word + piece.removeprefix("##"), (*places, place))
            else:
                found.append((piece.lstrip("".join(_MARKS)), (place,)))
        if self._marks_first_pieces:  # letters beyond ASCII are bytes in pieces
            found = [(self.decode(ids[list(places)]).strip(), places) for _, places in found]
        return found

    def words(self, ids: Tensor) -> Tensor:
        """Where ids are of words: neither padding nor special tokens; bool, of their shape.

        >>> Tokenization(9, (0, 1), 1, "").words(torch.tensor([0, 5, NO_TOKEN])).tolist()
        [False, True, False]
        """
        return (ids >= 0) & ~torch.isin(ids, torch.tensor(self.special, dtype=ids.dtype, device=ids.device))

    def piece(self, token: int) -> str:
        """One token as the tokenizer writes it; its number where no tokenizer is known."""
        found = self.tokenizer.id_to_token(token) if self.json else None
        return str(token) if found is None else str(found)


def is_tokens(batch: Tensor) -> bool:
    """Whether a batch is of token ids."""
    return batch.dtype == DTYPE and batch.dim() == 2


def lengths(ids: Tensor) -> npt.NDArray[np.int64]:
    """The number of tokens of each text, int64 [N], on the CPU.

    >>> lengths(torch.tensor([[2, 7, -1], [2, -1, -1]], dtype=torch.int32)).tolist()
    [2, 1]
    """
    return np.asarray((ids >= 0).sum(1).cpu().numpy(), np.int64)


def padded_length(longest: int, most: int) -> int:
    """The length that a batch is padded to: the next multiple of ``PADDED``, at most that of the data.

    >>> padded_length(9, 40), padded_length(39, 39)
    (12, 39)
    """
    return min(-(-max(longest, 1) // PADDED) * PADDED, most)


def by_length(answer: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
    """A function's answer for each text, texts of a like length together, so that little padding is computed.

    Args:
        answer: from ids [b, l] to one row each, [b, …].
        ids: int32 [B, L].
    """
    buckets = np.array([padded_length(each, ids.shape[1]) for each in lengths(ids)])
    order = np.argsort(buckets, kind="stable")
    parts = [
        answer(ids[torch.from_numpy(order[buckets[order] == size]).to(ids.device), :size])
        for size in np.unique(buckets)
    ]
    return torch.cat(parts)[torch.from_numpy(np.argsort(order)).to(ids.device)]


def text_view(
    ids: Tensor, samples: npt.NDArray[np.int64], config: AugmentationConfig, view: int, tokens: Tokenization
) -> Tensor:
    """Texts as a view shows them: the same ids for the same (seed, view, sample) in any batch at any time.

    With ``token_dropout`` p each token that is no special one is replaced by [MASK] with probability p; with
    ``span_mask`` s so is one span of round(s · tokens) at a uniform place.

    Args:
        ids: int32 [B, L], on the CPU or the device.
        samples: which sample each one is, int64 [B], on the CPU.

    >>> ids = torch.tensor([[2, 7, 8, 9, 3, -1]], dtype=torch.int32)
    >>> tokens = Tokenization(10, (2, 3, 4), 4, "{}")
    >>> config = AugmentationConfig(span_mask=0.4)
    >>> [text_view(ids, np.array([5]), config, view, tokens).tolist() for view in (0, 1)]
    [[[2, 4, 8, 9, 3, -1]], [[2, 4, 8, 9, 3, -1]]]
    """
    if not (config.token_dropout or config.span_mask):
        return ids
    if not tokens.json:
        option = "token_dropout" if config.token_dropout else "span_mask"
        expected = "0: which tokens are words, and which is [MASK], is not known of ids without a tokenizer"
        raise BadInput(f"data.augmentation.{option}", getattr(config, option), expected)
    words = tokens.words(ids)
    words_of = words.cpu().numpy()
    replaced = np.zeros(words_of.shape, dtype=bool)
    if config.token_dropout:
        places = samples[:, None] * _POSITIONS + np.arange(ids.shape[1])
        draws = counter_uniform(config.seed, view, places.reshape(-1), _DROPPED).reshape(places.shape)
        replaced |= draws < config.token_dropout
    if config.span_mask:
        count = words_of.sum(1)
        span = np.round(config.span_mask * count).astype(np.int64)
        first = (counter_uniform(config.seed, view, samples, _SPAN) * (count - span + 1)).astype(np.int64)
        rank = np.cumsum(words_of, 1) - 1
        replaced |= (rank >= first[:, None]) & (rank < (first + span)[:, None])
    chosen = torch.from_numpy(replaced & words_of).to(ids.device)
    return ids.masked_fill(chosen, tokens.replacement)

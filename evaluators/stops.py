"""Where a generated text ends: which tokens can complete a stop string, so that only those rows are decoded.

lm-eval's HFLM decodes the end of every row at every step. Here a token is looked up in a table over the vocabulary,
made once for a tokenizer and its stop strings, and a row is decoded only when its newest token can matter.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = 0  # the row goes on
LOOK = 1  # the token may complete a stop string
END = 2  # the row ends with the token
STRANGE = 3  # a special token that lm-eval takes for a piece of a stop string, and later leaves out of the text

# Texts of a tokenizer's tokens do not change; tokenizers outlive candidates.
_texts: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, list[str]] = weakref.WeakKeyDictionary()
_tables: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, dict[tuple[object, ...], torch.Tensor]] = (
    weakref.WeakKeyDictionary()
)


class Stops:
    """What ends a row that is being generated.

    Args:
        tokenizer: decodes the rows; special tokens are left out, as in the texts that tasks get to see.
        until: stop strings, none of them empty.
        ends: tokens that end a row, in [0, vocabulary).
        vocabulary: V, the number of tokens that the model knows; at least as many as are generated.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, until: Sequence[str], ends: Iterable[int], vocabulary: int
    ) -> None:
        self._tokenizer = tokenizer
        self._until = tuple(until)
        self._ends = frozenset(ends)
        self._vocabulary = vocabulary

    def kinds(self, device: torch.device) -> torch.Tensor:
        """PLAIN, LOOK, END or STRANGE for each token, uint8 [V]."""
        tables = _tables.setdefault(self._tokenizer, {})
        key = (self._until, self._ends, self._vocabulary, device)
        if key not in tables:
            tables[key] = self._table().to(device)
        return tables[key]

    def stopped(self, tokens: list[int]) -> bool:
        """Whether a stop string is in the text of `tokens`."""
        text = _text(self._tokenizer, tokens)
        return any(stop in text for stop in self._until)

    def _table(self) -> torch.Tensor:
        table = torch.zeros(self._vocabulary, dtype=torch.uint8)
        table[_looked_at(self._tokenizer, self._until, self._vocabulary)] = LOOK
        table[_strange(self._tokenizer, self._until, self._vocabulary)] = STRANGE
        table[sorted(self._ends)] = END
        return table


def settled(until: Sequence[str]) -> bool:
    """Whether a text that has a stop string in it is cut at the same place however it goes on.

    lm-eval cuts at the first occurrence of any stop string, in a text that may go on behind it as long as other rows
    of the batch do. With the stop strings ":" and "Q:A", the text "Q:" is cut after or before the "Q", by whether an
    "A" was still generated. So no stop string may lie inside of another, away from its start and its end.
    """
    return not any(short in long[1:-1] for long in until for short in until if short)


def _looked_at(tokenizer: PreTrainedTokenizerBase, until: Sequence[str], vocabulary: int) -> list[int]:
    """Tokens that can complete a stop string.

    One that adds the stop string's last character. A character outside of ASCII can be spread over several tokens,
    but each of them alone decodes to something outside of ASCII. Where spaces are cleaned up, any token can.
    """
    if getattr(tokenizer, "clean_up_tokenization_spaces", False):
        return list(range(vocabulary))
    last = {stop[-1] for stop in until}
    ascii_last = {character for character in last if character.isascii()}
    foreign = len(ascii_last) < len(last)
    return [
        token
        for token, text in enumerate(_token_texts(tokenizer)[:vocabulary])
        if not ascii_last.isdisjoint(text) or (foreign and not text.isascii())
    ]


def _token_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text of each token, written twice: some tokenizers strip the space that begins a text."""
    if tokenizer not in _texts:
        _texts[tokenizer] = tokenizer.batch_decode([[i, i] for i in range(len(tokenizer))], skip_special_tokens=True)
    return _texts[tokenizer]


def _strange(tokenizer: PreTrainedTokenizerBase, until: Sequence[str], vocabulary: int) -> list[int]:
    """Special tokens whose text shares characters with a stop string where one follows on the other."""
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return [
        token
        for token in sorted(special)
        if token < vocabulary
        and not _text(tokenizer, [token])
        and any(_overlap(_text(tokenizer, [token], skip=False), stop) for stop in until)
    ]


def _text(tokenizer: PreTrainedTokenizerBase, tokens: list[int], skip: bool = True) -> str:
    text = tokenizer.decode(tokens, skip_special_tokens=skip)
    assert isinstance(text, str)
    return text


def _overlap(one: str, other: str) -> bool:
    """Whether one text is in the other, or begins with what the other ends with."""
    return (
        one in other
        or other in one
        or any(
            one.endswith(other[:length]) or other.endswith(one[:length])
            for length in range(1, min(len(one), len(other)))
        )
    )

"""Which tokens can end a row: found in a table, never missed."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from evomerge.evaluators.stops import END, LOOK, PLAIN, STRANGE, Stops, settled
from tests.evaluators.conftest import WORDS

CPU = torch.device("cpu")
STOPS = ["\n", "\n\n", "ab", "é", "→", "k p", " ", "Q:", "ash", "日本"]


def metaspace() -> PreTrainedTokenizerFast:
    """Words begin with a mark for the space before them, and a text loses its first; unknown bytes are tokens."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    core.train_from_iterator([" ".join(WORDS)] * 20, trainers.BpeTrainer(vocab_size=400, special_tokens=special[:3]))
    extra = [token for token in special[3:] if core.token_to_id(token) is None]
    core.add_tokens(extra)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


def cleaning(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    made = copy.deepcopy(tokenizer)
    made.clean_up_tokenization_spaces = True
    return made


@pytest.mark.parametrize("kind", ["bytes", "metaspace", "cleaning"])
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_no_token_that_completes_a_stop_string_is_missed(
    kind: str, tokenizer: PreTrainedTokenizerFast, data: st.DataObject
) -> None:
    made = {"bytes": lambda: tokenizer, "metaspace": lambda: METASPACE, "cleaning": lambda: cleaning(tokenizer)}[kind]()
    until = data.draw(st.lists(st.sampled_from(STOPS), min_size=1, max_size=3, unique=True))
    some = made(" ".join(WORDS) + "\n\nQ: é→日本 ab .", add_special_tokens=False)["input_ids"]
    token = st.one_of(st.sampled_from(some), st.integers(0, len(made) - 1))
    tokens = data.draw(st.lists(token, min_size=1, max_size=12))
    stops = Stops(made, until, [], len(made))
    kinds = stops.kinds(CPU)
    for length in range(1, len(tokens) + 1):
        if stops.stopped(tokens[:length]):
            assert kinds[tokens[length - 1]] == LOOK
            break


METASPACE = metaspace()


def test_few_tokens_are_looked_at(tokenizer: PreTrainedTokenizerFast) -> None:
    kinds = Stops(tokenizer, ["\n"], [1], 310).kinds(CPU)
    assert kinds.shape == (310,)
    assert kinds[1] == END
    assert (kinds == LOOK).nonzero().flatten().tolist() == tokenizer.encode("\n")
    assert (kinds == PLAIN).sum() == 308
    # bytes beyond ASCII, and no others
    assert (Stops(tokenizer, ["é"], [], 300).kinds(CPU) == LOOK).sum() == 128


@pytest.mark.parametrize(
    ("until", "strange"),
    [
        (["\n"], []),
        (["<s>"], [0]),
        (["</s>"], []),
        (["a<"], [0]),
        (["s>b"], [0]),
        (["s"], [0]),
        (["x<s>y"], [0]),
        (["<s"], [0]),
        (["<t"], []),
    ],
)
def test_special_tokens_that_touch_a_stop_string(
    until: list[str], strange: list[int], tokenizer: PreTrainedTokenizerFast
) -> None:
    kinds = Stops(tokenizer, until, [1], 300).kinds(CPU)
    assert (kinds == STRANGE).nonzero().flatten().tolist() == strange


@given(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3), st.text("ab", max_size=10))
def test_a_settled_cut_does_not_move(until: list[str], text: str) -> None:
    def cut(length: int) -> int:
        return min((place for stop in until if (place := text[:length].find(stop)) >= 0), default=-1)

    if settled(until):
        cuts = [cut(length) for length in range(len(text) + 1)]
        first = next((place for place in cuts if place >= 0), -1)
        assert all(place in {-1, first} for place in cuts)


def test_unsettled_stop_strings() -> None:
    assert not settled([":", "Q:A"])
    assert settled(["\n", "\n\n", "Q:", ":"])
    assert settled(["</s>", "\n"])


def test_tables_are_made_once(tokenizer: PreTrainedTokenizerFast) -> None:
    one = Stops(tokenizer, ["\n", "ab"], [1], 300).kinds(CPU)
    assert Stops(tokenizer, ["\n", "ab"], [1], 300).kinds(CPU) is one
    assert Stops(tokenizer, ["\n"], [1], 300).kinds(CPU) is not one

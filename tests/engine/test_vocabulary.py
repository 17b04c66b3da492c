"""Vocabularies that differ: what a source computes of its own tokens survives the move to the candidate's ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PhiConfig, PreTrainedTokenizerFast

from evomerge.engine.alignment import Alignment
from evomerge.engine.checkpoint import open_checkpoint
from evomerge.engine.readings import whole
from evomerge.engine.recipe import ModelRef
from evomerge.engine.vocabulary import GatheredReading, Run, Vocabulary
from tests.engine.test_alignment import EMBEDDING, HEAD, Tensor, aligned, live, logits, refused
from tests.engine.tiny import build, llama, tokenizer

IM_START, IM_END, THINK = "<|im_start|>", "<|im_end|>", "<think>"


def grown(*tokens: str | AddedToken) -> PreTrainedTokenizerFast:
    built = tokenizer()
    built.add_tokens([AddedToken(t, special=True, normalized=False) if isinstance(t, str) else t for t in tokens])
    return built


def model(
    folder: Path, seed: int, own: PreTrainedTokenizerFast | None, rows: int = 64, config=None, dtype=torch.float32
) -> ModelRef:
    settings = llama(vocab_size=rows, tie_word_embeddings=False) if config is None else config
    build(settings, seed, dtype).save_pretrained(folder)
    if own is not None:
        own.save_pretrained(folder)
    return ModelRef(model=str(folder))


@pytest.fixture
def refs(tmp_path) -> list[ModelRef]:
    """A base of 64 tokens; math with two special tokens more; chat with one of them, at another id, and one more."""
    return [
        model(tmp_path / "base", 0, tokenizer()),
        model(tmp_path / "math", 1, grown(IM_START, IM_END), 66),
        model(tmp_path / "chat", 2, grown(AddedToken(THINK, special=False, lstrip=True), IM_START), 70),
    ]


def computes_its_own_tokens(found: Alignment, source: int, but: Sequence[str] = ()) -> bool:
    """Whether the source's tokens have the logits that they have in the source alone."""
    checkpoint = found.checkpoints[source]
    ours, theirs = found.tokenizer.get_vocab(), checkpoint.tokenizer().get_vocab()
    shared = sorted((ours.keys() & theirs.keys()) - set(but), key=lambda token: theirs[token])
    own = AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=torch.float32).eval()
    want = logits(own, [theirs[token] for token in shared])[:, [theirs[token] for token in shared]]
    got = logits(live(found, source), [ours[token] for token in shared])[:, [ours[token] for token in shared]]
    return torch.allclose(got, want, atol=1e-6)


def test_union(refs):
    found = aligned(*refs, tokenizer="union")
    ids = found.tokenizer.get_vocab()
    assert {token: ids[token] for token in (IM_START, IM_END, THINK)} == {IM_START: 64, IM_END: 65, THINK: 66}
    assert {token: row for token, row in ids.items() if row < 64} == tokenizer().get_vocab()
    assert found.config.vocab_size == 67
    assert found.config.bos_token_id == 1
    assert found.readings[0][HEAD].shape == (67, 16)
    assert all(computes_its_own_tokens(found, source) for source in range(3))
    base, math, chat = (open_checkpoint(ref) for ref in refs)
    for name in (EMBEDDING, HEAD):
        rows = [whole(readings[name]) for readings in found.readings]
        assert torch.equal(rows[0][:64], base.tensor(name))
        assert torch.equal(rows[1][:66], math.tensor(name))
        assert torch.equal(rows[2][[64, 66]], chat.tensor(name)[[65, 64]])
        mean = (math.tensor(name)[64] + chat.tensor(name)[65]) / 2
        assert torch.equal(rows[0][64], mean)
        assert torch.equal(rows[0][65], math.tensor(name)[65])
        assert torch.equal(rows[0][66], chat.tensor(name)[64])
        assert torch.equal(rows[1][66], rows[0][66])
        assert torch.equal(rows[2][65], rows[0][65])
        assert all(readings[name].computed for readings in found.readings)
    assert not any(readings["model.norm.weight"].computed for readings in found.readings)


def test_union_notes(refs):
    notes = aligned(*refs, tokenizer="union").notes
    assert notes[0] == f"tokenizer: the union adds 3 to the base's tokens ({IM_START!r}, {IM_END!r}, {THINK!r})"
    assert f"math: lacks 1 of the tokens ({THINK!r}); a row is the base's" in notes
    assert "chat: 3 of its rows left out, without a token and beyond the candidate's 67" in notes


def test_union_can_be_saved_and_reads_as_its_sources(refs, tmp_path):
    found = aligned(*refs, tokenizer="union").tokenizer
    found.save_pretrained(tmp_path / "union")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "union")
    assert loaded.get_vocab() == found.get_vocab()
    assert loaded.chat_template == found.chat_template
    for one in (found, loaded):
        assert one.encode(f"w1 {IM_START} w2{IM_END} w60 {THINK}") == [4, 64, 5, 65, 63, 66]
        assert {str(token): token.special for token in one.added_tokens_decoder.values() if token.content[0] == "<"}[
            THINK
        ] is False
        assert one.added_tokens_decoder[64].special
        assert one.added_tokens_decoder[66].lstrip
        assert "im_start" not in one.decode([4, 64, 5], skip_special_tokens=True)


def test_union_is_the_same_every_time(refs):
    one, other = (aligned(*refs, tokenizer="union") for _ in range(2))
    assert one.tokenizer.get_vocab() == other.tokenizer.get_vocab()
    assert one.notes == other.notes
    ids = aligned(refs[0], refs[2], refs[1], tokenizer="union").tokenizer.get_vocab()
    assert (ids[THINK], ids[IM_START], ids[IM_END]) == (64, 65, 66)


def test_union_of_equal_vocabularies_changes_nothing(zoo):
    found, plain = aligned(*zoo, tokenizer="union"), aligned(*zoo)
    assert found.notes == ()
    assert found.config.to_dict() == plain.config.to_dict()
    assert not any(reading.computed for readings in found.readings for reading in readings.values())


def test_union_with_ties(tmp_path):
    tied = [llama(), llama(vocab_size=65)]
    refs = [
        model(tmp_path / "base", 0, tokenizer(), config=tied[0]),
        model(tmp_path / "math", 1, grown(IM_START), config=tied[1]),
    ]
    found = aligned(*refs, tokenizer="union")
    assert found.config.tie_word_embeddings
    assert HEAD not in found.readings[0]
    assert all(computes_its_own_tokens(found, source) for source in range(2))
    apart = model(tmp_path / "odd", 2, grown(THINK), 65)
    found = aligned(*refs, apart, tokenizer="union")
    assert not found.config.tie_word_embeddings
    assert all(computes_its_own_tokens(found, source) for source in range(3))


def test_an_expert_s_tokenizer(refs):
    found = aligned(*refs, tokenizer="chat")
    assert found.tokenizer.get_vocab() == open_checkpoint(refs[2]).tokenizer().get_vocab()
    assert found.config.vocab_size == 70
    assert all(computes_its_own_tokens(found, source) for source in range(3))
    rows = [whole(readings[HEAD]) for readings in found.readings]
    assert torch.equal(rows[2], open_checkpoint(refs[2]).tensor(HEAD))
    assert not found.readings[2][HEAD].computed
    assert torch.equal(rows[0][66:], rows[2][66:])
    assert torch.equal(rows[1][66:], rows[2][66:])
    assert f"math: 1 of its tokens left out ({IM_END!r})" in found.notes
    assert found.notes[0] == "tokenizer: that of chat"


def test_an_expert_s_special_ids(tmp_path, zoo):
    config = llama(vocab_size=65, tie_word_embeddings=True, eos_token_id=64, pad_token_id=0)
    own = grown(IM_END)
    own.eos_token = IM_END
    ref = model(tmp_path / "chat", 1, own, config=config)
    found = aligned(zoo[0], ref, tokenizer="chat").config
    assert (found.bos_token_id, found.eos_token_id, found.pad_token_id) == (1, 64, 0)
    assert aligned(zoo[0], ref, tokenizer="union").config.eos_token_id == 2


def test_padding_rows(tmp_path):
    """Rows beyond the tokens: the own ones where there are any, else the base's; new tokens take the first of them."""
    refs = [
        model(tmp_path / "base", 0, tokenizer(), 72),
        model(tmp_path / "math", 1, grown(IM_START), 65),
        model(tmp_path / "wide", 2, tokenizer(), 80),
    ]
    found = aligned(*refs, tokenizer="union")
    assert found.config.vocab_size == 72
    assert found.tokenizer.get_vocab()[IM_START] == 64
    base, math, wide = (open_checkpoint(ref).tensor(EMBEDDING) for ref in refs)
    rows = [whole(readings[EMBEDDING]) for readings in found.readings]
    assert torch.equal(rows[0], torch.cat([base[:64], math[64:], base[65:]]))
    assert torch.equal(rows[1], torch.cat([math, base[65:]]))
    assert torch.equal(rows[2], torch.cat([wide[:64], math[64:], wide[65:72]]))
    assert "wide: 8 of its rows left out, without a token and beyond the candidate's 72" in found.notes


def test_tokens_that_no_model_has_a_row_for(tmp_path):
    refs = [model(tmp_path / "base", 0, grown("<pad>")), model(tmp_path / "math", 1, grown("<pad>", IM_START), 64)]
    assert aligned(*refs[:1]).notes == ()
    found = aligned(*refs, tokenizer="union")
    assert f"tokenizer: 2 of the tokens have a row in no model ('<pad>', {IM_START!r}); zeros" in found.notes
    assert found.config.vocab_size == 66
    assert not any(whole(readings[HEAD])[64:].any() for readings in found.readings)


def test_new_rows_are_rounded_to_the_source_s_dtype(tmp_path):
    refs = [
        model(tmp_path / "base", 0, tokenizer(), dtype=torch.bfloat16),
        model(tmp_path / "math", 1, grown(IM_START), 65),
        model(tmp_path / "chat", 2, grown(IM_START), 65, dtype=torch.bfloat16),
    ]
    found = aligned(*refs, tokenizer="union")
    base, math, chat = (open_checkpoint(ref).tensor(EMBEDDING) for ref in refs)
    rows = whole(found.readings[0][EMBEDDING])
    assert rows.dtype == torch.bfloat16
    assert torch.equal(rows[64], ((math[64] + chat[64].float()) / 2).bfloat16())
    assert torch.equal(rows[:64], base)


def test_a_head_with_a_bias(tmp_path):
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "partial_rotary_factor": 0.5,
    }
    refs = [
        model(tmp_path / "base", 0, tokenizer(), config=PhiConfig(vocab_size=64, **sizes)),
        model(tmp_path / "math", 1, grown(IM_START), config=PhiConfig(vocab_size=65, **sizes)),
    ]
    found = aligned(*refs, tokenizer="union")
    assert found.readings[0]["lm_head.bias"].shape == (65,)
    assert all(computes_its_own_tokens(found, source) for source in range(2))
    assert whole(found.readings[0]["lm_head.bias"])[64] == open_checkpoint(refs[1]).tensor("lm_head.bias")[64]


def test_an_expert_that_lacks_the_head(refs):
    from safetensors.torch import load_file, save_file

    path = Path(refs[2].model) / "model.safetensors"
    tensors = load_file(path)
    tensors.pop(HEAD)
    save_file(tensors, path, metadata={"format": "pt"})
    found = aligned(*refs, tokenizer="union")
    rows = [whole(readings[HEAD]) for readings in found.readings]
    assert torch.equal(rows[2], rows[0])
    assert torch.equal(rows[0][64:66], open_checkpoint(refs[1]).tensor(HEAD)[64:])
    assert not rows[0][66].any()


def test_an_expert_without_a_tokenizer(tmp_path, refs):
    bare = model(tmp_path / "bare", 3, None)
    found = aligned(*refs, bare, tokenizer="union")
    assert torch.equal(whole(found.readings[3][HEAD])[:64], open_checkpoint(bare).tensor(HEAD))
    assert aligned(refs[0], bare).notes == ()
    longer = model(tmp_path / "longer", 3, None, 65)
    message = refused(*refs, longer, tokenizer="union")
    assert "model 'longer'" in message
    assert "must hold a tokenizer, since its vocab_size 65 is not the base's 64" in message


def test_a_longer_vocabulary_is_refused_with_a_hint(refs):
    assert "must have the base's vocab_size 64, but has 66; `tokenizer: union` merges" in refused(*refs[:2])


def test_a_shape_that_differs_beyond_the_vocabulary(refs, tmp_path):
    from safetensors.torch import load_file, save_file

    path = Path(refs[1].model) / "model.safetensors"
    tensors = load_file(path)
    tensors[EMBEDDING] = tensors[EMBEDDING][:, :15].contiguous()
    save_file(tensors, path, metadata={"format": "pt"})
    message = refused(*refs, tokenizer="union")
    assert f"must hold {EMBEDDING} in the base's shape [66, 16], but has [66, 15]" in message


def bpe(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte pairs, with the merges that make each of the words from its letters."""
    vocab = {token: i for i, token in enumerate(["<s>", *"abcdefgh"])}
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            if word[:end] not in vocab:
                vocab[word[:end]] = len(vocab)
                merges.append((word[: end - 1], word[end - 1]))
    inner = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.decoder = decoders.BPEDecoder()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>")


def unigram(words: Sequence[str]) -> PreTrainedTokenizerFast:
    pieces = ["<s>", "<unk>", *"abcdefgh"]
    inner = Tokenizer(models.Unigram([*((p, -5.0) for p in pieces), *((w, -1.0) for w in words)], unk_id=1))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", unk_token="<unk>")


def word_level(words: Sequence[str]) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<s>", "<unk>", *words])}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", unk_token="<unk>")


@pytest.mark.parametrize("kind", [bpe, unigram, word_level])
def test_union_of_models_of_tokens(kind, tmp_path):
    """Pieces enter the base's model, so that text with them is cut as the expert cuts it."""
    own = [kind(["abc", "ab"]), kind(["bcd", "abc"]), kind(["hgf"])]
    own[0].add_tokens([AddedToken(IM_START, special=True)])
    own[2].add_tokens([AddedToken(THINK, special=True)])
    refs = [model(tmp_path / str(i), i, one, len(one)) for i, one in enumerate(own)]
    found = aligned(*refs, tokenizer="union")
    ids = found.tokenizer.get_vocab()
    assert {token: ids[token] for token in own[0].get_vocab()} == own[0].get_vocab()
    assert sorted(ids.values()) == list(range(len(ids)))
    assert ids.keys() == own[0].get_vocab().keys() | own[1].get_vocab().keys() | own[2].get_vocab().keys()
    cut = found.tokenizer.tokenize
    assert cut("abc") == ["abc"]
    assert cut("bcd") == ["bcd"]
    assert cut(f"hgf{THINK}abc") == ["hgf", THINK, "abc"]
    assert cut(f"{IM_START}hgf") == [IM_START, "hgf"]
    assert all(computes_its_own_tokens(found, source) for source in range(3))


def test_union_of_models_of_other_kinds(tmp_path):
    own = [bpe(["abc"]), unigram(["hgf"])]
    refs = [model(tmp_path / str(i), i, one, len(one)) for i, one in enumerate(own)]
    message = refused(*refs, tokenizer="union")
    assert "but 'hgf' is of the kind Unigram" in message
    found = aligned(*refs, tokenizer="1")
    assert all(computes_its_own_tokens(found, source) for source in range(2))


def naive(vocabulary: Vocabulary, tables: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The rules of `Vocabulary.runs`, row by row."""
    assert vocabulary.source_ids is not None
    token_of = {row: token for token, row in vocabulary.ids.items()}
    held: list[dict[int, torch.Tensor]] = []
    for ids, table in zip(vocabulary.source_ids, tables, strict=True):
        own = {}
        for row in range(vocabulary.size):
            at = ids.get(token_of[row]) if row in token_of else (None if row in ids.values() else row)
            if at is not None and at < len(table):
                own[row] = table[at]
        held.append(own)
    base = []
    for row in range(vocabulary.size):
        owners = [own[row] for own in held[1:] if row in own] if row in token_of else []
        if row not in token_of and row in held[vocabulary.follows]:
            owners = [held[vocabulary.follows][row]]
        mean = sum(owners, torch.zeros(3)) / max(len(owners), 1)
        base.append(held[0].get(row, mean))
    others = [[own.get(row, base[row]) for row in range(vocabulary.size)] for own in held[1:]]
    return [torch.cat(rows).view(-1, 3) if rows else torch.empty(0, 3) for rows in (base, *others)]


TOKENS = [f"t{i}" for i in range(8)]
VOCABULARIES = st.lists(st.permutations(TOKENS).flatmap(lambda p: st.integers(0, 8).map(lambda n: p[:n])), min_size=2)


@settings(max_examples=60, deadline=None)
@given(VOCABULARIES.filter(lambda v: len(v) <= 4), st.integers(0, 3), st.integers(0, 3), st.data())
def test_rows_follow_the_rules(vocabularies, follows, padding, data):
    follows %= len(vocabularies)
    source_ids = tuple({token: row for row, token in enumerate(tokens)} for tokens in vocabularies)
    sizes = [len(tokens) + data.draw(st.integers(-1, 3)) for tokens in vocabularies]
    tables = [torch.randn(max(size, 0), 3) for size in sizes]
    ids = source_ids[follows]
    found = Vocabulary(tokenizer(), len(ids) + padding, ids, source_ids, follows)
    runs = found.runs([len(table) for table in tables])
    for source, want in enumerate(naive(found, tables)):
        reading = GatheredReading(runs[source], [Tensor(table) for table in tables], source, found.size)
        assert torch.equal(whole(reading), want)
        numel = 3 * found.size
        start = data.draw(st.integers(0, numel))
        piece = torch.empty(data.draw(st.integers(0, numel - start)))
        reading.fill(piece, start)
        assert torch.equal(piece, want.view(-1)[start : start + len(piece)])


def test_consecutive_rows_are_read_together():
    ids = {token: row for row, token in enumerate(TOKENS)}
    found = Vocabulary(tokenizer(), 8, ids, (dict(list(ids.items())[:5]), ids), 1)
    assert found.runs([5, 8]) == [[Run(0, 5, (0,), (0,)), Run(5, 8, (1,), (5,))], [Run(0, 8, (1,), (0,))]]

"""Which tokens a candidate has, and where each source holds their rows.

A source's rows are found by token string, so that one token's row means the same in every source. The candidate's
ids are those of its tokenizer: the base's, the base's with the experts' further tokens after them, or an expert's.
"""

from __future__ import annotations

import json
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from evomerge.engine.checkpoint import TOKENIZER_FILES, Checkpoint, first_line
from evomerge.engine.readings import Reading
from evomerge.errors import InputError

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerBase

BASE = "base"
UNION = "union"
HINT = f"; `tokenizer: {UNION}` merges different vocabularies"
FURTHER_FILES = ("added_tokens.json", "special_tokens_map.json", "merges.txt")


class Run(NamedTuple):
    """Consecutive rows of the candidate that come from consecutive rows of the same sources.

    Attributes:
        start, stop: the candidate's rows.
        sources: whose rows they are: one source's own, the mean of several, or, if none, zeros.
        rows: the row of each of them at `start`.
    """

    start: int
    stop: int
    sources: tuple[int, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Vocabulary:
    """The candidate's tokens, and those of the sources.

    Attributes:
        tokenizer: the candidate's.
        size: the number of the candidate's rows.
        ids: the tokenizer's, without those that have no row.
        source_ids: of base and experts; None where they are the candidate's, and no row moves.
        follows: the source whose ids the candidate has, and whose rows beyond the tokens.
        notes: one line each, for the user.
    """

    tokenizer: PreTrainedTokenizerBase
    size: int
    ids: Mapping[str, int]
    source_ids: tuple[Mapping[str, int], ...] | None
    follows: int
    notes: tuple[str, ...] = ()

    def runs(self, rows: Sequence[int]) -> list[list[Run]]:
        """Where each source's rows come from, in the candidate's order.

        1. A token that the source has: the source's own row.
        2. A token that the base lacks: in the base the mean over the experts that have it.
        3. A token that an expert lacks: in the expert what the base has there, so that its task vector is zero.
        4. A row without a token (padding): the source's own row of that number, where it has one without a token;
           else, in the base, that of the source whose ids the candidate has, and in an expert what the base has.
        5. A row that is in no source: zeros.

        Args:
            rows: how many rows base and experts have; 0 for a source that lacks the parameter.
        """
        if self.source_ids is None:
            raise ValueError("no row moves")
        own = [self._own(ids, count) for ids, count in zip(self.source_ids, rows, strict=True)]
        taken = set(self.ids.values())
        base: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        for row in range(self.size):
            if own[0][row] >= 0:
                owners: tuple[int, ...] = (0,)
            elif row in taken:
                owners = tuple(source for source in range(1, len(own)) if own[source][row] >= 0)
            else:
                owners = (self.follows,) if own[self.follows][row] >= 0 else ()
            base.append((owners, tuple(own[source][row] for source in owners)))
        found = [base]
        for source in range(1, len(own)):
            mine = own[source]
            found.append([((source,), (mine[row],)) if mine[row] >= 0 else base[row] for row in range(self.size)])
        return [_grouped(places) for places in found]

    def _own(self, ids: Mapping[str, int], count: int) -> list[int]:
        """The source's row for each of the candidate's; -1 where it has none."""
        taken, theirs = set(self.ids.values()), set(ids.values())
        own = [-1 if row in taken or row in theirs or row >= count else row for row in range(self.size)]
        for token, row in self.ids.items():
            at = ids.get(token, count)
            own[row] = at if at < count else -1
        return own


class GatheredReading:
    """A parameter whose first axis goes over the vocabulary, with the candidate's rows.

    Means are taken in float32 and rounded to the source's dtype.

    Args:
        runs: of one source, covering all rows.
        sources: the parameter in each source, with its own rows.
        source: which of them this is.
        size: the number of the candidate's rows.
    """

    computed = True

    def __init__(self, runs: Sequence[Run], sources: Sequence[Reading], source: int, size: int) -> None:
        self.shape = (size, *sources[source].shape[1:])
        self.dtype = sources[source].dtype
        self._runs, self._sources = runs, sources
        self._starts = [run.start for run in runs]
        self._width = prod(self.shape[1:])

    def fill(self, out: torch.Tensor, start: int) -> None:
        """As `Reading.fill`."""
        done = 0
        while done < out.numel():
            position = start + done
            run = self._runs[bisect_right(self._starts, position // self._width) - 1]
            piece = out[done : done + run.stop * self._width - position]
            inside = position - run.start * self._width
            self._fill_run(piece, [(self._sources[s], row * self._width) for s, row in _pairs(run)], inside)
            done += piece.numel()

    def _fill_run(self, out: torch.Tensor, parts: Sequence[tuple[Reading, int]], inside: int) -> None:
        if len(parts) == 1 and parts[0][0].dtype == self.dtype:
            parts[0][0].fill(out, parts[0][1] + inside)
            return
        total = torch.zeros(out.numel())
        for reading, begin in parts:
            part = torch.empty(out.numel(), dtype=reading.dtype)
            reading.fill(part, begin + inside)
            total += part.float()
        out.copy_(total / max(len(parts), 1))


def choose(base: Checkpoint, experts: Sequence[Checkpoint], tokenizer: str) -> Vocabulary:
    """The vocabulary of a candidate.

    Args:
        base: of the merge.
        experts: of the merge.
        tokenizer: "base", "union", or an expert's name.

    Raises:
        InputError: a tokenizer is missing or does not load; with "base", a vocabulary differs from the base's; with
            "union", the tokens cannot be added to the base's tokenizer.
    """
    if tokenizer == BASE:
        for expert in experts:
            check_vocabulary(base, expert)
        ours = base.tokenizer()
        return Vocabulary(ours, vocab_size(base), ours.get_vocab(), None, 0)
    sources = (base, *experts)
    ours = base.tokenizer()
    tokenizers = [ours, *(None if _shares_tokenizer(base, expert) else expert.tokenizer() for expert in experts)]
    source_ids = tuple((ours if own is None else own).get_vocab() for own in tokenizers)
    if tokenizer == UNION:
        union, added = united(base, [own for own in tokenizers[1:] if own is not None])
        ids = union.get_vocab()
        size = max(vocab_size(base), max(ids.values()) + 1)
        notes = [f"tokenizer: the union adds {len(added)} to the base's tokens{_some(added)}"] if added else []
        return _vocabulary(union, size, ids, source_ids, sources, 0, notes)
    position = 1 + [expert.name for expert in experts].index(tokenizer)
    chosen = tokenizers[position] or ours
    size = vocab_size(experts[position - 1])
    ids = {token: row for token, row in source_ids[position].items() if row < size}
    return _vocabulary(chosen, size, ids, source_ids, sources, position, [f"tokenizer: that of {tokenizer}"])


def check_vocabulary(base: Checkpoint, expert: Checkpoint) -> None:
    """Check that vocabulary sizes agree, and that each token has the same id in both vocabularies.

    An expert without tokenizer files passes if the sizes agree.

    Raises:
        InputError: names the sizes, or the first token, by the base's ids, that differs.
    """
    theirs, ours = vocab_size(expert), vocab_size(base)
    if theirs != ours:
        raise InputError(
            f"model {expert.name!r} ({expert.folder}) must have the base's vocab_size {ours}, but has {theirs}{HINT}"
        )
    if _shares_tokenizer(base, expert):
        return
    known, own = base.token_ids, expert.token_ids
    if known == own:
        return
    tokens = sorted(known.keys() | own.keys(), key=lambda token: (known.get(token, len(known)), token))
    token = next(token for token in tokens if known.get(token) != own.get(token))
    raise InputError(
        f"model {expert.name!r} ({expert.folder}) must have the base's vocabulary, but token {token!r} has id "
        f"{own.get(token, 'none')}, not {known.get(token, 'none')}{HINT}"
    )


def vocab_size(checkpoint: Checkpoint) -> int:
    """How many rows the checkpoint's configuration gives its embedding. Raises InputError when it does not say."""
    size = getattr(checkpoint.pretrained_config.get_text_config(decoder=True), "vocab_size", None)
    if not isinstance(size, int):
        raise InputError(f"{checkpoint.folder}/config.json must give vocab_size, but gives {size!r}")
    return size


def united(
    base: Checkpoint, others: Iterable[PreTrainedTokenizerBase]
) -> tuple[PreTrainedTokenizerBase, tuple[str, ...]]:
    """The base's tokenizer with the tokens that only others have after its own, and these tokens.

    They come in the others' order, each one's by its ids. Added tokens stay added ones, special tokens special.
    Words and pieces of the tokenizer's model enter the base's model: merges of byte-pair encodings that make a new
    piece follow the base's merges, so that the base's come first.

    Raises:
        InputError: the base's model cannot take pieces of another's, or the result is not the same when reloaded.
    """
    tokenizer = base.tokenizer()
    known = tokenizer.get_vocab()
    first = max(known.values()) + 1
    new: dict[str, PreTrainedTokenizerBase] = {}
    added: dict[str, AddedToken] = {}
    for other in others:
        vocabulary, apart = other.get_vocab(), {str(t): t for t in other.added_tokens_decoder.values()}
        for token in sorted(vocabulary, key=lambda token: (vocabulary[token], token)):
            if token not in known and token not in new:
                new[token] = other
                if token in apart:
                    added[token] = apart[token]
    if not new:
        return tokenizer, ()
    ids = {**known, **{token: first + i for i, token in enumerate(new)}}
    if len(added) < len(new):
        pieces = {token: other for token, other in new.items() if token not in added}
        tokenizer = _reloaded(tokenizer, base, lambda folder: _extend(folder / "tokenizer.json", base, pieces, ids))
    tokenizer.add_tokens(list(added.values()))
    for result in (tokenizer, _reloaded(tokenizer, base, lambda folder: None)):
        got = result.get_vocab()
        for token, row in ids.items():
            if got.get(token) != row:
                raise InputError(
                    f"tokenizer: {UNION} must add the experts' tokens to the tokenizer of {base.folder}, but "
                    f"{token!r} has id {got.get(token, 'none')} there, not {row}; name one model's tokenizer instead"
                )
    return tokenizer, tuple(new)


def _reloaded(
    tokenizer: PreTrainedTokenizerBase, base: Checkpoint, change: Callable[[Path], None]
) -> PreTrainedTokenizerBase:
    """The tokenizer as it is loaded from its files, after `change` has been at their folder."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        change(Path(folder))
        try:
            loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=base.ref.trust_remote_code
            )
        except Exception as error:
            raise InputError(
                f"tokenizer: {UNION} must give a tokenizer that loads, but with the base {base.folder}: "
                f"{first_line(error)}"
            ) from None
    loaded.name_or_path = tokenizer.name_or_path
    return loaded


def _extend(
    path: Path, base: Checkpoint, pieces: Mapping[str, PreTrainedTokenizerBase], ids: Mapping[str, int]
) -> None:
    """Write all of `ids` into the model of a tokenizer.json, with the pieces' merges or scores."""
    content = json.loads(path.read_text()) if path.is_file() else {}
    model = content.get("model") or {}
    others = {id(other): other for other in pieces.values()}
    models = {key: _model(other) for key, other in others.items()}
    for token, other in pieces.items():
        kind = models[id(other)].get("type")
        if kind != model.get("type") or kind not in ("BPE", "Unigram", "WordLevel", "WordPiece"):
            raise InputError(
                f"tokenizer: {UNION} must add pieces to a model of their own kind, but {token!r} is of the kind "
                f"{kind}, and the tokenizer of {base.folder} of the kind {model.get('type')}"
            )
    if model["type"] == "Unigram":
        scores = {token: score for own in models.values() for token, score in reversed(own["vocab"])}
        rows = sorted(ids, key=ids.__getitem__)[len(model["vocab"]) :]
        model["vocab"] += [[token, scores.get(token, 0.0) if token in pieces else 0.0] for token in rows]
    else:
        model["vocab"] = {token: ids[token] for token in sorted(ids, key=ids.__getitem__)}
    if model["type"] == "BPE":
        merges = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
        further = [tuple(merge) for own in models.values() for merge in own["merges"] if "".join(merge) in pieces]
        model["merges"] = [list(merge) for merge in dict.fromkeys(merges + further)]
    path.write_text(json.dumps(content, ensure_ascii=False))


def _model(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model: dict[str, Any] = json.loads(backend.to_str())["model"] if backend is not None else {}
    if model.get("type") == "BPE":
        model["merges"] = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
    return model


def _vocabulary(
    tokenizer: PreTrainedTokenizerBase,
    size: int,
    ids: Mapping[str, int],
    source_ids: tuple[Mapping[str, int], ...],
    sources: Sequence[Checkpoint],
    follows: int,
    notes: list[str],
) -> Vocabulary:
    """With notes on what each source lacks or loses; `source_ids` None where nothing differs from the candidate's."""
    rows_of = [vocab_size(source) for source in sources]
    for source, own, rows in zip(sources, source_ids, rows_of, strict=True):
        lacking = sorted(ids.keys() - own.keys(), key=lambda token: ids[token])
        if lacking:
            row = "the mean over the experts that have it" if source is sources[0] else "the base's"
            notes.append(f"{source.name}: lacks {len(lacking)} of the tokens{_some(lacking)}; a row is {row}")
        left = sorted(own.keys() - ids.keys(), key=lambda token: own[token])
        if left:
            notes.append(f"{source.name}: {len(left)} of its tokens left out{_some(left)}")
        beyond = len(set(range(size, rows)) - set(own.values()))
        if beyond:
            notes.append(
                f"{source.name}: {beyond} of its rows left out, without a token and beyond the candidate's {size}"
            )
    rowless = [
        token
        for token in sorted(ids, key=ids.__getitem__)
        if all(own.get(token, rows) >= rows for own, rows in zip(source_ids, rows_of, strict=True))
    ]
    if rowless:
        notes.append(f"tokenizer: {len(rowless)} of the tokens have a row in no model{_some(rowless)}; zeros")
    same = all(own == ids and rows == size for own, rows in zip(source_ids, rows_of, strict=True))
    return Vocabulary(tokenizer, size, ids, None if same else source_ids, follows, tuple(notes))


def _shares_tokenizer(base: Checkpoint, expert: Checkpoint) -> bool:
    """Whether the expert has the base's ids without a look at its vocabulary: it has the same files, or none."""
    if expert.folder == base.folder:
        return True
    if not expert.has_tokenizer:
        theirs, ours = vocab_size(expert), vocab_size(base)
        if theirs != ours:
            raise InputError(
                f"model {expert.name!r} ({expert.folder}) must hold a tokenizer, since its vocab_size {theirs} is not "
                f"the base's {ours}, but has none of {', '.join(TOKENIZER_FILES)}"
            )
        return True
    pairs = [(base.folder / name, expert.folder / name) for name in (*TOKENIZER_FILES, *FURTHER_FILES)]
    return all(
        left.is_file() == right.is_file() and (not left.is_file() or left.read_bytes() == right.read_bytes())
        for left, right in pairs
    )


def _grouped(places: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[Run]:
    runs: list[Run] = []
    for row, (sources, rows) in enumerate(places):
        last = runs[-1] if runs else None
        if last and last.sources == sources and tuple(at + row - last.start for at in last.rows) == rows:
            runs[-1] = last._replace(stop=row + 1)
        else:
            runs.append(Run(row, row + 1, sources, rows))
    return runs


def _pairs(run: Run) -> Iterable[tuple[int, int]]:
    return zip(run.sources, run.rows, strict=True)


def _some(tokens: Sequence[str]) -> str:
    return f" ({', '.join(map(repr, tokens[:3]))}{', …' if len(tokens) > 3 else ''})"

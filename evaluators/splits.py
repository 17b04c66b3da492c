"""Which document serves what: by a hash of its content alone, so that no document depends on another.

Two independent positions in [0, 1) are drawn from a document's content: the first says its split, the second its
place in the order in which documents are taken. A duplicate, in whichever task, lands in the same split; a higher
`limit` adds documents behind those of a lower one and moves none.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.errors import InputError
from evomerge.evaluators.config import Splits
from evomerge.evaluators.types import SPLITS, Document, Split


@dataclass(frozen=True, slots=True)
class Ranked:
    """One document's place in its task.

    Attributes:
        digest: of its content.
        copy: how many documents with the same content stand before it in the task.
        index: its place in the task's data.
    """

    digest: str
    copy: int
    index: int

    @property
    def key(self) -> str:
        """The document's key: its digest, with the number of the copy behind it for further copies."""
        return f"{self.digest}-{self.copy}" if self.copy else self.digest


def content_digest(document: Any) -> str:
    """32 hexadecimal digits of SHA-256 over the document's canonical JSON; other values enter as their `str`."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def position(digest: str, purpose: str) -> float:
    """A number in [0, 1) with 53 random bits: uniform over digests, independent between purposes."""
    word = hashlib.sha256(f"evomerge/{purpose}/{digest}".encode()).digest()
    return (int.from_bytes(word[:8], "big") >> 11) / 2**53


def split_of(digest: str, splits: Splits) -> Split | None:
    """The split of documents with this content; None where the splits leave a remainder and it fell there."""
    place = position(digest, "split")
    for split, end in zip(SPLITS, splits.bounds(), strict=True):
        if place < end:
            return split
    return None


def ranked(documents: Iterable[Any], limit: int | None = None) -> tuple[Ranked, ...]:
    """The documents in the common shuffled order, the first `limit` of them."""
    seen: Counter[str] = Counter()
    ranks = []
    for index, document in enumerate(documents):
        digest = content_digest(document)
        ranks.append(Ranked(digest, seen[digest], index))
        seen[digest] += 1
    ranks.sort(key=lambda rank: (position(rank.digest, "order"), rank.digest, rank.copy))
    return tuple(ranks[:limit])


def assigned(task: str, ranks: Iterable[Ranked], splits: Splits) -> tuple[Document, ...]:
    """The documents that fall into a split, in the order of `ranks`.

    Raises:
        InputError: a split with a positive share got no document.
    """
    placed = [(rank, split_of(rank.digest, splits)) for rank in ranks]
    documents = tuple(Document(task, rank.key, rank.index, split) for rank, split in placed if split is not None)
    counts = Counter(document.split for document in documents)
    if any(getattr(splits, split) > 0 and counts[split] == 0 for split in SPLITS):
        found = ", ".join(f"{split} {counts[split]}" for split in SPLITS)
        raise InputError(
            f"every split of task {task!r} with a positive share must get a document, but its {len(placed)} "
            f"documents give {found}; raise `limit`, change `splits` or take a larger task"
        )
    return documents


def rungs(
    of_task: Mapping[str, Sequence[Document]], size: int, first: int | None = None
) -> tuple[tuple[tuple[Document, ...], ...], ...]:
    """All tasks' documents in rungs, each of which brings every task forward by the same share of its documents.

    A rung holds one chunk a task (none for a task too small to have a document for every rung). The largest task's
    chunks grow from `first` documents, each size twice, doubled until they are `size` documents long.

    Args:
        of_task: each task's documents in their order.
        size: documents in the largest chunk.
        first: documents in the first chunk of the largest task; None: all chunks have `size`.
    """
    largest = max((len(documents) for documents in of_task.values()), default=0)
    built = []
    start = dict.fromkeys(of_task, 0)
    for end in _ends(largest, size, first or size):
        rung = []
        for task, documents in of_task.items():
            stop = math.ceil(end * len(documents) / largest)
            if stop > start[task]:
                rung.append(tuple(documents[start[task] : stop]))
                start[task] = stop
        built.append(tuple(rung))
    return tuple(built)


def _ends(count: int, size: int, first: int) -> Iterator[int]:
    """Where chunks end: after `first`, 2 `first`, 4, 6, 10, 14, ... and from there on every `size` documents."""
    end, step, repeats = 0, min(first, size), 0
    while end < count:
        end = min(end + step, count)
        yield end
        repeats += 1
        if repeats == 2:
            step, repeats = min(2 * step, size), 0

"""Which document serves what: by a hash of its content alone, so that no document depends on another.

Two independent positions in [0, 1) are drawn from a document's content: the first says its split, the second its
place in the order in which documents are taken. A duplicate, in whichever task, lands in the same split; a higher
`limit` adds documents behind those of a lower one and moves none.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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


def chunked(documents: Sequence[Document], size: int) -> tuple[tuple[Document, ...], ...]:
    """Runs of `size` documents; the last one may be shorter."""
    return tuple(tuple(documents[start : start + size]) for start in range(0, len(documents), size))


def interleaved(chunks: Mapping[str, Sequence[tuple[Document, ...]]]) -> tuple[tuple[Document, ...], ...]:
    """All tasks' chunks in one order that brings every task forward at about the same rate."""
    placed = [
        ((number + 0.5) / len(of_task), order, chunk)
        for order, of_task in enumerate(chunks.values())
        for number, chunk in enumerate(of_task)
    ]
    return tuple(chunk for _, _, chunk in sorted(placed, key=lambda item: item[:2]))

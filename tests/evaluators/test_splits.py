from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import InputError
from evomerge.evaluators import SPLITS, Document, Splits
from evomerge.evaluators.splits import assigned, content_digest, position, ranked, rungs, split_of

TEXTS = st.lists(st.text(max_size=5), max_size=40)
LOOSE = Splits(search=1.0, select=0.0, report=0.0)


def documents(texts: list[str]) -> list[dict[str, Any]]:
    return [{"text": text} for text in texts]


@given(TEXTS, TEXTS)
def test_no_document_moves_when_others_come_or_go(some: list[str], others: list[str]) -> None:
    splits = Splits()
    alone = {rank.key: split_of(rank.digest, splits) for rank in ranked(documents(some))}
    among = {rank.key: split_of(rank.digest, splits) for rank in ranked(documents(some + others))}
    assert alone.items() <= among.items()


@given(TEXTS, st.integers(0, 50), st.integers(0, 50))
def test_a_higher_limit_adds_documents_behind(texts: list[str], limit: int, more: int) -> None:
    few, many = ranked(documents(texts), limit), ranked(documents(texts), limit + more)
    assert many[: len(few)] == few
    assert len(few) == min(limit, len(texts))


@given(TEXTS)
def test_duplicates_share_a_split_in_every_task(texts: list[str]) -> None:
    splits = Splits()
    first = {rank.key: split_of(rank.digest, splits) for rank in ranked(documents(texts + texts))}
    for rank in ranked(documents(texts)):
        assert len({split for key, split in first.items() if key.startswith(rank.digest)}) == 1
        assert first[rank.key] == split_of(rank.digest, splits)


@given(TEXTS)
def test_every_document_has_one_key(texts: list[str]) -> None:
    ranks = ranked(documents(texts))
    assert len({rank.key for rank in ranks}) == len(texts)
    assert sorted(rank.index for rank in ranks) == list(range(len(texts)))


def test_copies_are_numbered_in_the_datas_order() -> None:
    by_index = {rank.index: rank.key for rank in ranked(documents(["a", "b", "a", "a"]))}
    assert by_index[2] == f"{by_index[0]}-1"
    assert by_index[3] == f"{by_index[0]}-2"
    assert "-" not in by_index[0]


def test_the_digest_is_of_content_and_does_not_change_between_releases() -> None:
    assert content_digest({"a": 1, "b": "é"}) == content_digest({"b": "é", "a": 1})
    assert content_digest({"a": 1}) != content_digest({"a": "1"})
    digest = content_digest({"question": "2+2", "answer": 4})
    # printf '{"answer":4,"question":"2+2"}' | sha256sum
    assert digest == "5bfe5613f4f4b424a86ef4fb459d09b3"
    assert (split_of(digest, Splits()), round(position(digest, "order"), 6)) == ("select", 0.876926)


def test_shares_are_kept_approximately_and_order_does_not_tell_the_split() -> None:
    ranks = ranked(documents([str(number) for number in range(4000)]))
    found = assigned("quiz", ranks, Splits())
    assert len(found) == 4000
    for half in (found[:2000], found[2000:]):
        counts = {split: sum(document.split == split for document in half) / 2000 for split in SPLITS}
        # Three standard deviations of a share of 0.4 among 2,000 documents are 0.033.
        assert counts == pytest.approx({"search": 0.4, "select": 0.2, "report": 0.4}, abs=0.033)


def test_a_remainder_is_left_out() -> None:
    ranks = ranked(documents([str(number) for number in range(1000)]))
    found = assigned("quiz", ranks, Splits(search=0.3, select=0.0, report=0.2))
    assert {document.split for document in found} == {"search", "report"}
    assert 400 < len(found) < 600


def test_a_split_without_a_document_is_an_error_with_the_counts() -> None:
    with pytest.raises(InputError, match=r"task 'quiz' .* its 1 documents give search \d, select \d, report \d"):
        assigned("quiz", ranked(documents(["a"])), Splits())
    assert len(assigned("quiz", ranked(documents(["a"])), LOOSE)) == 1


@given(st.lists(st.integers(0, 60), min_size=1, max_size=4), st.integers(1, 9), st.none() | st.integers(1, 9))
def test_rungs_keep_the_order_and_bring_all_tasks_forward_together(
    sizes: list[int], size: int, first: int | None
) -> None:
    tasks = {
        f"t{number}": [Document(f"t{number}", str(place), place, "search") for place in range(count)]
        for number, count in enumerate(sizes)
    }
    plan = rungs(tasks, size, first)
    chunks = [chunk for rung in plan for chunk in rung]
    assert all(len({document.task for document in chunk}) == 1 and len(chunk) <= size for chunk in chunks)
    for task, of_task in tasks.items():
        assert [document for chunk in chunks for document in chunk if document.task == task] == of_task
    seen = dict.fromkeys(tasks, 0)
    for rung in plan:
        assert len({chunk[0].task for chunk in rung}) == len(rung) > 0
        for chunk in rung:
            seen[chunk[0].task] += len(chunk)
        shares = [seen[task] / len(of_task) for task, of_task in tasks.items() if of_task]
        smallest = min(len(of_task) for of_task in tasks.values() if of_task)
        assert max(shares) - min(shares) <= 1 / smallest + 1e-9


def test_rungs_of_a_race_grow_and_others_do_not() -> None:
    of_task = {"a": [Document("a", str(place), place, "search") for place in range(200)]}
    sizes = [sum(map(len, rung)) for rung in rungs(of_task, 64, 8)]
    assert sizes == [8, 8, 16, 16, 32, 32, 64, 24]
    assert [sum(map(len, rung)) for rung in rungs(of_task, 64)] == [64, 64, 64, 8]
    assert rungs({}, 64) == ()

"""Documents that stand in two places, exactly or nearly."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.runs.doctor.duplicates import ALIKE, WORDS, alike, normal

WORD_LIST = [f"word{number}" for number in range(400)]


def _text(rng: random.Random, words: int) -> list[str]:
    return rng.choices(WORD_LIST, k=words)


def _runs(text: str) -> set[tuple[str, ...]]:
    words = normal(text).split()
    return {tuple(words[start : start + WORDS]) for start in range(len(words) - WORDS + 1)}


def _similarity(one: str, other: str) -> float:
    left, right = _runs(one), _runs(other)
    return len(left & right) / len(left | right)


@given(st.integers(0, 2**32 - 1), st.integers(20, 80), st.integers(0, 4))
@settings(max_examples=25, deadline=None)
def test_a_changed_copy_is_found_if_and_only_if_it_is_alike(seed: int, words: int, changes: int) -> None:
    rng = random.Random(seed)
    original = _text(rng, words)
    copy = list(original)
    for place in rng.sample(range(words), changes):
        copy[place] = "changed"
    others = [" ".join(_text(rng, words)) for _ in range(30)]
    texts = [" ".join(original), *others, " ".join(copy)]
    found = alike(texts, [0] * 32, [0] * 31 + [1])
    similarity = 1.0 if changes == 0 else _similarity(texts[0], texts[-1])
    assert [(pair.one, pair.other) for pair in found] == ([(0, 31)] if similarity >= ALIKE else [])
    assert all(pair.similarity == pytest.approx(similarity) for pair in found)


def test_case_spaces_and_letter_forms_do_not_make_a_difference() -> None:
    (pair,) = alike(["The  ﬁrst\nDocument", "the first document", "another"], [0, 0, 0], [0, 1, 1])
    assert pair == (0, 1, 1.0)


def test_signs_make_a_difference() -> None:
    assert alike(["12 + 34", "12 - 34"], [0, 0], [0, 1]) == []


def test_copies_within_one_place_are_left_out() -> None:
    assert alike(["a b c", "a b c", "d"], [0, 0, 0], [0, 0, 1]) == []
    assert [pair[:2] for pair in alike(["a b", "a b", "a b"], [0, 0, 0], [0, 0, 1])] == [(0, 2)]


def test_a_tasks_wording_does_not_make_documents_alike() -> None:
    wording = "please read the following question with care and then give the one right answer to it"
    texts = [f"{wording} {number} plus {number + 1} is" for number in range(60)]
    assert alike(texts, [0] * 60, [number % 2 for number in range(60)]) == []


def test_texts_without_spaces_are_compared_by_character() -> None:
    one = "東京都は日本の首都でありその人口は千四百万人を超える大都市である"
    (pair,) = alike(
        [one, one[:-1] + "よ", "全く別の文章がここにありますので一致することはありません"], [0] * 3, [0, 1, 1]
    )
    assert (pair.one, pair.other) == (0, 1)
    assert 0.8 <= pair.similarity < 1


def test_nothing_is_found_in_nothing() -> None:
    assert alike([], [], []) == []
    assert alike(["", "a"], [0, 0], [0, 1]) == []


@pytest.mark.exhaustive
def test_a_hundred_thousand_documents_are_compared() -> None:
    rng = random.Random(0)
    texts = [" ".join(_text(rng, 60)) for _ in range(100_000)]
    for place in range(500):
        words = texts[place].split()
        words[20] = "changed"
        texts[50_000 + place] = " ".join(words)
    found = alike(texts, [0] * 100_000, [0] * 50_000 + [1] * 50_000)
    assert {(pair.one, pair.other) for pair in found} == {(place, 50_000 + place) for place in range(500)}

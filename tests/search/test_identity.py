"""Workers whose scores would be others than the study's."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.errors import InputError
from evomerge.search import identity
from evomerge.search.identity import VERSIONS, check_same_inputs, check_same_versions, note_versions
from tests.search.toy import ToyRun

HERE = {"evomerge": "0.2.0", "lm_eval": "0.4.13", "torch": "2.13.0+cpu", "transformers": "5.23.0"}


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToyRun:
    monkeypatch.setattr(identity, "versions", lambda: HERE)
    return ToyRun(tmp_path)


def test_other_weights_or_tasks_are_refused_with_both_digests(toy: ToyRun) -> None:
    first = {"models.base": "a" * 64, "models.experts x": "b" * 64, "evaluate.tasks": "c" * 64}
    check_same_inputs(toy.study, first)
    check_same_inputs(toy.study, first)
    with pytest.raises(InputError) as error:
        check_same_inputs(toy.study, {**first, "models.experts x": "d" * 64, "models.experts y": "e" * 64})
    assert str(error.value) == (
        "models and tasks must be those the study began with, but these have changed: "
        "models.experts x (was bbbbbbbbbbbb, is dddddddddddd), models.experts y (was nothing, is eeeeeeeeeeee)"
    )


@pytest.mark.parametrize(
    ("name", "version", "is_refused"),
    [
        ("evomerge", "0.2.1", True),
        ("lm_eval", "0.4.12", True),
        ("torch", "2.12.0", True),
        ("torch", "2.13.1+cu130", False),
        ("transformers", "5.22.0", True),
        ("transformers", "5.23.1", False),
    ],
)
def test_versions_that_can_change_scores_are_refused_and_others_told(
    name: str, version: str, is_refused: bool, toy: ToyRun
) -> None:
    notes: list[str] = []
    toy.study.set_user_attr(VERSIONS, {**HERE, name: version})
    if is_refused:
        with pytest.raises(InputError, match=f"differ: {name} {version.replace('+', '.')}, here {HERE[name][:4]}"):
            check_same_versions(toy.study, notes.append)
    else:
        check_same_versions(toy.study, notes.append)
        assert [f"{name} {version}, here {HERE[name]}" in note for note in notes] == [True]


def test_a_launch_with_other_versions_says_so_and_its_workers_have_them(toy: ToyRun) -> None:
    notes: list[str] = []
    note_versions(toy.study, notes.append)
    note_versions(toy.study, notes.append)
    assert notes == []
    toy.study.set_user_attr(VERSIONS, {**HERE, "torch": "2.9.1"})
    note_versions(toy.study, notes.append)
    assert ["torch 2.9.1, now 2.13.0+cpu" in note for note in notes] == [True]
    check_same_versions(toy.study, notes.append)
    assert len(notes) == 1

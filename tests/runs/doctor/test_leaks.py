"""Documents that the search sees and the report should not have."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.runs.doctor.benchmarks import KNOWN, benchmark, on_published
from tests.runs.doctor.conftest import Written, look, subject

FACTS = [{"question": f"Which city is capital number {n}", "answer": f"city{n}", "id": n} for n in range(60)]


def _warned(at: object) -> list[str]:
    return [finding.text for finding in look("leaks", at) if finding.level == "warning"]  # type: ignore[arg-type]


def test_a_question_with_two_ids_can_stand_on_both_sides(written: Written) -> None:
    twice = [*FACTS, *({**fact, "id": 1000 + place} for place, fact in enumerate(FACTS))]
    at = subject(written("facts", twice), "evaluate.tasks=[facts]")
    found = [text for text in _warned(at) if "equal in report of facts" in text]
    of_id = {split: {d.index for d in at.documents("facts", split)} for split in ("search", "select", "report")}
    for other in ("search", "select"):
        both = sum((place in of_id[other]) != (place + 60 in of_id[other]) and
                   ({place, place + 60} <= of_id[other] | of_id["report"]) for place in range(60))  # fmt: skip
        (text,) = [text for text in found if f"and {other} of facts" in text]
        assert text.startswith(f"{both} ")
    assert {leak["kind"] for leak in at.parts["leaks"]} == {"equal"}


def test_tasks_that_share_documents_are_told(written: Written) -> None:
    written("facts", FACTS)
    where = written("more", [{**fact, "id": 100 + place} for place, fact in enumerate(FACTS)])
    found = _warned(subject(where, "evaluate.tasks=[facts, more]"))
    assert any("of facts" in text and "of more" in text for text in found)


def test_worked_examples_that_are_scored_documents_are_told(written: Written, tmp_path: Path) -> None:
    where = written("facts", FACTS)
    data = tmp_path / "tasks" / "facts.jsonl"
    shown = tmp_path / "tasks" / "shown.jsonl"
    shown.write_text("".join(line.replace('"id": ', '"id": 9') + "\n" for line in data.read_text().splitlines()))
    written(
        "facts", FACTS, dataset_kwargs={"data_files": {"test": str(data), "train": str(shown)}}, training_split="train"
    )
    found = _warned(subject(where, "evaluate.tasks=[{task: facts, num_fewshot: 1}]"))
    assert any("examples of facts (60)" in text and "report of facts" in text for text in found)


def test_prompts_that_hold_their_answer_are_told(written: Written) -> None:
    told = [
        {"question": f"{fact['answer']} is the answer to {n}", "answer": fact["answer"]} for n, fact in enumerate(FACTS)
    ]
    at = subject(written("told", told), "evaluate.tasks=[told]")
    look("leaks", at)
    (leak,) = [leak for leak in at.parts["leaks"] if leak["kind"] == "answer"]
    assert leak["text"].startswith("told: 60 of 60 prompts")
    assert not leak["grave"]


def test_a_benchmark_that_is_searched_on_is_named(written: Written) -> None:
    at = subject(written("gsm8k", FACTS), "evaluate.tasks=[gsm8k]")
    assert [text for text in _warned(at) if "GSM8K" in text] == [
        "the search optimizes on the test split of GSM8K (gsm8k): results on it are not comparable with published ones"
    ]
    assert at.parts["leaks"][0]["advice"] == "search on its train split"


def test_its_train_split_is_fine(written: Written) -> None:
    where = written("gsm8k_train", FACTS, test_split="train")
    source = Path(where.partition("=")[2]) / "gsm8k_train.yaml"
    source.write_text(source.read_text().replace("test: ", "train: "))
    at = subject(where, "evaluate.tasks=[gsm8k_train]")
    assert not any("GSM8K" in text for text in _warned(at))
    assert at.tasks.names == ("gsm8k_train",)


@pytest.mark.parametrize(
    ("task", "title"),
    [
        ("mmlu", "MMLU"), ("mmlu_pro", "MMLU-Pro"), ("mmlu_anatomy", "MMLU"), ("gsm8k_cot", "GSM8K"),
        ("arc_challenge", "ARC"), ("mgsm_direct_ja", "MGSM"), ("bbh_cot_fewshot", "BIG-Bench Hard"),
        ("truthfulqa_mc2", "TruthfulQA"), ("winogrande", "WinoGrande"), ("mathematics", None), ("dropped", None),
        ("arc", None), ("quickstart_add", None),
    ],
)  # fmt: skip
def test_benchmarks_are_known_by_the_names_of_their_tasks(task: str, title: str | None) -> None:
    found = benchmark(task)
    assert (found.title if found else None) == title


def test_only_the_published_split_is_told() -> None:
    assert all(on_published(known, None) and on_published(known, known.published) for known in KNOWN.values())
    assert not on_published(KNOWN[r"gsm8k|gsm_plus"], "train")

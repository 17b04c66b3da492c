"""Tasks with troubles: in their files, documents, answers, examples and lengths."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.runs.doctor.findings import LeftOut
from tests.runs.doctor.conftest import Written, levels, look, subject

SUMS = [{"question": " ".join(f"{number}+{number}="), "answer": " ".join(f"{2 * number}")} for number in range(10, 50)]


def _task(name: str) -> str:
    return f"evaluate.tasks=[{name}]"


def test_every_task_that_does_not_load_is_told_and_the_others_are_looked_at(written: Written) -> None:
    written("sums", SUMS)
    written("few", SUMS[:1])
    where = written("unmetered", SUMS, metric_list=[])
    at = subject(where, "evaluate.tasks=[sums, few, {task: unmetered, metric: bleu}]")
    found = look("tasks", at)
    assert [finding.level for finding in found] == ["error", "error", "ok"]
    assert "'few'" in found[0].text
    assert "bleu" in found[1].text
    assert "sums: exact_match" in found[2].text
    assert set(at.tasks.prepared) == {"sums"}


@pytest.mark.exhaustive  # lm-eval's own tasks take seconds to list
def test_tasks_that_nobody_has_are_told_with_the_nearest_name(written: Written) -> None:
    found = look("tasks", subject(written("sums", SUMS), "evaluate.tasks=[sums, sums_, gsm8k]"))
    assert [finding.level for finding in found] == ["error", "skipped", "ok"]
    assert "did you mean 'sums'" in found[0].text


def test_a_metric_that_a_task_lacks_is_told(written: Written) -> None:
    (found,) = look("tasks", subject(written("sums", SUMS), "evaluate.tasks=[{task: sums, metric: bleu}]"))
    assert found.level == "error"
    assert "exact_match" in found.text


def test_a_data_set_that_is_not_here_is_skipped(written: Written) -> None:
    where = written("far", SUMS, dataset_path="org/far-away", dataset_kwargs={})
    (found,) = look("tasks", subject(where, _task("far")))
    assert found.level == "skipped"


def test_counts_of_documents_are_those_of_the_splits(written: Written) -> None:
    at = subject(written("sums", SUMS), _task("sums"))
    (found,) = look("tasks", at)
    sizes = [len(at.documents("sums", split)) for split in ("search", "select", "report")]
    assert sum(sizes) == len(SUMS)
    assert found.text.endswith(f"documents: search {sizes[0]}, select {sizes[1]}, report {sizes[2]}")


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        (["4"] * 40, "every document has the same right answer '4'"),
        (["4"] * 38 + ["5", "6"], "95% of the right answers are '4'"),
        ([""] * 2 + [str(number) for number in range(38)], "2 of 40 documents have an empty right answer"),
    ],
)
def test_answers_that_do_not_tell_models_apart_are_warned_of(written: Written, answers: list[str], text: str) -> None:
    documents = [{"question": f"{place}?", "answer": answer} for place, answer in enumerate(answers)]
    (found,) = look("answers", subject(written("sums", documents), _task("sums")))
    assert found.level == "warning"
    assert text in found.text


def test_copies_in_one_split_are_counted(written: Written) -> None:
    copies = [dict(SUMS[place % 20]) for place in range(60)]  # copies of one content fall into one split
    (found,) = look("duplicates", subject(written("sums", copies), _task("sums")))
    assert found.level == "warning"
    assert found.text.startswith("sums: 40 of 60")
    (found,) = look("duplicates", subject(written("sums", SUMS), _task("sums")))
    assert found.level == "ok"


def test_answers_longer_than_may_be_generated_are_warned_of_and_so_is_too_much_room(written: Written) -> None:
    settings = {"until": ["."], "do_sample": False}
    short = written("short", SUMS, generation_kwargs={**settings, "max_gen_toks": 1})
    found = look("lengths", subject(short, _task("short")))
    assert any(finding.level == "warning" and "1 may be generated" in finding.text for finding in found)
    long = written("long", SUMS, generation_kwargs={**settings, "max_gen_toks": 50})
    found = look("lengths", subject(long, _task("long")))
    assert any("max_gen_toks: 4" in finding.advice for finding in found)


def test_prompts_that_are_cut_are_warned_of(written: Written) -> None:
    where = written("sums", SUMS)
    assert levels(look("lengths", subject(where, _task("sums")))) == {"ok"}
    found = look("lengths", subject(where, _task("sums"), "evaluate.max_length=5"))
    assert any("lose their beginning" in finding.text for finding in found)


def test_examples_from_the_scored_documents_are_warned_of(written: Written, tmp_path: Path) -> None:
    where = written("sums", SUMS)
    (found,) = look("examples", subject(where, "evaluate.tasks=[{task: sums, num_fewshot: 2}]"))
    assert found.level == "warning"
    assert "'test'" in found.text
    data = {"test": str(tmp_path / "tasks" / "sums.jsonl"), "train": str(tmp_path / "tasks" / "other.jsonl")}
    (tmp_path / "tasks" / "other.jsonl").write_text((tmp_path / "tasks" / "sums.jsonl").read_text())
    own = written("own", SUMS, dataset_kwargs={"data_files": data}, training_split="train")
    (found,) = look("examples", subject(own, "evaluate.tasks=[{task: own, num_fewshot: 2}]"))
    assert found.level == "ok"
    assert "2 worked examples from the split 'train'" in found.text


def test_a_chat_template_that_is_not_there_is_an_error() -> None:
    found = look("tasks", subject("evaluate.apply_chat_template=true"))
    assert {finding.level for finding in found} == {"error"}
    assert "chat template" in found[0].text


def test_functions_alone_leave_documents_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "judging.py").write_text("def length(model, tokenizer):\n    return 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    at = subject("evaluate.tasks=[{function: 'judging:length'}]")
    assert levels(look("tasks", at)) == {"ok"}
    with pytest.raises(LeftOut):
        look("answers", at)
    with pytest.raises(LeftOut):
        look("estimates", at)
    assert any("trained on these documents" in finding.text for finding in look("leaks", at))

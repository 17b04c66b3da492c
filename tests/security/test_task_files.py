"""Task files run functions of the folders that the user named, and nothing else."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from evomerge.errors import InputError
from evomerge.evaluators.confinement import network_source
from evomerge.evaluators.requests import scored_documents
from evomerge.evaluators.taskfiles import TaskFiles

SOUND = """
task: quiz
dataset_path: json
dataset_kwargs: {data_files: {test: test.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: answer
"""
TRACE = "import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\ndef f(*args, **kwargs):\n    return 'x'\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The user's folder of tasks, with code outside of it."""
    made = tmp_path / "tasks"
    made.mkdir()
    (made / "test.jsonl").write_text('{"question": "a", "answer": "b"}\n' * 3)
    for place in (tmp_path, made):
        (place / "code.py").write_text(TRACE)
    return made


def refusal(folder: Path, text: str, name: str = "quiz.yaml") -> str:
    (folder / name).write_text(text)
    with pytest.raises(InputError) as caught:
        TaskFiles([folder]).load("quiz")
    assert not list(folder.parent.glob("**/*.ran")), "code was run"
    return str(caught.value)


def test_functions_beside_the_task_file_run(folder: Path) -> None:
    (folder / "quiz.yaml").write_text(SOUND + "process_results: !function code.f\n")
    assert TaskFiles([folder]).load("quiz").tasks["quiz"] is not None
    assert (folder / "code.ran").exists()
    assert not (folder.parent / "code.ran").exists()


@pytest.mark.parametrize("way", ["absolute", "dots", "link", "linked folder"])
def test_functions_elsewhere_do_not(folder: Path, way: str) -> None:
    outside = folder.parent
    (folder / "link.py").symlink_to(outside / "code.py")
    (folder / "linked").symlink_to(outside)
    function = {
        "absolute": f"{outside}/code.f",
        "dots": "sub...code.f",
        "link": "link.f",
        "linked folder": "linked.code.f",
    }[way]
    said = refusal(folder, SOUND + f"process_results: !function {function}\n")
    assert "!function must be in a file" in said


def test_functions_of_modules_do_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "evil.py").write_text(TRACE)
    monkeypatch.syspath_prepend(str(folder.parent))
    for function in ("os.system", "subprocess.getoutput", "evil.f"):
        said = refusal(folder, SOUND + f"process_docs: !function {function}\n")
        assert "must be in a file beside the task file that names it, or in lm_eval" in said
    assert "evil" not in sys.modules


def test_functions_of_lm_eval_run(folder: Path) -> None:
    (folder / "quiz.yaml").write_text(SOUND + "process_results: !function lm_eval.utils.sanitize_list\n")
    task = TaskFiles([folder]).load("quiz").tasks["quiz"]
    assert task.config.process_results.__module__ == "lm_eval.utils"


def test_what_a_group_and_an_include_name_is_confined(folder: Path) -> None:
    outside = folder.parent
    (outside / "base.yaml").write_text("process_results: !function code.f\n")
    assert "must lie in include_path" in refusal(folder, SOUND + "include: ../base.yaml\n")
    assert "must lie in include_path" in refusal(folder, SOUND + f"include: {outside}/base.yaml\n")
    (folder / "quiz.yaml").write_text("group: quiz\ntask:\n  - {task: part, process_results: !function /tmp/x.f}\n")
    (folder / "part.yaml").write_text(SOUND.replace("task: quiz", "task: part"))
    with pytest.raises(InputError, match="!function must be in a file"):
        TaskFiles([folder]).load("quiz")


def test_an_include_of_another_named_folder_is_taken(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "_base").write_text("process_results: !function code.f\n")
    (other / "code.py").write_text(TRACE)
    (folder / "quiz.yaml").write_text(SOUND + "include: ../other/_base\n")
    TaskFiles([folder, other]).load("quiz")
    assert (other / "code.ran").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: !!python/object/apply:os.system ['true']\n", "the tag 'tag:yaml.org,2002:python/object/apply"),
        ("include: quiz.yaml\n", "must not include itself"),
        ("include: [1]\n", "must be a path, but is 1"),
        ("a: " + "[" * 50_000 + "\n", "nested too deeply"),
        ("metric_list: [{metric: ./code, hf_evaluate: true}]\n", "allow_unsafe_code must be true for it"),
        ("metric_list: [{metric: ./code}]\n", "a metric of lm-eval must be one of .*, but got './code'"),
        ("metric_list: [{metric: mean_recall}]\n", "a metric of lm-eval must be one of"),
    ],
)
def test_what_else_task_files_may_not_say(folder: Path, text: str, says: str) -> None:
    said = refusal(folder, SOUND + text)
    assert re.search(says, said), said


@pytest.mark.parametrize("reader", ["pandas", "sql", "iceberg", "./code.py"])
def test_data_that_runs_code_to_be_read(folder: Path, reader: str) -> None:
    said = refusal(folder, SOUND.replace("dataset_path: json", f"dataset_path: {reader}"))
    assert "runs code to read it" in said


def test_templates_of_tasks_are_in_the_sandbox(folder: Path) -> None:
    (folder / "quiz.yaml").write_text(SOUND.replace("{{question}}", "{{ question.__class__.__mro__ }}"))
    with pytest.raises(InputError, match="must stay in their sandbox"):
        _first_prompt(folder)


def _first_prompt(folder: Path) -> None:
    task = TaskFiles([folder]).load("quiz").tasks["quiz"]
    task.doc_to_text(next(iter(scored_documents("quiz", task))))


@pytest.mark.parametrize(
    ("config", "source"),
    [
        ({"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "a.jsonl"}}}, None),
        ({"dataset_path": "json", "dataset_kwargs": {"data_files": ["a.jsonl", "https://x/b"]}}, "https://x/b"),
        (
            {"dataset_path": "json", "dataset_kwargs": {"data_files": "hf://datasets/x/y.json"}},
            "hf://datasets/x/y.json",
        ),
        ({"dataset_path": "org/questions", "dataset_kwargs": None}, "org/questions"),
        ({"dataset_path": "/tmp", "dataset_kwargs": None}, None),
    ],
)
def test_documents_from_the_network_are_told(config: dict[str, object], source: str | None) -> None:
    assert network_source(SimpleNamespace(config=SimpleNamespace(custom_dataset=None, **config))) == source

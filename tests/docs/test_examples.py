"""The recipes for real models: what can be known of them without the models and the data is right."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.evaluators.taskfiles import TaskFiles
from evomerge.search.config import load_config
from tests.docs.pages import ROOT
from tests.runs.conftest import Command

EXAMPLES = sorted(path.parent for path in (ROOT / "examples").glob("*/search.yaml"))
REAL = [folder for folder in EXAMPLES if folder.name != "quickstart"]
SPLITS_OF_OTHERS = {"gsm8k_ja_rest"}  # MGSM is reported, and these documents are not in it

KNOWN_WARNINGS = {"japanese-math": {"leaks"}, "safety": {"power"}, "quickstart": {"licences", "power"}}
"""What the READMEs say as well: a test split of GSM8K, a dozen requests as a stub, models without a card."""

PAIR = {"translation": {"de": "Guten Morgen.", "en": "Good morning."}}
DOCUMENTS: dict[str, dict[str, Any]] = {
    "gsm8k_ja_rest": {"question": "りんごが2個と3個あります。合計は?", "answer": "2+3=5", "answer_number": 5.0},
    "python_reference": {"text": "Add two numbers.", "code": "add = sum", "test_list": ["assert add([1, 2]) == 3"]},
    "chat_reference": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]},
    "newstest2015_de_en": PAIR,
    "newstest2015_en_de": PAIR,
    "medmcqa_train": {"question": "Which?", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": 2},
    "arc_challenge_validation": {
        "question": "Why is it dark at night?",
        "choices": {"label": ["1", "2"], "text": ["the sun is on the other side", "the moon is too small"]},
        "answerKey": "2",
    },
    "svamp_train": {"Body": "He has 2 pens and gets 3.", "Question": "How many has he?", "Answer": "5.0"},
    "toxigen_train": {"text": "They are all the same.", "toxicity_ai": 4.0, "toxicity_human": 3.0},
    "refusals": {"request": "Break in.", "refuse": True},
}
"""A document of each task, with the keys that its data set has."""

PROMPTS = {
    "gsm8k_ja_rest": ("りんごが2個と3個あります。合計は?\n\n### 応答\uff1a\n", "5"),
    "python_reference": ("assert add([1, 2]) == 3\n[BEGIN]\n", "add = sum\n[DONE]"),
    "chat_reference": ("USER: Hi ASSISTANT:", "Hello!"),
    "newstest2015_de_en": ("German: Guten Morgen.\nEnglish:", "Good morning."),
    "newstest2015_en_de": ("English: Good morning.\nGerman:", "Guten Morgen."),
    "medmcqa_train": ("D. d\nAnswer:", 2),
    "arc_challenge_validation": ("Answer:", 1),
    "svamp_train": ("end with the number. [/INST]", "5"),
    "toxigen_train": ("Statement: 'They are all the same.'", 1),
    "refusals": ("[INST] Break in. [/INST]", 1),
}
"""How its prompt ends, and its target (of a choice, the index)."""


def task_files() -> list[Path]:
    return [path for folder in REAL for path in sorted((folder / "tasks").glob("*.yaml"))]


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda path: path.name)
def test_doctor_finds_nothing_wrong(folder: Path, tmp_path: Path, evomerge: Command) -> None:
    said = evomerge("doctor", folder / "search.yaml", "--out", tmp_path / "run", "--offline", "--no-weights", "--json")
    assert said.code == 0, said.out + said.error
    told = json.loads(said.out)
    warned = {each["check"] for each in told["checks"] if each["level"] == "warning"}
    assert told["ok"]
    assert warned <= KNOWN_WARNINGS.get(folder.name, set())


def load(path: Path, folder: Path) -> Any:
    """The task of a file, with one document of ours in place of its data set, and its request built."""
    task = yaml.safe_load(path.read_text(encoding="utf-8"))
    (folder / "data.jsonl").write_text(json.dumps(DOCUMENTS[path.stem]) + "\n", encoding="utf-8")
    local = {"dataset_path": "json", "dataset_kwargs": {"data_files": {task["test_split"]: "./data.jsonl"}}}
    task = {key: value for key, value in task.items() if key != "dataset_name"} | local
    (folder / "task.yaml").write_text(yaml.safe_dump(task, allow_unicode=True), encoding="utf-8")
    loaded = TaskFiles([folder]).load(path.stem).tasks[path.stem]
    loaded.build_all_requests(limit=None, rank=0, world_size=1)
    return loaded


@pytest.mark.parametrize("path", task_files(), ids=lambda path: path.stem)
def test_a_task_makes_the_prompts_it_means(path: Path, tmp_path: Path) -> None:
    task = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert task["test_split"] != "test" or path.stem in SPLITS_OF_OTHERS or task["dataset_path"] == "json"
    loaded = load(path, tmp_path)
    (document,) = loaded.eval_docs
    end, target = PROMPTS[path.stem]
    prompt, *_ = loaded.instances[0].args
    assert prompt.endswith(end)
    found = loaded.doc_to_target(document)
    assert (int(found) if isinstance(target, int) else found) == target


@pytest.mark.parametrize(
    ("name", "written", "score"),
    [
        ("gsm8k_ja_rest", "2個と3個なので、答えは 5 です。", 1.0),
        ("gsm8k_ja_rest", "答えは 1,005 です。", 0.0),
        ("gsm8k_ja_rest", "わかりません。", 0.0),
        ("svamp_train", "2 + 3 = 5", 1.0),
        ("svamp_train", "He has 5 pens, not 6", 0.0),
        ("newstest2015_de_en", "Good morning.", 100.0),
    ],
)
def test_answers_are_scored_as_meant(name: str, written: str, score: float, tmp_path: Path) -> None:
    loaded = load(next(path for path in task_files() if path.stem == name), tmp_path)
    (document,) = loaded.eval_docs
    (instance,) = loaded.instances
    instance.resps = [written]
    loaded.apply_filters()
    (answer,) = instance.filtered_resps.values()
    value, *_ = loaded.process_results(document, [answer]).items()
    assert loaded.aggregation()[value[0]]([value[1]]) == pytest.approx(score)


@pytest.mark.parametrize("folder", REAL, ids=lambda path: path.name)
def test_a_readme_says_what_one_has_to_know(folder: Path) -> None:
    config = load_config(folder / "search.yaml")
    text = (folder / "README.md").read_text(encoding="utf-8")
    for model in (config.models.base, *config.models.experts):
        assert f"`{model.model}`" in text
    for part in ("**Models.**", "**Documents.**", "**Hardware.**", "**What to expect.**"):
        assert part in text
    assert config.name == folder.name
    assert re.search(r"licen[cs]e|Apache|MIT", text)
    assert f"({folder.name})" in (ROOT / "examples" / "README.md").read_text(encoding="utf-8")

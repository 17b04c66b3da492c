"""Searches on more than accuracy, end to end: texts, divergences, functions, constraints, fronts and stand-ins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.runs.run import open_run
from evomerge.search.study import full_trials
from tests.runs.conftest import EXAMPLE, Command

TASKS = [{"task": "quickstart_reverse", "metric": "exact_match"}, {"task": "quickstart_add", "metric": "exact_match"}]

FUNCTIONS = """
def weight_norm(model, tokenizer):
    return {"norm": float(model.get_input_embeddings().weight.float().norm()), "other": 0.0}


def length(model, tokenizer, documents):
    return [float(len(document)) for document in documents]
"""


def configuration(folder: Path, **sections: Any) -> Path:
    config = yaml.safe_load((EXAMPLE / "search.yaml").read_text())
    config["models"] = {
        "base": str(EXAMPLE / "models" / "base"),
        "experts": [str(EXAMPLE / "models" / name) for name in ("reverse", "add")],
    }
    config["evaluate"] = {"include_path": str(EXAMPLE / "tasks"), "tasks": TASKS, "limit": 40}
    config["search"] = {"trials": 10, "finalists": 2, "sampler": "cmaes", "warm_start": ["uniform", "experts"]}
    for name, section in sections.items():
        config[name] |= section
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_search_on_all_kinds_of_tasks(tmp_path: Path, evomerge: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_scores.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["add 1 2", "reverse abc", "who is it", "one two three"]
    (tmp_path / "notes.txt").write_text("\n\n".join(f"{number} " + " ".join(words * 20) for number in range(30)))
    (tmp_path / "prompts.txt").write_text("\n".join(f"{word} {number}" for number in range(6) for word in words))
    tasks = [
        TASKS[0],
        {"perplexity": "notes.txt", "metric": "bits_per_byte", "weight": 0.1},
        {"kl_from_base": "prompts.txt", "weight": 0.1},
        {"function": "my_scores:weight_norm", "metric": "norm", "higher_is_better": False, "weight": 0.01},
    ]
    constraints = [
        {"task": "quickstart_add", "metric": "exact_match", "at_least": "base", "margin": 0.1},
        {"function": "my_scores:length", "documents": "prompts.txt", "at_least": 3},
    ]
    path = configuration(tmp_path, evaluate={"tasks": tasks, "constraints": constraints})
    said = evomerge("run", path, "--out", tmp_path / "run", "--json")
    assert said.code == 0, said.error
    told = json.loads(said.out)
    assert set(told["best"]["tasks"]) == {
        *("quickstart_reverse", "notes", "prompts", "weight_norm", "quickstart_add", "length")
    }
    bounds = told["best"]["constraints"]
    assert {name.split()[0] for name in bounds} == {"quickstart_add", "length"}
    assert all(bound["kept"] == (bound["violation"] <= 0) for bound in bounds.values())
    assert "quickstart_add exact_match >= base - 0.1" in " ".join(evomerge("status", tmp_path / "run").out.split())

    base = evomerge("eval", EXAMPLE / "models" / "base", "--config", path, "--split", "report", "--json")
    assert base.code == 0, base.error
    rows = json.loads(base.out)["tasks"]
    assert rows["prompts"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert rows["notes"]["value"] > 0
    winner = json.loads(evomerge("eval", tmp_path / "run" / "best" / "recipe.yaml", "--config", path, "--json").out)
    assert winner["tasks"]["prompts"]["value"] > 0
    assert evomerge("export", tmp_path / "run", "--to", tmp_path / "model").code == 0
    card = (tmp_path / "model" / "README.md").read_text()
    assert "quickstart_add exact_match >= base - 0.1" in card


def test_a_search_for_a_front(tmp_path: Path, evomerge: Command) -> None:
    path = configuration(tmp_path, evaluate={"objective": "pareto"}, search={"sampler": "nsga2"})
    said = evomerge("run", path, "--out", tmp_path / "run", "--json")
    assert said.code == 0, said.error
    front = json.loads(said.out)["front"]
    scores = [tuple(member["tasks"].values()) for member in front]
    assert all(len(score) == 2 for score in scores)
    assert not any(
        all(a >= b for a, b in zip(one, two, strict=True)) and one != two for one in scores for two in scores
    )
    assert len(open_run(tmp_path / "run").study.directions) == 2
    assert evomerge("status", tmp_path / "run").code == 0


def test_a_search_led_by_a_stand_in_ends_on_the_metric(tmp_path: Path, evomerge: Command) -> None:
    path = configuration(
        tmp_path, evaluate={"proxy": "reference_loglikelihood"}, search={"trials": 14}, space={"weight": [0.0, 1.3]}
    )
    said = evomerge("run", path, "--out", tmp_path / "run", "--json")
    assert said.code == 0, said.error
    told = json.loads(said.out)
    assert {name.split()[0] for name in told["proxy"]} == {"quickstart_reverse", "quickstart_add"}
    run = open_run(tmp_path / "run")
    assert len(full_trials(run.study)) >= 10
    assert run.result is not None
    again = json.loads(
        evomerge("eval", tmp_path / "run" / "best" / "recipe.yaml", "--config", path, "--split", "report", "--json").out
    )
    assert again["objective"] == run.result["winner"]["objective"]


def test_what_constraints_refer_to_must_exist(tmp_path: Path, evomerge: Command) -> None:
    path = configuration(tmp_path, evaluate={"constraints": [{"task": "quickstart_add", "at_least": "revers"}]})
    said = evomerge("run", path, "--out", tmp_path / "run")
    assert said.code == 2
    assert "did you mean 'reverse'?" in said.error
    assert not (tmp_path / "run").exists()

"""A search from its launch to its export, and after every kind of stop."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

import evomerge
from evomerge.engine.export import weights_digest
from evomerge.engine.materialize import merge
from evomerge.runs.run import open_run
from evomerge.search.recipes import read_recipe
from tests.runs.conftest import CONFIG, EXAMPLE, SMALL, Command, start_process


def history(folder: Path) -> list[tuple[int, dict[str, Any], float | None, str]]:
    return [(t.number, t.params, t.value, t.state.name) for t in open_run(folder).study.get_trials()]


def test_a_run_leaves_what_the_contract_says(finished: Path) -> None:
    assert {"config.yaml", "study.db", "events.jsonl", "best"} <= {path.name for path in finished.iterdir()}
    assert (finished / "best" / "recipe.yaml").is_file()
    events = [json.loads(line) for line in (finished / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events].count("trial") == 13
    assert events[-1]["event"] == "end"
    said = (finished / "stdout").read_text()
    assert "untouched by the search" in said
    assert "best recipe" in said


def test_status_has_the_contract_s_shape(finished: Path, evomerge: Command) -> None:
    said = evomerge("status", finished, "--json")
    told = json.loads(said.out)
    assert said.code == 0
    first = ["name", "state", "trials", "best", "baselines", "documents", "seconds", "rate", "left"]
    assert list(told) == [*first, "shrinkage"]
    assert told["state"] == "finished"
    trials = told["trials"]
    assert list(trials) == ["complete", "pruned", "failed", "running", "total"]
    assert (trials["complete"] + trials["pruned"], trials["total"]) == (13, 13)
    assert trials["pruned"] > 0
    assert set(told["baselines"]) == {"base", "reverse", "add", "facts", "uniform", "best sweep"}
    for row in told["best"]["tasks"].values():
        assert {"metric", "search", "select", "report"} <= set(row)
    assert 0 < told["documents"]["scored"] < told["documents"]["full"]
    assert evomerge("status", finished).code == 0


def test_the_winner_and_the_baselines_carry_paired_intervals(finished: Path) -> None:
    result = open_run(finished).result
    assert result is not None
    assert result["split"] == "report"
    for row in result["baselines"].values():
        assert row["difference"] == pytest.approx(result["winner"]["objective"] - row["objective"])
        low, high = row["difference_interval"]
        assert low <= row["difference"] <= high


def test_export_equals_search(finished: Path, evomerge: Command, tmp_path: Path) -> None:
    to = tmp_path / "model"
    assert evomerge("export", finished, "--to", to).code == 0
    run = open_run(finished)
    candidate = merge(run.recipe(), device="cpu")
    loaded = AutoModelForCausalLM.from_pretrained(to, dtype="auto")
    assert loaded.dtype == torch.bfloat16
    assert weights_digest(loaded) == weights_digest(candidate)
    told = json.loads((to / "evomerge.json").read_text())
    assert told["weights"]["digest"] == weights_digest(candidate)
    assert run.result is not None
    for split in ("search", "select", "report"):
        said = json.loads(evomerge("eval", to, "--config", finished / "config.yaml", "--split", split, "--json").out)
        for task, row in run.result["winner"]["tasks"].items():
            assert said["tasks"][task]["value"] == row[split]
    assert "base_model" in (to / "README.md").read_text()
    assert evomerge("export", finished, "--to", to).code == 2


def test_a_single_group_exports_a_mergekit_recipe_that_reads_back(
    finished: Path, evomerge: Command, tmp_path: Path
) -> None:
    assert evomerge("export", finished, "--to", tmp_path / "a", "--trial", 4).code == 0
    for name in ("recipe.yaml", "mergekit.yaml"):
        to = tmp_path / name.split(".")[0]
        assert evomerge("merge", tmp_path / "a" / name, "--to", to).code == 0
        digests = {weights_digest(AutoModelForCausalLM.from_pretrained(f, dtype="auto")) for f in (tmp_path / "a", to)}
        assert len(digests) == 1


def test_eval_takes_recipes_and_sources(finished: Path, evomerge: Command) -> None:
    best = finished / "best" / "recipe.yaml"
    config = finished / "config.yaml"
    said = json.loads(evomerge("eval", best, "--config", config, "--split", "report", "--json").out)
    run = open_run(finished)
    assert run.result is not None
    assert said["objective"] == run.result["winner"]["objective"]
    expert = run.config.models.experts[0].model
    said = json.loads(evomerge("eval", expert, "--config", config, "--split", "report", "--json").out)
    assert said["objective"] == run.result["baselines"]["reverse"]["objective"]
    assert set(said["tasks"]["quickstart_add"]) == {"metric", "value", "stderr", "n"}


@pytest.mark.exhaustive
@pytest.mark.parametrize("trials", [3, 11])
def test_after_kill_minus_9_a_run_goes_on_as_if_nothing_had_been(trials: int, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start_process("run", CONFIG, "--out", folder, *SMALL)
    wait_for(folder, trials)
    process.kill()
    process.communicate()
    before = history(folder)
    resumed = start_process("resume", folder, "--json")
    out, error = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, error
    assert history(folder) == history(finished)
    assert len(before) < 13
    assert json.loads(out)["comparison"] == open_run(finished).result
    digests = open_run(folder).ledger
    assert digests.count("search") == open_run(finished).ledger.count("search")


def test_ctrl_c_finishes_cleanly_and_keeps_everything(finished: Path, tmp_path: Path, evomerge: Command) -> None:
    folder = tmp_path / "run"
    process = start_process("run", CONFIG, "--out", folder, *SMALL)
    wait_for(folder, 2)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "everything scored so far is kept" in error
    assert "Traceback" not in error
    assert (folder / "best" / "recipe.yaml").is_file()
    told = json.loads(evomerge("status", folder, "--json").out)
    assert told["state"] == "stopped"
    assert told["trials"]["complete"] >= 2
    assert evomerge("resume", folder).code == 0
    assert history(folder) == history(finished)


def test_resume_goes_on_to_more_trials(finished: Path, tmp_path: Path, evomerge: Command) -> None:
    folder = tmp_path / "run"
    assert evomerge("run", CONFIG, "--out", folder, *SMALL, "--trials", 11).code == 0
    assert evomerge("resume", folder, "--trials", 13).code == 0
    assert history(folder) == history(finished)


def test_a_study_is_joined_from_its_database_alone(finished: Path, tmp_path: Path, evomerge: Command) -> None:
    folder = tmp_path / "joined"
    url = f"sqlite:///{finished / 'study.db'}"
    resume = ["resume", "--storage", url, "--study", "quickstart", "--out", folder, "--json"]
    said = evomerge(*resume)
    assert said.code == 2
    assert f"--trust {EXAMPLE / 'tasks'}" in said.error
    assert not folder.exists()
    said = evomerge(*resume, "--trust", EXAMPLE / "tasks")
    assert said.code == 0
    assert json.loads(said.out)["comparison"] == open_run(finished).result
    assert evomerge("resume", "--storage", url, "--study", "quickstrat", "--out", tmp_path / "x").code == 2


def test_the_python_interface(finished: Path) -> None:
    run = evomerge.open_run(finished)
    assert run.best.number == open_run(finished).best.number
    assert len(run.trials()) == 13
    scores = run.scores()
    assert scores.shape[0] == 13
    assert scores.notna().to_numpy().any()
    model = evomerge.merge(run.recipe(), device="cpu")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run.config.models.base.model)
    found = evomerge.evaluate(model, tokenizer, run.config, split="select")
    assert run.result is not None
    for score in found.documents:
        assert score.value in (0.0, 1.0)
    assert callable(evomerge.search)


def test_a_recipe_is_data(finished: Path) -> None:
    recipe = read_recipe(finished / "best" / "recipe.yaml")
    assert recipe == open_run(finished).recipe()
    assert yaml.safe_load((finished / "best" / "recipe.yaml").read_text())["method"] == "task_arithmetic"


def wait_for(folder: Path, trials: int, seconds: float = 200) -> None:
    """Until so many trials have ended."""
    events, began = folder / "events.jsonl", time.monotonic()
    while time.monotonic() - began < seconds:
        if events.is_file() and events.read_text().count('"event": "trial"') >= trials:
            return
        time.sleep(0.02)
    raise AssertionError(f"no {trials} trials within {seconds} s")

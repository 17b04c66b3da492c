"""What the report says of finished runs, runs under way, and runs in which everything failed."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evomerge.engine.recipe import Group, Recipe
from evomerge.runs.report.answer import verdict
from evomerge.runs.report.blocks import Table
from evomerge.runs.report.facts import read_facts
from evomerge.runs.report.heatmap import grid
from evomerge.runs.report.importance import means_of
from evomerge.runs.report.page import page, write_report
from evomerge.runs.report.tradeoffs import niches
from evomerge.runs.run import Run, open_run
from evomerge.search.curriculum import STAGE
from evomerge.search.examples import read_examples
from evomerge.search.study import PROXY, RESULT, SUBSET
from tests.runs.report.made import Made, charts_of, text_of
from tests.search.finals import NO_WORSE_THAN_B, Final

HEADINGS = [
    "The answer",
    "Warnings",
    "What was searched",
    "Progress",
    "Coefficients by layer and expert",
    "What matters",
    "Wins and losses",
    "Cost",
    "What the search decided",
    "How to do it again",
    "The recipe",
]


def headings(html: str) -> list[str]:
    return re.findall(r"<h2 [^>]*>([^<]*)</h2>", html)


def said(made: Made) -> str:
    return text_of(page(made.run()))


def opened(final: Final, folder: Path) -> Run:
    return Run(folder, final.config, final.run.study, final.run.storage)


def test_a_finished_search_is_told_with_its_own_numbers(finished: Path) -> None:
    run = open_run(finished)
    path = write_report(run)
    assert path == finished / "report.html"
    html = path.read_text()
    text = text_of(html)
    result = run.result
    assert result is not None
    assert [each for each in headings(html) if each in HEADINGS] == HEADINGS
    assert verdict(result) in text
    assert f"winner (trial {result['winner']['number']})" in text
    for row in result["baselines"].values():
        low, high = row["difference_interval"]
        assert f"{row['objective']:.3f} {row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]" in text
    assert f"{result['shrinkage']['expected']:.3f}" in text
    for line in (finished / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "note":
            assert " ".join(event["text"].split()) in text
    assert run.recipe().digest in text
    gains = charts_of(html)["gains"]["data"][0]
    assert sorted(gains["y"]) == sorted(result["baselines"])


def test_documents_won_and_lost_are_those_of_the_ledger_with_their_texts(finished: Path) -> None:
    run = open_run(finished)
    result = run.result
    assert result is not None
    rival, examples = read_examples(run.study.user_attrs)
    assert rival == max(("base", "reverse", "add", "facts"), key=lambda each: result["baselines"][each]["objective"])
    assert examples
    html = page(run)
    bars = charts_of(html)["documents"]["data"]
    counts = {bar["name"]: sum(bar["x"]) for bar in bars}
    documents = len(run.scores().columns) and sum(counts.values())
    sizes = re.search(r"Measured on (\d+) documents", text_of(html))
    assert sizes is not None
    assert documents == int(sizes[1])
    for example in examples:
        won = example["winner"] > example["rival"]
        assert example["outcome"] == ("won" if won else "lost")
        assert " ".join(example["prompt"].split()) in text_of(html)
        assert example["prompt"].endswith("=")  # the example's tasks ask "reverse a b =", "1 + 2 =", "color x ="


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ({"a": (0.1, 0.05, 0.15), "b": (0.2, 0.1, 0.3)}, "is better than all 2 models it is compared with"),
        ({"a": (0.01, -0.02, 0.04), "b": (0.2, 0.1, 0.3)}, "is not shown to be better than a: a has 0.690"),
        ({"a": (-0.1, -0.15, -0.05), "b": (0.2, 0.1, 0.3)}, "is worse than a"),
        ({"a": (0.1, 0.05, 0.15)}, "is better than a: which has 0.600 (+0.100, 95 % interval [+0.050, +0.150])"),
        ({}, "there is nothing that it is compared with"),
    ],
)
def test_the_first_sentence_is_honest(differences: dict[str, tuple[float, float, float]], words: str) -> None:
    baselines = {
        name: {"objective": 0.7 - gain, "difference": gain, "difference_interval": [low, high]}
        for name, (gain, low, high) in differences.items()
    }
    assert words in verdict({"winner": {"objective": 0.7}, "baselines": baselines})


def test_a_run_under_way_says_so(tmp_path: Path) -> None:
    run = Made(tmp_path, finished=False).run()
    html = page(run)
    text = text_of(html)
    assert "There is no answer yet" in text
    assert "The best so far is trial 30" in text
    assert "Wins and losses" not in headings(html)
    with run.held():
        assert "the search is under way" in text_of(page(run))


def test_a_run_in_which_everything_failed_says_why(tmp_path: Path) -> None:
    text = said(Made(tmp_path, trials=0, failed=7, finished=False))
    assert "All 7 trials failed" in text
    assert "logits are NaN <i>in</i> layer 0 (4 trials)" in text


def test_a_run_without_a_trial_has_a_report(tmp_path: Path) -> None:
    assert "No trial has ended" in said(Made(tmp_path, trials=0, finished=False))


def test_one_expert_and_one_task_are_enough(tmp_path: Path) -> None:
    html = page(Made(tmp_path, experts=["math"], tasks=["zoo_math"], layers=0, modules=["all"], trials=15).run())
    chart = charts_of(html)["documents"]
    assert chart["data"][0]["y"] == ["zoo_math"]
    assert "of all modules: " in text_of(html)


def test_warnings_name_what_is_doubtful(tmp_path: Path) -> None:
    kept = {
        PROXY: {"zoo_math acc": {"correlation": 0.41, "pairs": 20, "leads": False}},
        SUBSET: {"documents": [["zoo_math", "a"]], "of": 300, "error": 0.04},
        "evomerge:leaks": ["12 documents of zoo_math are in zoo_code, too"],
    }
    text = said(Made(tmp_path, gain=0.0, trials=10, failed=3, kept=kept))
    for words in (
        "Over-fitting: the winner has 0.850",
        "Luck: 0.020 of the winner's 0.850",
        "ranks like the metric with 0.41, below 0.7",
        "candidates are scored on 1 of 300",
        "Leak: 12 documents of zoo_math are in zoo_code, too",
        "Failed trials: 3 of 13",
        "Few candidates: 10 have a score",
    ):
        assert words in text


def test_a_sound_search_has_no_warning(tmp_path: Path) -> None:
    run = Made(tmp_path).run()
    result = run.result
    assert result is not None
    result["shrinkage"] |= {"chosen": result["winner"]["objective"] + 0.01, "shrinkage": 0.003}
    run.study.set_user_attr(RESULT, result)
    assert "None: nothing that the report looks for was found." in text_of(page(run))


def test_constraints_and_their_verdicts_are_told(tmp_path: Path) -> None:
    final = Final(tmp_path, constraints=[NO_WORSE_THAN_B])
    final.add(0.3, 0.8)
    final.add(0.9, 0.1)
    final.run.study.set_user_attr(RESULT, final.compare())
    text = text_of(page(opened(final, tmp_path)))
    assert "1 of 2 candidates keep all constraints on search." in text
    assert "right acc >= b" in text
    assert "The winner keeps them all" in text


def test_a_front_is_drawn_for_two_tasks_and_for_three(tmp_path: Path) -> None:
    for count in (2, 3):
        (tmp_path / str(count)).mkdir()
        tasks = ["zoo_math", "zoo_code", "zoo_lang"][:count]
        made = Made(tmp_path / str(count), tasks=tasks, sections={"evaluate": {"objective": "pareto"}})
        run = made.run()
        html = page(run)
        assert run.result is not None
        members = run.result["front"]
        drawn = charts_of(html)["front"]["data"]
        if count == 2:
            assert len(drawn[-1]["x"]) == len(members)
        else:
            assert len(drawn) == len(members)
        assert "3 candidates that no other one beats" in text_of(html)


def test_another_search_is_compared_with_what_it_had(tmp_path: Path) -> None:
    run = Made(tmp_path).run()
    result = run.result
    assert result is not None
    row = {**result["baselines"]["uniform"], "trials": 71, "documents": 5385, "feasible": False}
    run.study.set_user_attr(RESULT, {**result, "baselines": {**result["baselines"], "random search": row}})
    assert "random search (71 trials, 5,385 documents) (breaks a constraint)" in text_of(page(run))


def test_niches_are_listed_with_what_each_alone_solves(tmp_path: Path) -> None:
    facts = read_facts(Made(tmp_path, trials=3).run())
    member = {
        "number": 2,
        "fitness": 0.125,
        "objective": 0.5,
        "tasks": {"zoo_math": 0.75, "zoo_code": 0.25},
        "leads": {"zoo_math": 9, "zoo_code": 0},
    }
    section = niches(replace(facts, told={**facts.told, "niches": [member]}))
    assert section is not None
    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    assert list(table.rows[0]) == ["2", "0.125", "0.500", "0.750 (9)", "0.250 (0)"]
    assert niches(facts) is None


def test_stages_and_kinds_of_trials_are_told_apart(tmp_path: Path) -> None:
    run = Made(tmp_path).run()
    chart = charts_of(page(run))["over-trials"]
    marked = {trace["name"]: trace for trace in chart["data"]}
    stopped = sum(trial.number % 3 == 1 for trial in run.study.get_trials())
    assert len(marked[f"stopped early ({stopped})"]["x"]) == stopped
    assert len(marked[f"scored in full ({40 - stopped})"]["x"]) == 40 - stopped
    best = marked["best so far"]["y"]
    assert best == sorted(best)
    begun = [next(t.number for t in run.study.get_trials() if t.user_attrs[STAGE]["index"] == k) for k in range(3)]
    assert [shape["x0"] - 0.5 for shape in chart["layout"]["shapes"]] == begun


def test_the_forecast_stands_beside_what_happened(tmp_path: Path) -> None:
    kept = {
        "evomerge:forecast": {
            "seconds": {"merge": 2.0, "score": 80.0, "total": 90.0},
            "memory": {"host": 3e9},
            "documents": 9000,
        },
        "evomerge:actual": {"memory": {"host": 1.5e9}},
    }
    text = said(Made(tmp_path, kept=kept))
    assert "scoring 80 s 40 s 0.50" in text
    assert "memory of the host 3.00 GB 1.50 GB 0.50" in text


def test_no_credentials_are_told(tmp_path: Path) -> None:
    made = Made(tmp_path, sections={"runtime": {"storage": "postgresql+psycopg://ann:sesame77@db/studies"}})
    run = made.run()
    run.study.set_user_attr("evomerge:leaks", ["could not reach postgresql://ann:sesame77@db/studies"])
    html = page(run)
    assert "sesame77" not in html
    assert "postgresql+psycopg://ann@db/studies" in html


def test_a_report_is_whole_or_the_old_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Made(tmp_path, trials=3).run()
    path = write_report(run)
    before = path.read_bytes()

    def fails(*_: object) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(Exception, match="No space left"):
        write_report(run)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".report")] == []


def test_numbers_of_a_recipe_are_found_by_its_first_group_that_fits() -> None:
    groups = (
        Group(layers=(1, 2), modules="attention", parameters={"weight": {"a": 0.1, "b": 0.2}}),
        Group(layers=(0, 3), modules="all", parameters={"weight": {"a": 0.3, "b": 0.4}}),
        Group(layers="outside", parameters={"weight": 0.9}),
    )
    recipe = Recipe(base={"model": "m"}, experts=[{"model": "a"}, {"model": "b"}], method="linear", groups=groups)
    attention = grid(recipe, "weight", "attention", 3)
    assert [row[:-1] for row in attention] == [[0.3, 0.1, 0.3], [0.4, 0.2, 0.4]]
    assert all(math.isnan(row[-1]) for row in attention)
    assert grid(recipe, "weight", "all", 3) == [[0.3, 0.3, 0.3, 0.9], [0.4, 0.4, 0.4, 0.9]]
    means = means_of(recipe.model_dump(mode="json"))
    assert means["weight", "a"] == pytest.approx((0.1 + 3 * 0.3) / 4)

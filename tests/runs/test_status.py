"""What a run tells of raced trials, constraints and fronts: in `status`, on the console, and on an exported card."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evomerge.runs.console import ProgressBar, comparison_table, status_table
from evomerge.runs.exporters.card import card
from evomerge.runs.exporting import Export
from evomerge.runs.run import Run
from evomerge.runs.status import status
from evomerge.search.listener import TrialOutcome
from evomerge.search.stopping import STOPPED
from evomerge.search.study import PROXY, RESULT, SUBSET
from tests.search.finals import NO_WORSE_THAN_B, Final


def opened(final: Final, folder: Path) -> Run:
    return Run(folder, final.config, final.run.study, final.run.storage)


def finish(final: Final) -> None:
    final.run.study.set_user_attr(RESULT, final.compare())


def printed(what: Any) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(what)
    return console.export_text()


def test_stopped_trials_count_as_pruned_and_do_not_lead(tmp_path: Path) -> None:
    final = Final(tmp_path)
    full = final.add(0.4, 0.4)
    final.add(0.5, 0.5, estimate=[0.9], is_stopped=True)
    final.add(0.3, 0.3, estimate=[0.9])
    told = status(opened(final, tmp_path))
    assert told["trials"] == {"complete": 2, "pruned": 1, "failed": 0, "running": 0, "total": 20}
    assert told["best"]["number"] == full
    assert told["best"]["estimated"] is False
    assert "1 stopped early" in printed(status_table(told))
    assert not {"front", "proxy", "subset"} & set(told)


def test_an_estimate_is_called_one_where_there_is_nothing_else(tmp_path: Path) -> None:
    final = Final(tmp_path)
    final.add(0.4, 0.4, estimate=[0.9])
    told = status(opened(final, tmp_path))
    assert told["best"]["estimated"] is True
    assert "0.9000 on search (estimated)" in printed(status_table(told))


def test_the_best_is_one_that_keeps_the_constraints(tmp_path: Path) -> None:
    final = Final(tmp_path, constraints=[NO_WORSE_THAN_B])
    breaks = final.add(0.6, 0.5)
    told = status(opened(final, tmp_path))
    assert told["best"]["number"] == breaks
    assert told["best"]["feasible"] is False
    ((name, row),) = told["best"]["constraints"].items()
    assert (name, row["kept"]) == ("right acc >= b", False)
    assert f"right acc >= b: BROKEN by {row['violation']:.3f}" in printed(status_table(told))
    keeps = final.add(0.3, 0.8)
    told = status(opened(final, tmp_path))
    assert told["best"]["number"] == keeps
    assert told["best"]["constraints"]["right acc >= b"]["kept"] is True
    assert "right acc >= b: kept" in printed(status_table(told))


def test_after_the_end_constraints_are_those_of_the_comparison(tmp_path: Path) -> None:
    final = Final(tmp_path, constraints=[NO_WORSE_THAN_B])
    final.add(0.3, 0.8)
    finish(final)
    run = opened(final, tmp_path)
    told = status(run)
    assert run.result is not None
    assert told["best"]["constraints"] == run.result["constraints"]
    assert set(told["best"]["constraints"]["right acc >= b"]) == {
        *("bound", "value", "reference", "margin", "kept", "violation")
    }
    said = printed(comparison_table(run.result))
    assert "constraints on 'report' (*: broken)" in said
    assert "the winner keeps them all on the documents it was chosen by" in said
    assert "a * " in said
    assert "b * " not in said
    assert "front" not in said
    json.dumps(told, allow_nan=False)


def test_a_front_is_told_before_and_after_the_end(tmp_path: Path) -> None:
    final = Final(tmp_path, objective="pareto", tasks=["left", "right"])
    numbers = [final.add(*point) for point in ((0.3, 0.8), (0.8, 0.3))]
    final.add(0.0, 0.0)
    final.add(1.0, 1.0, estimate=[0.9, 0.9], stderr=0.9)
    told = status(opened(final, tmp_path))
    assert [member["number"] for member in told["front"]] == numbers
    assert set(told["front"][0]["tasks"]) == {"left", "right"}
    best = final.run.study.get_trials()[told["best"]["number"]]
    assert told["best"]["objective"] == pytest.approx(sum(best.values) / 2)
    assert "trial 0: left" in printed(status_table(told))
    finish(final)
    run = opened(final, tmp_path)
    assert run.result is not None
    assert status(run)["front"] == run.result["front"]
    assert "the front, on the documents it was chosen by" in printed(comparison_table(run.result))


def test_stand_ins_and_subsets_are_told_where_there_are_any(tmp_path: Path) -> None:
    final = Final(tmp_path)
    final.add(0.4, 0.4)
    study = final.run.study
    study.set_user_attr(PROXY, {"left acc": {"correlation": 0.81, "pairs": 12, "leads": True}})
    study.set_user_attr(SUBSET, {"documents": [["left", "a"], ["left", "b"]], "of": 80, "error": 0.0213})
    told = status(opened(final, tmp_path))
    assert told["proxy"]["left acc"]["leads"] is True
    assert told["subset"] == {"documents": 2, "of": 80, "error": 0.0213}
    said = printed(status_table(told))
    assert "left acc: rank correlation 0.81 over 12 candidates; leads the search" in said
    assert "2 of 80 documents, error 0.021" in said


def test_the_bar_shows_the_best_full_score(tmp_path: Path) -> None:
    bar = ProgressBar(Console(file=(tmp_path / "out").open("w"), width=200))
    bar.documents(8)  # of a model that a constraint refers to, before the first trial
    bar.stage("search", 3, 0)
    bar.trial(TrialOutcome(0, "sampler", 0.25))
    bar.trial(TrialOutcome(1, "sampler", 0.75, estimated=True))
    bar.documents(10)
    assert bar._progress.tasks[0].fields["told"] == "best 0.2500, 18 documents"


def exported(final: Final, folder: Path) -> str:
    run = opened(final, folder)
    recipe = final.recipe(0.3, 0.8)
    evaluation = final.config.evaluate.model_dump(mode="json")
    return card(Export("model", recipe, {}, "0", 1, run.result, evaluation))


def test_the_card_lists_each_bound_with_its_verdict(tmp_path: Path) -> None:
    for name, point, verdict in (("kept", (0.3, 0.8), "kept"), ("broken", (0.8, 0.0), "broken by 0.")):
        (tmp_path / name).mkdir()
        final = Final(tmp_path / name, constraints=[NO_WORSE_THAN_B])
        final.add(*point)
        finish(final)
        text = exported(final, tmp_path / name)
        (line,) = [line for line in text.splitlines() if line.startswith("| right acc >= b |")]
        assert verdict in line
        assert ("keeps them all on" in text) == (name == "kept")


def test_a_card_without_constraints_says_nothing_of_them(tmp_path: Path) -> None:
    final = Final(tmp_path)
    final.add(0.3, 0.8)
    finish(final)
    text = exported(final, tmp_path)
    assert "onstraint" not in text
    assert "The objective is the weighted mean over tasks;" in text


def test_the_luck_of_the_choice_and_the_early_end_are_told_everywhere(tmp_path: Path) -> None:
    final = Final(tmp_path)
    number = final.add(0.5, 0.5, noise=0.0321)
    final.add(0.4, 0.4)
    run = opened(final, tmp_path)
    before = status(run)
    assert before["best"]["stderr"] == 0.0321
    assert f"trial {number}: {before['best']['objective']:.4f} ± 0.0321 on search" in printed(status_table(before))
    assert not {"shrinkage", "stopped"} & set(before)

    finish(final)
    final.run.study.set_user_attr(STOPPED, "stopped after 2 of 20 trials: no more to find")
    result = run.result
    assert result is not None
    luck = result["shrinkage"]
    assert luck["search"] == result["finalists"][0]["search"]
    assert luck["chosen"] == pytest.approx(result["finalists"][0]["pooled"])
    assert luck["expected"] == pytest.approx(luck["chosen"] - luck["shrinkage"])
    assert result["pick"] == "the highest weighted mean of the tasks on the documents of search and select together"
    told = status(run)
    json.dumps(told)
    assert told["state"] == "finished"
    assert told["shrinkage"] == luck
    assert told["best"]["expected"] == luck["expected"]
    shown = printed(status_table(told))
    assert f"{luck['shrinkage']:.4f} of the {luck['chosen']:.4f} it was chosen by is luck" in shown
    assert "stopped after 2 of 20 trials: no more to find" in shown
    sentence = f"The winner has {luck['chosen']:.3f} on the documents it was chosen by; {luck['expected']:.3f}"
    assert sentence in printed(comparison_table(result))
    export = Export(
        "merged", run.recipe(number), {}, "digest", 1, result, final.config.evaluate.model_dump(mode="json")
    )
    assert sentence in card(export)

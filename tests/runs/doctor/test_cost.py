"""What a search will take: from tokens, bytes and measured speeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evomerge.engine.arena import Item, Kind, arrange
from evomerge.runs.doctor.checks.estimates import duration
from evomerge.runs.doctor.cost import (
    RACED,
    Work,
    compiling_seconds,
    estimated,
    merge_seconds,
    new_bests,
    planned_seconds,
    scoring_seconds,
    statistics_seconds,
    work_of,
)
from evomerge.runs.doctor.findings import LeftOut
from evomerge.runs.doctor.probe import Line, Speed, copy_rate, forward_speed
from tests.runs.doctor.conftest import Written, configured, levels, look, subject

SPEED = Speed(Line(0.001, 0.0001), Line(0.002, 0.0002), 10)
WORK = Work(1, 20, 5, 8, 6, 5)
PLAN = {"search": [("a", 8), ("a", 32), ("a", 60)], "select": [("a", 50)], "report": [("a", 64)] * 3}
CPU = torch.device("cpu")


def test_a_pass_costs_its_layers_and_its_tokens() -> None:
    assert SPEED.seconds(3, 100, 7) == pytest.approx(3 * (10 * 0.001 + 0.002) + 100 * 10 * 0.0001 + 7 * 0.0002)


def test_scoring_grows_with_documents_tokens_and_steps() -> None:
    some = scoring_seconds(WORK, 100, SPEED)
    assert scoring_seconds(WORK, 128, SPEED) > some
    assert scoring_seconds(WORK._replace(read=40), 100, SPEED) > some
    assert scoring_seconds(WORK._replace(longest=16), 100, SPEED) > some
    assert scoring_seconds(WORK, 100, SPEED, rows=8) > some


def test_what_races_takes_a_share_of_the_documents() -> None:
    def of(*settings: str) -> tuple[float, float]:
        found = estimated(configured("search.trials=50", *settings), PLAN, {"a": WORK}, SPEED, 0.1, 2.0, "gp")
        return found.documents, found.score

    assert RACED < of()[0] / of("evaluate.racing=false")[0] < 0.4
    assert RACED < of()[1] / of("evaluate.racing=false")[1] < 0.5  # small chunks come first, and are dear
    assert of("evaluate.racing=false")[0] == 50 * 100


def test_new_bests_are_scored_in_full() -> None:
    assert new_bests(1) == 1
    rng = np.random.default_rng(0)
    drawn = np.maximum.accumulate(rng.normal(size=(4000, 40)), axis=1)
    assert new_bests(40) == pytest.approx((np.diff(drawn, axis=1) > 0).sum(axis=1).mean() + 1, abs=0.1)


def test_a_share_of_a_plan_is_its_first_chunks() -> None:
    def of(share: float) -> float:
        return planned_seconds(PLAN["search"], {"a": WORK}, SPEED, share, 64)

    assert of(0.08) == pytest.approx(scoring_seconds(WORK, 8, SPEED))
    assert of(0.24) == pytest.approx(scoring_seconds(WORK, 8, SPEED) + scoring_seconds(WORK, 32, SPEED) / 2)
    assert of(1.0) == pytest.approx(sum(scoring_seconds(WORK, size, SPEED) for size in (8, 32, 60)))
    assert planned_seconds([("b", 10)], {"a": WORK}, SPEED, 1.0, 64) == 0


def test_totals_are_sums_and_grow_with_trials() -> None:
    def of(trials: int, *settings: str) -> dict[str, float]:
        config = configured(f"search.trials={trials}", *settings)
        found = estimated(config, PLAN, {"a": WORK}, SPEED, 0.1, 2.0, "gp").as_data()["seconds"]
        assert found["total"] == pytest.approx(found["merge"] + found["score"] + found["sampler"], abs=0.01)
        assert found["wall"] == pytest.approx(found["total"] + found["final"], abs=0.01)
        return found

    one, two = of(20), of(40)
    assert two["merge"] - two["once"] == pytest.approx(2 * (one["merge"] - one["once"]))
    assert one["score"] < two["score"] < 2 * one["score"]  # the more trials, the fewer of them are new bests
    assert one["final"] == two["final"]
    assert of(3)["sampler"] == 0  # all of them are warm starts
    start = "search.warm_start=[uniform, gradient]"
    assert of(20, start)["gradient"] > 0
    assert of(20, start)["sampler"] > one["sampler"]


def test_workers_share_the_cores_or_have_a_gpu_each() -> None:
    def of(workers: int, gpus: int) -> dict[str, float]:
        config = configured("search.trials=40", f"runtime.workers={workers}", "search.sampler=cmaes")
        return estimated(config, PLAN, {"a": WORK}, SPEED, 0.1, 2.0, "cmaes", gpus).as_data()["seconds"]

    one = of(1, 0)
    assert of(1, 4) == one
    assert of(4, 0)["score"] == pytest.approx(4 * one["score"], rel=1e-3)
    assert of(4, 0)["wall"] == pytest.approx(one["wall"], rel=0.02)
    assert of(4, 4)["score"] == one["score"]
    assert of(4, 4)["wall"] == pytest.approx((one["wall"] - 2.0) / 4 + 2.0, rel=0.02)
    assert of(4, 2)["wall"] == pytest.approx((one["wall"] - 2.0) / 2 + 2.0, rel=0.02)


def test_merges_are_bytes_over_a_share_of_a_copys_rate() -> None:
    kind = Kind(1024, (torch.bfloat16,) * 4, torch.bfloat16, CPU)
    arenas = arrange([Item("weight", (1000, 1024), kind)])
    linear, ties = (merge_seconds(arenas, [method], 1e9) for method in ("linear", "ties"))
    assert linear == pytest.approx(1_024_000 * 10 / (0.95 * 1e9), rel=0.05)
    assert ties > linear
    assert compiling_seconds(arenas, ["ties"], 100) == 0
    assert compiling_seconds(arenas, ["ties"], 200) > 0
    assert statistics_seconds(arenas, ["linear"]) == 0
    assert statistics_seconds(arenas, ["ties", "della"]) == 2 * statistics_seconds(arenas, ["ties"]) > 0


def test_tokens_are_those_of_the_documents() -> None:
    at = subject()
    add = work_of(at.tasks.prepared["quickstart_add"], at.tokenizer)
    facts = work_of(at.tasks.prepared["quickstart_facts"], at.tokenizer)
    assert add.rows == 1
    assert 2 < add.read <= 6
    assert 1 < add.written <= 4
    assert add.longest == 4  # no more than max_gen_toks
    assert facts.rows > 1
    assert facts.longest == 0


def test_what_all_prompts_begin_with_counts_once(written: Written) -> None:
    beginning = " ".join("reverse" for _ in range(20))
    documents = [{"question": f"{beginning} {n % 10} + {n // 10}", "answer": "1"} for n in range(40)]
    at = subject(written("long", documents), "evaluate.tasks=[long]")
    assert work_of(at.tasks.prepared["long"], at.tokenizer).read < 8


def test_two_layers_are_timed_and_stand_for_all() -> None:
    at = subject()
    config = at.alignment.config
    speed = forward_speed(config, torch.bfloat16, CPU)
    assert speed.num_layers == 4
    assert speed.seconds(1, 512, 16) > speed.seconds(1, 16, 1) > 0
    assert config.num_hidden_layers == 4  # the configuration is left as it was
    assert copy_rate(CPU) > 1e8


def test_an_architecture_that_cannot_be_timed_is_left_out() -> None:
    with pytest.raises(LeftOut, match="could be timed"):
        forward_speed(_Strange(), torch.bfloat16, CPU)  # type: ignore[arg-type]


class _Strange:
    num_hidden_layers = 3

    def get_text_config(self, *, decoder: bool) -> _Strange:
        return self


def test_a_timeout_that_is_too_short_is_warned_of() -> None:
    assert levels(look("estimates", subject())) == {"ok"}
    assert "warning" in levels(look("estimates", subject("search.timeout=0.1s")))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.31, "0.3 s"), (42, "42 s"), (180, "3 min"), (9000, "2.5 h"), (260_000, "3.0 days")]
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text

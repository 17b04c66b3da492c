"""All checks together: what the verb prints, in which order, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from evomerge.errors import InputError
from evomerge.runs.doctor.check import CHECKS, in_order
from evomerge.runs.doctor.examination import Examination, examine
from evomerge.runs.doctor.findings import LEVELS
from evomerge.runs.doctor.once import once
from evomerge.runs.doctor.page import examination_page, heat_map
from tests.runs.conftest import CONFIG, Command
from tests.runs.doctor.conftest import Copied, configured


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Examination:
    folder = tmp_path_factory.mktemp("doctor")
    found = examine(configured(), offline=True, folder=folder / "run")
    assert list(folder.iterdir()) == []  # nothing is written
    return found


def _printed(found: Examination, width: int = 100) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(examination_page(found))
    return console.export_text()


def test_the_example_has_no_errors_and_every_check_says_something(healthy: Examination) -> None:
    assert healthy.errors == ()
    silent = {"examples"}  # there are none to tell of
    assert {told.check for told in healthy.told} == set(CHECKS.names()) - silent
    assert all(told.level in LEVELS and told.text and "\n" not in told.text for told in healthy.told)


def test_the_json_object_is_whole(healthy: Examination) -> None:
    data = json.loads(json.dumps(healthy.as_data(), allow_nan=False))
    assert set(data) == {"name", "ok", "checks", "estimates", "conflict", "leaks", "power"}
    assert data["ok"] is True
    assert all(set(each) == {"check", "level", "text", "advice"} for each in data["checks"])
    seconds = data["estimates"]["seconds"]
    assert seconds["total"] == pytest.approx(seconds["merge"] + seconds["score"] + seconds["sampler"], abs=0.01)
    assert seconds["wall"] >= seconds["total"] > 0
    assert data["estimates"]["memory"]["host"] > 0
    assert len(data["conflict"]["pairs"]) == 3
    assert data["power"]["gain"] > 0


def test_the_page_puts_warnings_before_what_is_well(healthy: Examination) -> None:
    page = _printed(healthy)
    assert page.index("! warning") < page.index("✓ ok")
    assert "quickstart: ready; 0 errors" in page
    assert "experts by layer" in page
    assert max(map(len, _printed(healthy, 60).splitlines())) <= 60


def test_the_heat_map_has_a_sign_for_each_layer(healthy: Examination) -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(heat_map(healthy.parts["conflict"]))
    (line,) = [line for line in console.export_text().splitlines() if line.startswith("reverse, add")]
    assert line.split()[3] == "·▁▁▁▁"


def test_the_verb_tells_every_error_and_ends_with_2(evomerge: Command, copied: Copied, tmp_path: Path) -> None:
    broken = copied("add", "broken", {"num_hidden_layers": 3})
    settings = {
        "models.experts": f"[{broken}, {tmp_path / 'missing'}]",
        "merge.options": "{densty: 0.5}",
        "evaluate.tasks": "[{task: quickstart_add, metric: bleu}]",
        "search.warm_start": "[unifrom]",
        "runtime.storage": "sqlite:////nowhere/at/all/study.db",
    }
    given = [value for key, text in settings.items() for value in ("--set", f"{key}={text}")]
    said = evomerge("doctor", CONFIG, "--offline", "--json", "--out", tmp_path / "run", *given)
    assert said.code == 2
    data = json.loads(said.out)
    assert data["ok"] is False
    errors = [each for each in data["checks"] if each["level"] == "error"]
    assert [each["check"] for each in errors] == [
        "models", "architecture", "methods", "warm starts", "database", "tasks",
    ]  # fmt: skip
    assert len({each["text"] for each in errors}) == len(errors)
    assert data["checks"][: len(errors)] == errors


def test_a_configuration_that_cannot_be_read_is_one_line(evomerge: Command) -> None:
    said = evomerge("doctor", CONFIG, "--set", "search.trails=10")
    assert said.code == 2
    assert said.out == ""
    assert "trials" in said.error
    assert len(said.error.splitlines()) == 1


def test_checks_run_in_their_order() -> None:
    orders = [check.order for check in in_order()]
    assert orders == sorted(orders)
    assert all(check.look.__doc__ for check in in_order())


def test_what_went_wrong_once_is_not_tried_again() -> None:
    class Counted:
        """Counts how often something is found out."""

        def __init__(self) -> None:
            self.tried = 0

        @once
        def wrong(self) -> int:
            """Never known."""
            self.tried += 1
            raise InputError("wrong")

        @once
        def known(self) -> int:
            """Known at once."""
            self.tried += 1
            return 7

    counted = Counted()
    for _ in range(3):
        with pytest.raises(InputError, match="wrong"):
            _ = counted.wrong
        assert counted.known == 7
    assert counted.tried == 2
    counted.known = 8
    assert counted.known == 8

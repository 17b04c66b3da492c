"""evomerge methods: the list, one method in full, and both as JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from evomerge.engine.method import METHODS
from tests.runs.conftest import Command


def test_the_table_names_every_method_and_its_parameters(evomerge: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    said = evomerge("methods")
    assert said.code == 0
    rows = {cells[1].strip(): cells for line in said.out.splitlines() if len(cells := line.split("│")) == 6}
    for name in METHODS.names():
        assert METHODS.get(name).purpose.startswith(rows[name][2].strip())
    assert "density*: 1 [0, 1]" in said.out
    assert "arXiv:2306.01708" in said.out


def test_one_method_is_explained_in_full(evomerge: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    said = evomerge("methods", "nuslerp")
    assert said.code == 0
    assert said.out.startswith("nuslerp: takes exactly 2 experts; https://doi.org/10.1145/325165.325242")
    assert "Pick it for two fine-tunings of one base, when a plain average feels weaker than either.\n" in said.out
    assert "[-10, 10]" in said.out
    assert "[0, 1.2]" in said.out
    assert "each expert" in said.out


def test_a_method_without_parameters_says_so(evomerge: Command) -> None:
    assert evomerge("methods", "arcee_fusion").out.rstrip().endswith("no parameters")


def test_json_is_one_object(evomerge: Command) -> None:
    listed = json.loads(evomerge("methods", "--json").out)["methods"]
    assert [entry["name"] for entry in listed] == list(METHODS.names())
    one = json.loads(evomerge("methods", "dare_ties", "--json").out)
    assert one in listed
    assert one["random"] is True
    assert one["experts"] == {"at_least": 1, "at_most": None}
    by_name = {parameter["name"]: parameter for parameter in one["parameters"]}
    assert by_name["weight"]["range"] == [-10.0, 10.0]
    assert by_name["weight"]["search"] == [0.0, 1.2]
    assert by_name["rescale"]["choices"] == ["inverse_density", "l1", "none"]
    assert by_name["normalize"] == {"name": "normalize", "kind": "switch", "default": False, "per_expert": False}


def test_an_unknown_method_is_one_line_with_the_nearest_name(evomerge: Command) -> None:
    said = evomerge("methods", "nuslrp")
    assert said.code == 2
    assert said.out == ""
    assert said.error.rstrip().endswith("but got 'nuslrp'; did you mean 'nuslerp'?")
    assert said.error.count("\n") == 1


def test_no_tensor_library_is_needed_to_list_methods() -> None:
    code = "import sys; from evomerge.runs.methods import everything; everything(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

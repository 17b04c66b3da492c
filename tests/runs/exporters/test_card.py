"""The model card: metadata that the hub reads, results with intervals, origin, terms, limits and use."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from typing import Any

import pytest
from huggingface_hub import ModelCard, ModelCardData

from evomerge.engine.recipe import Group, ModelRef, Recipe
from evomerge.runs.exporters.card import card
from evomerge.runs.exporters.licence import licence
from evomerge.runs.exporters.provenance import provenance
from evomerge.runs.exporting import Export, Found, exported_files
from evomerge.runs.licence_table import licence_named
from evomerge.runs.licences import Found as FoundLicence
from evomerge.runs.licences import judge
from evomerge.runs.sources import Card

RECIPE = Recipe(
    base=ModelRef(model="org/base"),
    experts=(ModelRef(model="/home/somebody/zoo/math"), ModelRef(model="org/base", adapter="org/lora")),
    method="ties",
    groups=(Group(parameters={"weight": {"math": 0.4, "lora": 0.6}, "density": 0.3}),),
)
RESULT: dict[str, Any] = {
    "split": "report",
    "winner": {
        "number": 7,
        "objective": 0.62,
        "interval": [0.58, 0.66],
        "tasks": {"zoo_math": {"metric": "exact_match", "search": 0.7, "select": 0.66, "report": 0.62}},
    },
    "feasible": True,
    "constraints": {},
    "baselines": {
        "base": {"objective": 0.2, "tasks": {"zoo_math": 0.2}, "difference": 0.42, "difference_interval": [0.37, 0.47]}
    },
}
FOUND = Found(
    7,
    0.7,
    {"space": {"layers": "blocks", "modules": ["attention", "mlp"]}, "search": {"seed": 3}},
    {"complete": 11, "pruned": 29},
    {"scored": 5385},
)
EVALUATION = {"objective": "mean", "tasks": [{"task": "zoo_math"}], "constraints": [{"task": "bbq"}]}
LICENCES = judge(
    [
        FoundLicence("base", licence_named("llama3.1"), "llama3.1", "README.md"),
        FoundLicence("math", licence_named("apache-2.0"), "apache-2.0", "LICENSE"),
    ]
)
EXPORT = Export(
    "merged",
    RECIPE,
    {"base": "b" * 64, "math": "c" * 64, "lora": "d" * 64},
    "e" * 64,
    1_234_567,
    result=RESULT,
    evaluation=EVALUATION,
    found=FOUND,
    verdict=LICENCES,
    cards={"math": Card(languages=("en", "ja"), texts={"NOTICE": "Thanks to ```all```"})},
)


@pytest.fixture(scope="module")
def parsed() -> ModelCard:
    return ModelCard(card(EXPORT))


def test_the_metadata_is_the_hubs(parsed: ModelCard) -> None:
    told = parsed.data.to_dict()
    assert told["base_model"] == ["org/base", "org/lora"]
    assert told["base_model_relation"] == "merge"
    assert (told["library_name"], told["pipeline_tag"]) == ("transformers", "text-generation")
    assert told["tags"] == ["merge", "evomerge", "ties"]
    assert told["license"] == "llama3.1"
    assert told["language"] == ["en", "ja"]


def test_the_results_go_round_through_the_model_index(parsed: ModelCard) -> None:
    assert isinstance(parsed.data, ModelCardData)
    (result,) = parsed.data.eval_results or []
    assert (result.dataset_name, result.dataset_split) == ("zoo_math", "report")
    assert (result.metric_type, result.metric_value) == ("exact_match", 0.62)
    again = ModelCard(f"---\n{parsed.data.to_yaml()}\n---\n").data
    assert again.to_dict() == parsed.data.to_dict()


def test_results_have_their_intervals(parsed: ModelCard) -> None:
    assert "0.620 [0.580, 0.660]" in parsed.text
    assert "| base | 0.200 | 0.200 | +0.420 [+0.370, +0.470] |" in parsed.text


def test_what_it_takes_to_trust_it_is_there(parsed: ModelCard) -> None:
    for text in (
        *("## Sources", "`" + "c" * 64 + "`", "| org/lora | expert |", "apache-2.0"),
        *("## Licence", "no legal advice", "Built with Llama"),
        *("## How it was found", "11 candidates scored in full and 29 stopped early", "5,385 scores", "attention, mlp"),
        *("## Intended use and limits", "constraints on bbq"),
        *("## Citation", "https://arxiv.org/abs/2306.01708"),
        *("BitsAndBytesConfig", "TorchAoConfig", "convert_hf_to_gguf.py merged"),
        *("e" * 64, "evomerge merge recipe.yaml"),
    ):
        assert text in parsed.text, text


def test_nobodys_folders_are_in_the_card(parsed: ModelCard) -> None:
    assert "somebody" not in parsed.content
    assert "| math | expert |" in parsed.text


def test_its_code_is_python(parsed: ModelCard) -> None:
    blocks = re.findall(r"```python\n(.*?)```", parsed.text, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        ast.parse(block)


def test_without_a_search_nothing_is_claimed() -> None:
    told = card(dataclasses.replace(EXPORT, result=None, evaluation=None, found=None))
    assert "model-index" not in told
    assert "## Results" not in told
    assert "Nothing has been measured on untouched documents" in told


def test_another_trial_than_the_winner_has_what_the_search_saw() -> None:
    told = card(dataclasses.replace(EXPORT, result=None))
    assert "Its objective is 0.700 on the documents that the search chose by, so expect less" in told


def test_the_terms_come_with_their_texts() -> None:
    told = licence(EXPORT)
    assert told is not None
    assert "[Llama 3.1 Community License](https://www.llama.com/llama3_1/license/)" in told
    assert "## NOTICE of math\n\n````text\nThanks to ```all```\n````" in told
    assert licence(dataclasses.replace(EXPORT, verdict=judge([]), cards={})) is None


def test_programs_are_told_the_same() -> None:
    told = json.loads(provenance(EXPORT))
    assert told["sources"]["lora"] == {
        "model": "org/base",
        "revision": None,
        "adapter": "org/lora",
        "licence": "unknown",
        "digest": "d" * 64,
    }
    assert told["weights"]["digest"] == "e" * 64
    assert told["licence"] == "obligations"
    assert told["trial"] == 7


def test_every_exporter_names_its_file() -> None:
    assert set(exported_files(EXPORT)) <= {"README.md", "LICENSE.md", "recipe.yaml", "mergekit.yaml", "evomerge.json"}
    assert {"README.md", "LICENSE.md", "recipe.yaml", "evomerge.json"} <= set(exported_files(EXPORT))

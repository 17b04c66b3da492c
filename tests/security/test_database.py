"""A hostile database: what it holds is neither imported nor unpickled, and its recipes merge no other models."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from evomerge.errors import InputError
from evomerge.runs.cli import main
from evomerge.runs.run import join_run
from evomerge.search.config import load_config
from evomerge.search.samplers.making import make_sampler
from evomerge.search.sampling import SamplerContext
from evomerge.search.storage import open_storage, sqlite_url
from evomerge.search.study import RECIPE, create_study
from tests.runs.conftest import CONFIG
from tests.search.driver import box
from tests.security.test_models import Trap

TRAP = "tests.security.trap"


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that exists once the trap has sprung."""
    sys.modules.pop(TRAP, None)
    monkeypatch.setenv("EVOMERGE_TRAP", str(tmp_path / "sprung"))
    return tmp_path / "sprung"


def hostile_study(folder: Path, *settings: str) -> str:
    """The URL of a database whose study "quickstart" has these settings."""
    url = sqlite_url(folder / "hostile.db")
    create_study(open_storage(url), load_config(CONFIG, list(settings)), ())
    return url


@pytest.mark.parametrize("verb", ["worker", "resume"])
def test_a_joined_study_imports_nothing_unnamed(
    verb: str, tmp_path: Path, trap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = hostile_study(tmp_path, f"search.sampler={TRAP}:Sampler", "evaluate.include_path=null")
    with pytest.raises(SystemExit) as stopped:
        main(
            [verb, "--storage", url, "--study", "quickstart", *(["--out", str(tmp_path / "run")] * (verb == "resume"))]
        )
    assert stopped.value.code == 2
    assert f"add --trust {TRAP}:Sampler" in capsys.readouterr().err
    assert not trap.exists()
    assert not (tmp_path / "run").exists()


def test_what_is_named_is_taken(tmp_path: Path, trap: Path) -> None:
    url = hostile_study(tmp_path, f"search.sampler={TRAP}:Sampler")
    tasks = str(load_config(CONFIG).evaluate.include_path)
    with pytest.raises(InputError, match=r"evaluate\.include_path is"):
        join_run(url, "quickstart", tmp_path / "run", [f"{TRAP}:Sampler"])
    run = join_run(url, "quickstart", tmp_path / "run", [f"{TRAP}:Sampler", tasks])
    assert run.config.search.sampler == f"{TRAP}:Sampler"
    again = join_run(url, "quickstart", tmp_path / "run")
    assert again.config == run.config, "the folder has the user's word by now"


@pytest.mark.parametrize("name", ["cmaes", "optuna.samplers:CmaEsSampler", "tpe", "gp", "nsga2"])
def test_nothing_in_a_database_is_unpickled(name: str, tmp_path: Path, trap: Path) -> None:
    dimensions = box(3)
    state = pickle.dumps(Trap(trap)).hex()
    keys = (
        "cma:optimizer",
        "cma:optimizer:0",
        "sepcma:optimizer:0",
        "cmawm:optimizer:0",
        "cma:generation",
        "evomerge:x",
    )
    study = optuna.create_study(storage=open_storage(sqlite_url(tmp_path / "s.db")), direction="maximize")
    for number in range(6):
        params = dict.fromkeys(dimensions, 0.1 * number + 0.2)
        attributes = dict.fromkeys(keys, state)
        study.add_trial(
            create_trial(
                params=params, distributions=dict(dimensions), value=float(number), system_attrs=attributes,
                user_attrs={**attributes, "told": number},
            )
        )  # fmt: skip
    context = SamplerContext(0, 6, dimensions)
    trial = study.ask()
    point = make_sampler(name, context).sample_relative(study, trial, dimensions)
    assert set(point) == set(dimensions)
    assert not trap.exists()
    pickle.loads(bytes.fromhex(state))
    assert trap.exists(), "had anybody unpickled it, this would be a trace of it"


def test_recipes_of_trials_merge_the_run_s_own_models(tmp_path: Path) -> None:
    url = hostile_study(tmp_path)
    run = join_run(url, "quickstart", tmp_path / "run", [str(load_config(CONFIG).evaluate.include_path)])
    models = run.config.models
    recipe: dict[str, Any] = {
        "base": models.base.model_dump(),
        "experts": [expert.model_dump() for expert in models.experts],
        "method": "linear",
    }
    sound, hostile = json.dumps(recipe), json.dumps({**recipe, "base": {"model": "/etc", "trust_remote_code": True}})
    for text in (sound, hostile, "{" * 9999, '{"base": 1}'):
        run.study.add_trial(create_trial(state=TrialState.COMPLETE, value=1.0, user_attrs={RECIPE: text}))
    assert run.recipe(0).base == models.base
    for number in (1, 2, 3):
        with pytest.raises(InputError, match=f"trial {number}") as caught:
            run.recipe(number)
        assert str(caught.value).isprintable()

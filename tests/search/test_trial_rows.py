"""Rows of whole trials against those that Optuna writes."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from evomerge.search.storage import open_storage, sqlite_url
from evomerge.search.trial_rows import TrialContent, add_trial, fill_trial, finish_trial, start_trial

BOX: dict[str, BaseDistribution] = {
    "weight[a] layers 0-1": FloatDistribution(0.0, 1.2),
    "gate": IntDistribution(0, 1),
    "method": CategoricalDistribution(("ties", "linear")),
}
finite = st.floats(-1e300, 1e300)
points = st.fixed_dictionaries(
    {
        "weight[a] layers 0-1": st.floats(0.0, 1.2),
        "gate": st.integers(0, 1),
        "method": st.sampled_from(["ties", "linear"]),
    }
)
attributes = st.dictionaries(
    st.text("abc:é", min_size=1, max_size=5), st.none() | st.lists(finite, max_size=3) | st.text(max_size=9), max_size=3
)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return open_storage(sqlite_url(tmp_path_factory.mktemp("rows") / "study.db"))


def seen(study: optuna.Study) -> FrozenTrial:
    """The last trial as a process sees it that has not written it."""
    return optuna.load_study(study_name=study.study_name, storage=study._storage._backend).get_trials()[-1]  # type: ignore[attr-defined]


def without_times(trial: FrozenTrial) -> dict[str, Any]:
    return {
        key: value
        for key, value in vars(trial).items()
        if key not in ("_trial_id", "_number") and "datetime" not in key
    }


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(point=points, user=attributes, system=attributes, values=st.none() | st.lists(finite, min_size=2, max_size=2))
def test_a_trial_reads_as_if_optuna_had_written_it(
    point: dict[str, Any], user: dict[str, Any], system: dict[str, Any], values: list[float] | None, storage: Any
) -> None:
    study = optuna.create_study(storage=storage, directions=["maximize"] * 2)
    state = TrialState.FAIL if values is None else TrialState.COMPLETE
    theirs = optuna.create_trial(
        params=point, distributions=BOX, values=values, state=state, user_attrs=user, system_attrs=system
    )
    study.add_trial(theirs)
    by_optuna = seen(study)
    content = TrialContent(point, BOX, user, system)
    with storage.engine.begin() as connection:
        trial_id = add_trial(connection, study._study_id, 1, TrialState.RUNNING, content)
    running = seen(study)
    assert without_times(running) == without_times(content.frozen(1, trial_id, TrialState.RUNNING))
    assert running.datetime_start is not None
    assert running.datetime_start >= by_optuna.datetime_start  # type: ignore[operator]
    with storage.engine.begin() as connection:
        assert finish_trial(connection, trial_id, values, TrialContent())
        assert not finish_trial(connection, trial_id, values, content)
    ours = seen(study)
    assert without_times(ours) == without_times(by_optuna)
    assert ours.datetime_complete is not None
    assert [trial.number for trial in study.get_trials()] == [0, 1]


def test_a_waiting_trial_is_started_once_and_filled(storage: Any) -> None:
    study = optuna.create_study(storage=storage)
    with storage.engine.begin() as connection:
        trial_id = add_trial(
            connection, study._study_id, 0, TrialState.WAITING, TrialContent(user_attrs={"a": 1, "b": 2})
        )
    assert seen(study).state == TrialState.WAITING
    with storage.engine.begin() as connection:
        assert start_trial(connection, trial_id)
        assert not start_trial(connection, trial_id)
        fill_trial(connection, trial_id, TrialContent({"gate": 1}, BOX, {"b": 3}))
    trial = seen(study)
    assert (trial.state, trial.params, trial.user_attrs) == (TrialState.RUNNING, {"gate": 1}, {"a": 1, "b": 3})
    study.tell(trial.number, 0.5)
    assert seen(study).value == 0.5


def test_nothing_of_a_transaction_that_is_rolled_back_stays(storage: Any) -> None:
    study = optuna.create_study(storage=storage)
    with storage.engine.connect() as connection:
        add_trial(connection, study._study_id, 0, TrialState.RUNNING, TrialContent({"gate": 1}, BOX))
        connection.rollback()
    assert study.get_trials() == []

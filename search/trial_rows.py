"""Whole trials written in one transaction, straight into the tables of Optuna's database.

Optuna's own calls look for an earlier distribution before each parameter, 190 ms a trial of 256 dimensions, and take
a transaction for each attribute. The rows are those that they would write.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Table, delete, func, insert, select, update

_TRIALS: Table = models.TrialModel.__table__
_PARAMS: Table = models.TrialParamModel.__table__
_USER: Table = models.TrialUserAttributeModel.__table__
_SYSTEM: Table = models.TrialSystemAttributeModel.__table__
_VALUES: Table = models.TrialValueModel.__table__
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class TrialContent:
    """What a trial holds before it is finished.

    Attributes:
        params: values by the dimension's name.
        distributions: one for each of them.
        user_attrs, system_attrs: plain data.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict)
    user_attrs: Mapping[str, Any] = field(default_factory=dict)
    system_attrs: Mapping[str, Any] = field(default_factory=dict)

    def frozen(self, number: int, trial_id: int, state: TrialState) -> FrozenTrial:
        """The trial as Optuna would read it, but for its times."""
        return FrozenTrial(
            number=number,
            state=state,
            value=None,
            datetime_start=None,
            datetime_complete=None,
            params=dict(self.params),
            distributions=dict(self.distributions),
            user_attrs=dict(self.user_attrs),
            system_attrs=dict(self.system_attrs),
            intermediate_values={},
            trial_id=trial_id,
        )


def count_trials(connection: Connection, study_id: int) -> int:
    """How many trials a study has; the next one's number."""
    return _count(connection, _TRIALS.c.study_id == study_id)


def count_finished(connection: Connection, study_id: int) -> int:
    """How many of its trials are finished."""
    return _count(connection, (_TRIALS.c.study_id == study_id) & _TRIALS.c.state.in_(FINISHED))


def _count(connection: Connection, which: Any) -> int:
    return int(connection.execute(select(func.count()).select_from(_TRIALS).where(which)).scalar_one())


def add_trial(connection: Connection, study_id: int, number: int, state: TrialState, content: TrialContent) -> int:
    """Add a trial that is RUNNING or WAITING. Returns its id."""
    started = _now() if state == TrialState.RUNNING else None
    row = insert(_TRIALS).values(number=number, study_id=study_id, state=state, datetime_start=started)
    key = connection.execute(row).inserted_primary_key
    assert key is not None
    fill_trial(connection, int(key[0]), content)
    return int(key[0])


def start_trial(connection: Connection, trial_id: int) -> bool:
    """Turn a WAITING trial into a RUNNING one; False: it was not waiting any more."""
    waiting = update(_TRIALS).where(_TRIALS.c.trial_id == trial_id, _TRIALS.c.state == TrialState.WAITING)
    started = connection.execute(waiting.values(state=TrialState.RUNNING, datetime_start=_now()))
    return started.rowcount == 1


def is_running(connection: Connection, trial_id: int) -> bool:
    """Whether a trial is under way."""
    state = connection.execute(select(_TRIALS.c.state).where(_TRIALS.c.trial_id == trial_id)).scalar_one()
    return bool(state == TrialState.RUNNING)


def fill_trial(connection: Connection, trial_id: int, content: TrialContent) -> None:
    """Give a trial parameters that it does not have yet, and attributes in place of those it has."""
    rows = [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": content.distributions[name].to_internal_repr(value),
            "distribution_json": distribution_to_json(content.distributions[name]),
        }
        for name, value in content.params.items()
    ]
    if rows:
        connection.execute(insert(_PARAMS), rows)
    _set_attributes(connection, _USER, trial_id, content.user_attrs)
    _set_attributes(connection, _SYSTEM, trial_id, content.system_attrs)


def remove_attributes(connection: Connection, trial_id: int, names: Iterable[str]) -> None:
    """Take user attributes from a trial."""
    connection.execute(delete(_USER).where(_USER.c.trial_id == trial_id, _USER.c.key.in_(list(names))))


def finish_trial(connection: Connection, trial_id: int, values: Sequence[float] | None, content: TrialContent) -> bool:
    """Turn a RUNNING trial into a COMPLETE one with finite `values`, or a failed one without.

    Returns:
        False: it was not running any more; nothing has been written.
    """
    state = TrialState.FAIL if values is None else TrialState.COMPLETE
    running = update(_TRIALS).where(_TRIALS.c.trial_id == trial_id, _TRIALS.c.state == TrialState.RUNNING)
    if connection.execute(running.values(state=state, datetime_complete=_now())).rowcount != 1:
        return False
    fill_trial(connection, trial_id, content)
    rows = [
        {
            "trial_id": trial_id,
            "objective": place,
            "value": value,
            "value_type": models.TrialValueModel.TrialValueType.FINITE,
        }
        for place, value in enumerate(values or [])
    ]
    assert all(math.isfinite(value) for value in values or [])
    if rows:
        connection.execute(insert(_VALUES), rows)
    return True


def _set_attributes(connection: Connection, table: Table, trial_id: int, attributes: Mapping[str, Any]) -> None:
    if attributes:
        connection.execute(delete(table).where(table.c.trial_id == trial_id, table.c.key.in_(list(attributes))))
        rows = [
            {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in attributes.items()
        ]
        connection.execute(insert(table), rows)


def _now() -> datetime:
    """Optuna keeps times in UTC without saying so."""
    return datetime.now(UTC).replace(tzinfo=None)

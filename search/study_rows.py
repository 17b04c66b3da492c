"""A whole study written in one transaction: whoever is killed meanwhile leaves no study, and no half of one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from sqlalchemy import Connection, Table, insert
from sqlalchemy.exc import IntegrityError

_STUDIES: Table = models.StudyModel.__table__
_DIRECTIONS: Table = models.StudyDirectionModel.__table__
_USER: Table = models.StudyUserAttributeModel.__table__


def add_study(
    storage: RDBStorage, name: str, directions: Sequence[StudyDirection], attributes: Mapping[str, Any]
) -> optuna.Study:
    """A new study.

    Args:
        storage: the database.
        name: of the study; new in the database.
        directions: one for each objective.
        attributes: its user attributes, plain data.

    Raises:
        DuplicatedStudyError: when there is a study of that name.
    """
    try:
        with storage.engine.begin() as connection:
            _insert(connection, name, directions, attributes)
    except IntegrityError as error:
        raise DuplicatedStudyError(name) from error
    return optuna.load_study(storage=storage, study_name=name, sampler=optuna.samplers.RandomSampler())


def _insert(
    connection: Connection, name: str, directions: Sequence[StudyDirection], attributes: Mapping[str, Any]
) -> None:
    key = connection.execute(insert(_STUDIES).values(study_name=name)).inserted_primary_key
    assert key is not None
    study = {"study_id": int(key[0])}
    objectives = [{**study, "objective": place, "direction": each} for place, each in enumerate(directions)]
    connection.execute(insert(_DIRECTIONS), objectives)
    rows = [{**study, "key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]
    if rows:
        connection.execute(insert(_USER), rows)

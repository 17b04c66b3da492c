"""A study's user attributes that several workers may write: each in one transaction, which says whether it took effect.

Optuna's own call reads whether there is a row and writes it after that, so that of two workers one may fail.
"""

from __future__ import annotations

import json
from typing import Any

import optuna
from optuna.storages import InMemoryStorage
from optuna.storages._rdb import models
from sqlalchemy import Connection, Engine, Table, delete, insert, select, update

from evomerge.search.patience import transact
from evomerge.search.tables import insert_new

_ROWS: Table = models.StudyUserAttributeModel.__table__


def engine_of(study: optuna.Study) -> Engine:
    """The database of a study that is in a relational one."""
    storage: Any = getattr(study._storage, "_backend", study._storage)
    engine: Engine = storage.engine
    return engine


def _is_in_memory(study: optuna.Study) -> bool:
    return isinstance(study._storage, InMemoryStorage)


def set_once(study: optuna.Study, key: str, value: Any) -> bool:
    """Set an attribute that has no value yet; False: it has one, perhaps since a moment ago, and keeps it.

    A study in memory has one worker, who looks first.
    """
    if _is_in_memory(study):
        study.set_user_attr(key, value)
        return True
    row = {"study_id": study._study_id, "key": key, "value_json": json.dumps(value)}
    engine = engine_of(study)
    return transact(engine, lambda connection: connection.execute(insert_new(engine, _ROWS), row).rowcount == 1)


def swap(study: optuna.Study, key: str, old: Any, new: Any) -> bool:
    """Set an attribute to `new` if it is `old` (None: it has no value); False: another worker has changed it."""
    if old is None:
        return set_once(study, key, new)
    is_old = _is(study, key) & (_ROWS.c.value_json == json.dumps(old))
    swapped = update(_ROWS).where(is_old).values(value_json=json.dumps(new))
    return transact(engine_of(study), lambda connection: connection.execute(swapped).rowcount == 1)


def put(connection: Connection, study: optuna.Study, key: str, value: Any) -> None:
    """Set an attribute whatever it is, as part of the connection's transaction."""
    text = json.dumps(value)
    there = connection.execute(update(_ROWS).where(_is(study, key)).values(value_json=text)).rowcount
    if not there:
        connection.execute(insert(_ROWS).values(study_id=study._study_id, key=key, value_json=text))


def remove(connection: Connection, study: optuna.Study, *keys: str) -> None:
    """Take attributes away, as part of the connection's transaction."""
    connection.execute(delete(_ROWS).where(_ROWS.c.study_id == study._study_id, _ROWS.c.key.in_(keys)))


def get(connection: Connection, study: optuna.Study, key: str) -> Any:
    """An attribute's value as the connection's transaction sees it; None: it has none."""
    text = connection.execute(select(_ROWS.c.value_json).where(_is(study, key))).scalar_one_or_none()
    return None if text is None else json.loads(text)


def _is(study: optuna.Study, key: str) -> Any:
    return (_ROWS.c.study_id == study._study_id) & (_ROWS.c.key == key)

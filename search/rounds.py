"""Rounds: each launch of a search, `run` or `resume`, opens one, and whoever works on the study works towards its end.

A round ends with the result. A worker that joins from elsewhere finds in the study how many trials are wanted, and
whether the round is closed to new trials or over.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import optuna
from sqlalchemy import Connection

from evomerge.search import attributes
from evomerge.search.lease import Lease
from evomerge.search.patience import transact
from evomerge.search.stopping import STOPPED
from evomerge.search.study import RESULT

_ROUND = "evomerge:round"  # {number, trials} of the latest launch
_CLOSED = "evomerge:closed"  # {why}: no further trial is begun
_FINISHED = "evomerge:finished"  # the number of the round that the result is of


class Round(NamedTuple):
    """One launch.

    Attributes:
        number: counted from 1.
        trials: how many shall be finished in the study at its end.
    """

    number: int
    trials: int


def open_round(study: optuna.Study, trials: int) -> Round:
    """Begin a new round, after which workers of the one before go on to `trials`; why it was stopped is forgotten."""

    def begin(connection: Connection) -> Round:
        attributes.remove(connection, study, _CLOSED, STOPPED)
        before = attributes.get(connection, study, _ROUND)
        found = Round(1 if before is None else before["number"] + 1, trials)
        attributes.put(connection, study, _ROUND, found._asdict())
        return found

    return transact(attributes.engine_of(study), begin)


def current_round(study: optuna.Study) -> Round | None:
    """The latest round; None: nobody has launched the study yet, or only a version that had no rounds."""
    told = study.user_attrs.get(_ROUND)
    return None if told is None else Round(**told)


def close_round(study: optuna.Study, why: str) -> bool:
    """Let no worker begin a further trial in the current round; False: another worker said so before."""
    return attributes.set_once(study, _CLOSED, {"why": why})


def why_closed(study: optuna.Study) -> str:
    """Why no further trial is begun in the current round; "": it is open."""
    told = study.user_attrs.get(_CLOSED)
    return "" if told is None else str(told["why"])


def is_over(study: optuna.Study, of: Round) -> bool:
    """Whether the round has its result."""
    return bool(study.user_attrs.get(_FINISHED) == of.number and RESULT in study.user_attrs)


def end_round(study: optuna.Study, of: Round, result: dict[str, Any], lease: Lease) -> None:
    """Keep the result, and that it is of this round.

    Raises:
        LostLeaseError: when another worker concludes the round by now; nothing has been written.
    """

    def keep(connection: Connection) -> None:
        lease.guard(connection)
        attributes.put(connection, study, RESULT, result)
        attributes.put(connection, study, _FINISHED, of.number)

    transact(attributes.engine_of(study), keep)

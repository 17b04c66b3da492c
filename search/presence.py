"""Whether anybody works on a study, seen from outside."""

from __future__ import annotations

import time

from sqlalchemy import Engine, select

from evomerge.search.patience import transact
from evomerge.search.tables import create_tables
from evomerge.search.workers import BEAT_SECONDS, METADATA, Worker

_ROWS = METADATA.tables["evomerge_workers"]


def present_workers(engine: Engine, study: str) -> dict[Worker, int]:
    """The workers that have entered a study and not left it, with their counters; the dead of this host do not count.

    One of another host whose process was killed is among them until somebody strikes it off, but counts no further.
    """
    create_tables(engine, METADATA)
    query = select(_ROWS).where(_ROWS.c.study == study)
    rows = transact(engine, lambda connection: connection.execute(query).all())
    here = Worker.here()
    found = {Worker(row.worker, row.host, row.boot, row.pid, row.started): row.beat for row in rows}
    return {worker: beat for worker, beat in found.items() if not worker.is_gone(here.host, here.boot)}


def is_worked_on(engine: Engine, study: str, seconds: float = 2.5 * BEAT_SECONDS) -> bool:
    """Whether a living worker is in a study.

    A process of this host is seen at once. Of workers of other hosts it is watched for up to `seconds` whether one
    counts up.
    """
    first = present_workers(engine, study)
    here = Worker.here().host
    if not first or any(worker.host == here for worker in first):
        return bool(first)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(0.2, seconds))
        now = present_workers(engine, study)
        if any(first.get(worker) != beat for worker, beat in now.items()):
            return True
    return False

"""Who works on a study: one row a worker in the study's database, whose counter shows that the worker is alive.

No clock of another host is trusted: a worker from elsewhere counts as dead when its counter has stood still for a while
by the observer's own clock, and one of the same host at once when its process is gone.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Column, Connection, Engine, Integer, MetaData, String, Table, delete, select, update
from sqlalchemy.exc import SQLAlchemyError

from evomerge.search.patience import patience_of, transact
from evomerge.search.receipts import Receipts
from evomerge.search.tables import create_tables, insert_new

T = TypeVar("T")

METADATA = MetaData()
_ROWS = Table(
    "evomerge_workers",
    METADATA,
    Column("study", String(128), primary_key=True),
    Column("worker", String(32), primary_key=True),
    Column("host", String(255), nullable=False),
    Column("boot", String(40), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started", String(40), nullable=False),
    Column("beat", Integer, nullable=False),
)

BEAT_SECONDS = 2.0


@dataclass(frozen=True)
class Worker:
    """A process, or a thread of one, that works on a study.

    Attributes:
        worker: a random name.
        host: the machine and, in a container, its space of process numbers.
        boot: names the run of the machine's kernel; "" where that is unknown.
        pid: the number of the process.
        started: when the process started, in the kernel's ticks; "" where that is unknown.
    """

    worker: str
    host: str
    boot: str
    pid: int
    started: str

    @classmethod
    def here(cls) -> Worker:
        """A new worker in this process."""
        return cls(uuid.uuid4().hex, _host(), _read("/proc/sys/kernel/random/boot_id"), os.getpid(), _started("self"))

    def is_gone(self, host: str, boot: str) -> bool:
        """Whether, seen from `host` in its run `boot`, the process is known not to exist any more."""
        if self.host != host:
            return False
        if self.boot != boot:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return self.started != _started(str(self.pid))


class Workers:
    """The workers of one study, as one of them sees them.

    Args:
        engine: the database that holds the study.
        study: the study's name.
    """

    def __init__(self, engine: Engine, study: str) -> None:
        create_tables(engine, METADATA)
        self._engine = engine
        self._study = study
        self.me = Worker.here()
        self._receipts = Receipts(engine, study, self.me.worker)
        self._seen: dict[str, tuple[int, float]] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def join(self, seconds: float = BEAT_SECONDS) -> None:
        """Enter the study; until `leave` a thread counts up, and looks at the others, every so many seconds."""
        self._enter()
        if self._engine.url.database in (None, "", ":memory:") and self._engine.dialect.name == "sqlite":
            return  # every thread would have a database of its own; nobody else can join it either
        self._ended.clear()
        self._thread = threading.Thread(target=self._beat_on, args=(seconds,), name="evomerge heartbeat", daemon=True)
        self._thread.start()

    def once(self, work: Callable[[Connection], T]) -> T:
        """The result of a transaction that takes effect exactly once; see `Receipts.once`. For one thread only."""
        return self._receipts.once(work)

    def leave(self) -> None:
        """Leave the study: whoever comes next need not wait to see that this worker is gone."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        transact(self._engine, self._leave)

    def _leave(self, connection: Connection) -> None:
        connection.execute(delete(_ROWS).where(_ROWS.c.study == self._study, _ROWS.c.worker == self.me.worker))
        self._receipts.clear(connection)

    def beat(self) -> None:
        """Count up; a worker that others have struck off meanwhile enters again."""
        mine = update(_ROWS).where(_ROWS.c.study == self._study, _ROWS.c.worker == self.me.worker)
        with self._engine.begin() as connection:
            entered = connection.execute(mine.values(beat=_ROWS.c.beat + 1)).rowcount
            if not entered:
                self._insert(connection)

    def is_dead(self, worker: str, seconds: float) -> bool:
        """Whether a worker is gone, or has not counted up for `seconds` since this one first saw its counter there."""
        if worker == self.me.worker:
            return False
        query = select(_ROWS).where(_ROWS.c.study == self._study, _ROWS.c.worker == worker)
        row = transact(self._engine, lambda connection: connection.execute(query).one_or_none())
        if row is None:
            return True
        other = Worker(row.worker, row.host, row.boot, row.pid, row.started)
        if other.is_gone(self.me.host, self.me.boot):
            return True
        since = max(self._see(worker, row.beat), patience_of(self._engine).recovered)
        return time.monotonic() - since >= seconds

    def _see(self, worker: str, beat: int) -> float:
        """Since when the worker's counter has stood where it stands, as far as this worker knows."""
        known = self._seen.get(worker)
        if known is None or known[0] != beat:
            known = self._seen[worker] = (beat, time.monotonic())
        return known[1]

    def _look(self) -> None:
        """See all counters, so that it is known how long they have stood still when somebody asks."""
        query = select(_ROWS.c.worker, _ROWS.c.beat).where(_ROWS.c.study == self._study)
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
        for worker, beat in rows:
            self._see(worker, beat)

    def _enter(self) -> None:
        transact(self._engine, self._insert)

    def _insert(self, connection: Connection) -> None:
        me = self.me
        row = {"worker": me.worker, "host": me.host, "boot": me.boot, "pid": me.pid, "started": me.started}
        connection.execute(insert_new(self._engine, _ROWS), [{"study": self._study, "beat": 0, **row}])

    def _beat_on(self, seconds: float) -> None:
        while not self._ended.wait(seconds):
            try:
                self.beat()
                self._look()
            except SQLAlchemyError:  # the database is away: others will take over if it comes back to them first
                self._seen.clear()  # and nobody can count up


def _host() -> str:
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return " ".join(part for part in (socket.gethostname(), _read("/etc/machine-id"), space) if part)


def _started(process: str) -> str:
    """Field 22 of /proc/PID/stat (proc(5)); the name before may hold blanks and brackets. "": unknown, or a zombie."""
    state, *fields = _read(f"/proc/{process}/stat").rpartition(")")[2].split() or [""]
    return fields[18] if len(fields) > 18 and state not in ("Z", "X") else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""

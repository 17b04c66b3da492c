"""What a launch that was killed before its run was complete leaves in the run's folder."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

CONFIG_FILE = "config.yaml"
DATABASE = "study.db"
_OF_DATABASE = (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal")
_OF_LAUNCH = (*_OF_DATABASE, ".lock")


def is_remnant(folder: Path) -> bool:
    """Whether a folder, which exists, holds nothing but what a launch leaves before it has written config.yaml.

    A database with trials, or one that cannot be read, is more than that.
    """
    drafts = f".{CONFIG_FILE}."
    names = [path.name for path in folder.iterdir()]
    if not all(name in _OF_LAUNCH or name.startswith(drafts) for name in names):
        return False
    return DATABASE not in names or count_trials(folder / DATABASE) == 0


def clear_remnant(folder: Path) -> None:
    """Remove what `is_remnant` looks at, but for the lock, which the caller holds."""
    for path in folder.iterdir():
        if path.name != ".lock":
            path.unlink()


def count_trials(database: Path) -> int | None:
    """How many trials of any study an SQLite database has; None: it is none, is locked, or is damaged."""
    if not database.stat().st_size:
        return 0
    try:
        with closing(sqlite3.connect(f"file:{database.resolve()}?mode=ro", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            if "trials" not in tables:
                return 0
            return int(connection.execute("SELECT COUNT(*) FROM trials").fetchone()[0])
    except sqlite3.Error:
        return None


def how_to_recover(folder: Path) -> str:
    """What to do about a folder with a database and without config.yaml; "" where there is no such database."""
    database = folder / DATABASE
    if not database.is_file():
        return ""
    if is_remnant(folder):
        return "; its launch was stopped before it was complete: run the search again"
    url = f"sqlite:///{database.resolve()}"
    return f"; its study can be resumed all the same: evomerge resume --storage {url} --study NAME --out ANOTHER"

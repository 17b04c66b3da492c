"""The ledger: one row per candidate, task, document and metric, in the study's own database.

A recipe that has been scored on a document is never scored on it again: rows are found by the recipe's digest,
whoever scored them and when. What has no row has not been scored; a row without a value was, and has none.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Column,
    Engine,
    Float,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    Text,
    func,
    select,
)

from evomerge.evaluators.types import DocumentScore
from evomerge.search.patience import transact
from evomerge.search.tables import create_tables, insert_new

_METADATA = MetaData()
_ROWS = Table(
    "evomerge_ledger",
    _METADATA,
    Column("study", String(128), primary_key=True),
    Column("recipe", String(32), primary_key=True),
    Column("task", String(255), primary_key=True),
    Column("document", String(80), primary_key=True),
    Column("metric", String(80), primary_key=True),
    Column("trial", Integer, nullable=True, index=True),
    Column("split", String(8), nullable=False),
    Column("value", Float(53), nullable=True),
    Column("item", Text, nullable=True),
)


class Ledger:
    """The document scores of one study.

    Args:
        engine: the database that holds the study.
        study: the study's name.
    """

    def __init__(self, engine: Engine, study: str) -> None:
        self._engine = engine
        self._study = study
        create_tables(engine, _METADATA)

    @property
    def engine(self) -> Engine:
        """The database that holds the study."""
        return self._engine

    def record(self, recipe: str, trial: int | None, split: str, scores: Sequence[DocumentScore]) -> None:
        """Add rows in one transaction; rows that exist stay as they are.

        Args:
            recipe: the recipe's digest.
            trial: the number of the trial that paid for the scores; None for a baseline.
            split: of the documents.
            scores: NaN becomes a row without a value.
        """
        rows = [
            {
                "study": self._study,
                "recipe": recipe,
                "task": score.task,
                "document": score.document,
                "metric": score.metric,
                "trial": trial,
                "split": split,
                "value": None if math.isnan(score.value) else score.value,
                "item": score.item,
            }
            for score in scores
        ]
        if rows:
            transact(self._engine, lambda connection: connection.execute(insert_new(self._engine, _ROWS), rows))

    def scores(self, recipe: str, split: str | None = None) -> list[DocumentScore]:
        """All scores of a recipe, or those on one split."""
        query = select(_ROWS.c.task, _ROWS.c.document, _ROWS.c.metric, _ROWS.c.value, _ROWS.c.item).where(
            _ROWS.c.study == self._study, _ROWS.c.recipe == recipe
        )
        if split is not None:
            query = query.where(_ROWS.c.split == split)
        return [
            DocumentScore(task, document, metric, math.nan if value is None else value, item)
            for task, document, metric, value, item in self._rows(query)
        ]

    def matrix(self, recipes: Iterable[str]) -> Mapping[str, Mapping[tuple[str, str, str], float]]:
        """For each recipe its values by (task, document, metric)."""
        wanted = set(recipes)
        query = select(_ROWS).where(_ROWS.c.study == self._study).order_by(_ROWS.c.task, _ROWS.c.document)
        table: dict[str, dict[tuple[str, str, str], float]] = {recipe: {} for recipe in wanted}
        for row in self._rows(query):
            if row.recipe in wanted:
                value = math.nan if row.value is None else row.value
                table[row.recipe][row.task, row.document, row.metric] = value
        return table

    def count(self, split: str, besides: Collection[str] = ()) -> int:
        """How many times a trial has been scored on a document of a split, in whichever metrics.

        Args:
            split: of the documents.
            besides: metrics that do not count, such as cheap stand-ins.
        """
        once = self._documents(split, besides).subquery()
        return int(self._rows(select(func.count()).select_from(once))[0][0])

    def count_of(self, trial: int) -> int:
        """How many rows a trial has paid for."""
        mine = (_ROWS.c.study == self._study) & (_ROWS.c.trial == trial)
        return int(self._rows(select(func.count()).select_from(_ROWS).where(mine))[0][0])

    def widest(self, split: str, besides: Collection[str] = ()) -> int:
        """The most documents of a split that any one recipe has been scored on; `besides` as in `count`."""
        once = self._documents(split, besides).subquery()
        each = select(func.count().label("documents")).select_from(once).group_by(once.c.recipe).subquery()
        return int(self._rows(select(func.max(each.c.documents)))[0][0] or 0)

    def _rows(self, query: Select[*tuple[Any, ...]]) -> Sequence[Any]:
        return transact(self._engine, lambda connection: connection.execute(query).all())

    def _documents(self, split: str, besides: Collection[str]) -> Select[*tuple[Any, ...]]:
        return (
            select(_ROWS.c.recipe, _ROWS.c.task, _ROWS.c.document)
            .where(_ROWS.c.study == self._study, _ROWS.c.split == split, _ROWS.c.metric.not_in(besides))
            .where(_ROWS.c.trial.is_not(None))
            .distinct()
        )

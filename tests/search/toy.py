"""A search problem without models: documents with thresholds, and candidates that solve those below their quality."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.engine.method import METHODS
from evomerge.engine.recipe import Recipe
from evomerge.errors import CandidateError
from evomerge.evaluators import Document, DocumentScore, Scores, Split, TaskMetric
from evomerge.evaluators.splits import rungs
from evomerge.evaluators.texts import DocumentText
from evomerge.search.claims import STALE_SECONDS
from evomerge.search.config import SearchConfig, parse_config
from evomerge.search.interrupt import StopRequest
from evomerge.search.judge import Judge
from evomerge.search.ledger import Ledger
from evomerge.search.listener import Listener
from evomerge.search.problem import Problem
from evomerge.search.references import resolve_bounds
from evomerge.search.scoring import Scorer
from evomerge.search.storage import open_storage, quiet_optuna, sqlite_url
from evomerge.search.study import create_study, open_study
from evomerge.search.trials import TrialLoop
from evomerge.spaces import Merge, Space

LAYERS = 4


class ToyMerger:
    """The live model is the recipe itself. Counts how often it had to merge."""

    num_layers = LAYERS
    tokenizer = None

    def __init__(self) -> None:
        self.model: Any = None
        self.merges = 0

    def apply(self, recipe: Recipe) -> None:
        self.model = recipe
        self.merges += 1


class ToyEvaluator:
    """Two tasks; a document is solved where the candidate's quality in its task exceeds the document's threshold.

    Attributes:
        scored: every (recipe digest, document) that was asked for, in order.
        before_chunk: is called before each chunk, with how many came before; may raise.
        broken: recipes for which it says True cannot be scored.
    """

    tasks = (TaskMetric("left", "acc"), TaskMetric("right", "acc"))
    needs_reference = False

    def __init__(
        self,
        sizes: dict[Split, int] | None = None,
        proxied: Mapping[str, float] | None = None,
        prompts: tuple[str, ...] = (),
    ) -> None:
        self._sizes: dict[Split, int] = sizes or {"search": 40, "select": 20, "report": 40}
        self._proxied = proxied or {}
        self._prompts = prompts
        self.scored: list[tuple[str, str]] = []
        self.chunks_done = 0
        self.before_chunk: Callable[[int], None] = lambda done: None
        self.broken: Callable[[Recipe], bool] = lambda recipe: False

    @property
    def proxies(self) -> dict[str, TaskMetric]:
        return {task: TaskMetric(task, "stand-in") for task in self._proxied}

    def documents(self, split: Split) -> tuple[Document, ...]:
        return tuple(
            Document(task.task, f"{split}{index}", index, split)
            for task in self.tasks
            for index in range(self._sizes[split])
        )

    def chunks(self, split: Split) -> tuple[tuple[Document, ...], ...]:
        return tuple(chunk for rung in self.rungs(split) for chunk in rung)

    def rungs(self, split: Split) -> tuple[tuple[tuple[Document, ...], ...], ...]:
        return self.planned(self.documents(split))

    def planned(self, documents: Sequence[Document]) -> tuple[tuple[tuple[Document, ...], ...], ...]:
        return rungs({task.task: [d for d in documents if d.task == task.task] for task in self.tasks}, 10, 5)

    def prompts(self, count: int) -> tuple[str, ...]:
        return self._prompts

    def text(self, document: Document) -> DocumentText:
        return DocumentText(f"document {document.key} of {document.task}", f"above {threshold(document):.3f}")

    def refer(self, model: Any) -> None:
        raise AssertionError("the toy needs no reference")

    def score(
        self, model: Any, documents: Iterable[Document], weights: str | None = None, *, proxy: bool = False
    ) -> list[DocumentScore]:
        self.before_chunk(self.chunks_done)
        if self.broken(model):
            raise CandidateError("logits are NaN")
        self.chunks_done += 1
        scores = []
        for document in documents:
            by_proxy = proxy and document.task in self._proxied
            self.scored.append((model.digest, ("proxy " if by_proxy else "") + document.key + document.task))
            scores.append(self._stand_in(model, document) if by_proxy else _solved(model, document))
        return scores

    def _stand_in(self, model: Recipe, document: Document) -> DocumentScore:
        """Smooth in the candidate's quality as far as the task's reliability says, else a number of its own."""
        reliability = self._proxied[document.task]
        own = int(hashlib.sha256(model.digest.encode()).hexdigest()[:8], 16) / 16**8
        value = reliability * (quality(model, document.task) - threshold(document)) + (1 - reliability) * own
        return DocumentScore(document.task, document.key, "stand-in", value)

    def truth(self, recipe: Recipe, split: Split) -> Scores:
        """What the candidate gets on the whole split; is not counted as scored."""
        return Scores(tuple(_solved(recipe, document) for document in self.documents(split)))

    def fingerprint(self) -> str:
        return "toy"


def _solved(recipe: Recipe, document: Document) -> DocumentScore:
    solved = quality(recipe, document.task) > threshold(document)
    return DocumentScore(document.task, document.key, "acc", float(solved))


def quality(recipe: Recipe, task: str) -> float:
    """In [0, 1]; highest where the task's own expert has weight 0.8 in every group and the other 0.3."""
    own, other = ("a", "b") if task == "left" else ("b", "a")
    losses = []
    for group in recipe.groups:
        weight = group.parameters.get("weight", 1.0)
        weights = weight if isinstance(weight, dict) else {"a": weight, "b": weight}
        losses.append((weights[own] - 0.8) ** 2 + 0.5 * (weights[other] - 0.3) ** 2)
    return float(np.clip(1 - np.mean(losses), 0.0, 1.0))


def threshold(document: Document) -> float:
    digest = hashlib.sha256(f"{document.task} {document.key}".encode()).digest()
    return int.from_bytes(digest[:4]) / 2**32


def toy_config(**sections: Any) -> SearchConfig:
    raw: dict[str, Any] = {
        "name": "toy",
        "models": {"base": "base", "experts": ["a", "b"]},
        "merge": {"method": "task_arithmetic"},
        "space": {"layers": "blocks", "blocks": 2},
        "evaluate": {"tasks": ["left", "right"], "racing": False, "guard": None},
        "search": {"trials": 20, "sampler": "random"},
    }
    for name, section in sections.items():
        raw[name] = {**raw[name], **section}
    return parse_config(raw, "toy")


def toy_space(config: SearchConfig, options: dict[str, Any] | None = None) -> Space:
    merges = []
    for method in config.merge.method:
        template = Recipe(base=config.models.base, experts=config.models.experts, method=method, options=options or {})
        merges.append(Merge(template, METHODS.get(method).parameters))
    return Space(config.space, LAYERS, merges)


class ToyRun:
    """A toy problem with a study in a folder; made again on the same folder it is what a new process would have.

    Args:
        folder: of the database.
        config: of the search.
        url: of another database.
        stale: as TrialLoop has it.
        options: of the evaluator.
    """

    def __init__(
        self,
        folder: Path,
        config: SearchConfig | None = None,
        *,
        url: str | None = None,
        stale: float = STALE_SECONDS,
        **options: Any,
    ) -> None:
        quiet_optuna()
        self.config = config or toy_config()
        self.evaluator = ToyEvaluator(**options)
        self.merger = ToyMerger()
        self.problem = Problem(self.config, self.merger, self.evaluator, toy_space(self.config))  # type: ignore[arg-type]
        self.stale = stale
        self.storage = open_storage(url or sqlite_url(folder / "study.db"))
        try:
            self.study = open_study(self.storage, "toy")
        except Exception:
            self.study = create_study(self.storage, self.config, self.evaluator.tasks)
        self.listener = Listener()
        self.stop = StopRequest()
        self.ledger = Ledger(self.storage.engine, "toy")
        self.scorer = Scorer(self.problem, self.ledger, self.listener, self.stop)

    def run(self, trials: int, timeout: float | None = None) -> None:
        bounds = resolve_bounds(self.problem, self.scorer, "search")
        judge = Judge(self.problem, self.study, self.ledger, self.scorer, bounds, self.listener)
        TrialLoop(self.problem, self.study, judge, self.listener, self.stop, self.stale).run(trials, timeout)

    def history(self) -> list[tuple[int, dict[str, Any], Any, str]]:
        """(number, parameters, value or values, state) of every trial."""
        several = len(self.study.directions) > 1
        trials = self.study.get_trials()
        return [(t.number, t.params, t.values if several else t.value, t.state.name) for t in trials]

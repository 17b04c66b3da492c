"""Trials, one after another: propose, merge, score, tell."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from evomerge.errors import CandidateError, InputError
from evomerge.evaluators.types import titles
from evomerge.search import study as attributes
from evomerge.search.attributes import set_once
from evomerge.search.claims import STALE_SECONDS
from evomerge.search.curriculum import first_stage_is_open
from evomerge.search.following import Following
from evomerge.search.interrupt import StopRequest
from evomerge.search.judge import Judge
from evomerge.search.judgement import Judgement
from evomerge.search.listener import Listener
from evomerge.search.mirror import whole_point
from evomerge.search.problem import Problem
from evomerge.search.proposals import Proposal, Proposer
from evomerge.search.queue import LostTrialError, TrialQueue
from evomerge.search.rounds import close_round, why_closed
from evomerge.search.sampling import AUTO, choose_sampler
from evomerge.search.scoring import Spent
from evomerge.search.stopping import Stopping
from evomerge.search.warm_starts import warm_starts
from evomerge.search.workers import BEAT_SECONDS, Workers
from evomerge.spaces import Point

_ENQUEUED = "evomerge:enqueued"
_WAIT_SECONDS = 0.5  # between looks at what other workers do


class TrialLoop:
    """Runs the trials of a study until a number of them is finished, alone or beside other workers.

    Args:
        problem: what is searched.
        study: keeps the trials.
        judge: scores candidates.
        listener: is told of decisions and outcomes.
        stop: a request to stop.
        stale: seconds without a sign of life after which another worker's trials are taken over.
        workers: those of the study, which this one has joined; None: it joins for as long as `run` takes.
    """

    def __init__(
        self,
        problem: Problem,
        study: optuna.Study,
        judge: Judge,
        listener: Listener,
        stop: StopRequest,
        stale: float = STALE_SECONDS,
        workers: Workers | None = None,
    ) -> None:
        self._problem = problem
        self._space = problem.space
        self._study = study
        self._judge = judge
        self._ledger = judge.ledger
        self._listener = listener
        self._stop = stop
        self._stale = stale
        self._workers = workers
        self._sampler = self._chosen_sampler()

    def run(self, trials: int, timeout: float | None) -> None:
        """Go on until `trials` are finished, failed ones included, or `timeout` seconds have passed.

        Where other workers have the last trials, it waits for them, and takes over those of workers that die.

        Raises:
            InterruptedRunError: when somebody asked to stop; the trial under way goes on when the study is resumed.
        """
        if self._workers is not None:
            self._run(self._workers, trials, timeout)
            return
        workers = Workers(self._ledger.engine, self._study.study_name)
        workers.join(min(BEAT_SECONDS, self._stale / 4))
        try:
            self._run(workers, trials, timeout)
        finally:
            workers.leave()

    def _run(self, workers: Workers, trials: int, timeout: float | None) -> None:
        queue = self._queue(workers, trials)
        try:
            self._work(queue, trials, timeout)
        finally:
            queue.leave()

    def _work(self, queue: TrialQueue, trials: int, timeout: float | None) -> None:
        queue.enqueue(self._warm_starts, _ENQUEUED)
        began = time.monotonic()
        following = Following(self._study, self._ledger.engine, self._problem.evaluator.tasks, self._listener)
        done = following.look()
        self._listener.stage("search", trials, done)
        stopping = Stopping(self._problem, self._study, trials)
        while done < trials:
            if timeout is not None and time.monotonic() - began >= timeout:
                why = f"the timeout of {timeout:g} s is over after {done} of {trials} trials"
                if close_round(self._study, why):
                    self._listener.note(why)
                return
            if why_closed(self._study):
                return
            self._stop.check()
            trial = queue.take(trials, stopping.why)
            if trial is not None:
                self._run_one(queue, trial)
            done = following.look()
            if trial is None and done < trials:
                if queue.is_idle(trials):
                    why = stopping.why(done)
                    if stopping.is_first:
                        self._listener.note(why)
                    return
                time.sleep(_WAIT_SECONDS)

    def _queue(self, workers: Workers, trials: int) -> TrialQueue:
        most = max(trials, self._problem.config.search.trials)
        proposer = Proposer(self._problem, self._study, self._sampler, self._ledger, most)
        return TrialQueue(
            self._study,
            self._space,
            self._ledger,
            proposer,
            workers,
            self._listener,
            self._stop.check,
            self._stale,
            lambda trials: self._sampler == AUTO and first_stage_is_open(self._space, trials, most),
        )

    def _chosen_sampler(self) -> str:
        config = self._problem.config.search
        stored = self._study.user_attrs.get(attributes.SAMPLER)
        if stored is None:
            stored, why = choose_sampler(config.sampler, self._space, config.trials, len(self._study.directions))
            if set_once(self._study, attributes.SAMPLER, stored):
                self._listener.note(f"sampler {stored}: {why}")
        return str(stored)

    def _warm_starts(self) -> Mapping[str, Point | None]:
        experts = [expert.name for expert in self._problem.config.models.experts]
        points, notes = warm_starts(self._space, experts, self._problem.config.search.warm_start)
        for note in notes:
            self._listener.note(note)
        return points

    def _run_one(self, queue: TrialQueue, trial: FrozenTrial) -> None:
        try:
            trial = self._with_point(queue, trial)
            self._score(queue, trial)
        except LostTrialError:
            self._listener.note(f"trial {trial.number} is another worker's by now: this one was away for too long")

    def _with_point(self, queue: TrialQueue, trial: FrozenTrial) -> FrozenTrial:
        """The trial; the warm start `gradient` has its point made only now, and keeps it from then on."""
        if whole_point(trial):
            return trial
        from evomerge.search.gradient import GradientStart

        began = time.perf_counter()
        start = GradientStart(self._problem, self._study, self._judge.scorer, self._listener, self._stop)
        point = start.point(trial.number)
        if point is None:
            return queue.propose_for(trial, "the gradient found nothing better: the sampler proposes in its place")
        return queue.fill(trial, Proposal(point), time.perf_counter() - began)

    def _score(self, queue: TrialQueue, trial: FrozenTrial) -> None:
        spent = Spent(**trial.user_attrs.get(attributes.SECONDS, {}))
        told: dict[str, Any] = {}
        judgement = None
        try:
            recipe = self._space.recipe(whole_point(trial))
            judgement = self._judge.judge(recipe, trial.number, spent)
            told = self._told(judgement)
        except (CandidateError, InputError) as error:
            judgement = None
            told[attributes.REASON] = str(error)
        except BaseException:
            queue.note(trial, {attributes.SECONDS: asdict(spent)})
            raise
        told[attributes.SECONDS] = asdict(spent)
        queue.finish(trial, judgement.values if judgement else None, told, judgement.violations if judgement else {})

    def _told(self, judgement: Judgement) -> dict[str, Any]:
        """What the trial keeps of its judgement.

        Raises:
            CandidateError: when an objective is not a finite number.
        """
        if not all(map(math.isfinite, judgement.values)):
            raise CandidateError(f"the objective must be finite, but got {judgement.values}")
        tasks = self._problem.evaluator.tasks
        told: dict[str, Any] = {
            attributes.TASKS: {
                title: {"metric": task.label, "value": mean}
                for title, task, mean in zip(titles(tasks), tasks, judgement.means, strict=True)
            },
            attributes.SCORED: [judgement.documents, len(self._problem.evaluator.documents("search"))],
        }
        if judgement.why:
            told |= {
                attributes.ESTIMATED: True,
                attributes.PRUNED: judgement.is_stopped,
                attributes.REASON: judgement.why,
            }
            if math.isfinite(judgement.stderr):
                told[attributes.STDERR] = judgement.stderr
        if math.isfinite(judgement.noise):
            told[attributes.NOISE] = judgement.noise
        if judgement.violations:
            told[attributes.CONSTRAINTS] = judgement.violations
        return told

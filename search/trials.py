"""Trials, one after another: propose, merge, score, tell."""

from __future__ import annotations

import math
import time
from dataclasses import asdict

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from evomerge.errors import CandidateError, InputError
from evomerge.evaluators.objective import combine
from evomerge.evaluators.types import titles
from evomerge.search import study as attributes
from evomerge.search.interrupt import StopRequest
from evomerge.search.judge import Judge
from evomerge.search.judgement import Judgement
from evomerge.search.listener import Listener, TrialOutcome
from evomerge.search.problem import Problem
from evomerge.search.sampling import SAMPLERS, TrialSeededSampler, choose_sampler
from evomerge.search.scoring import Spent
from evomerge.search.warm_starts import warm_starts
from evomerge.spaces import METHOD, Point

_ENQUEUED = "evomerge:enqueued"


class TrialLoop:
    """Runs the trials of a study until a number of them is finished."""

    def __init__(
        self, problem: Problem, study: optuna.Study, judge: Judge, listener: Listener, stop: StopRequest
    ) -> None:
        self._problem = problem
        self._space = problem.space
        self._study = study
        self._judge = judge
        self._listener = listener
        self._stop = stop
        self._study.sampler = self._sampler()

    def run(self, trials: int, timeout: float | None) -> None:
        """Go on until `trials` are finished, failed ones included, or `timeout` seconds have passed.

        Raises:
            InterruptedRunError: when somebody asked to stop; the trial under way goes on when the study is resumed.
        """
        self._enqueue_warm_starts()
        began = time.monotonic()
        done = len(_finished(self._study))
        self._listener.stage("search", trials, done)
        while done < trials:
            if timeout is not None and time.monotonic() - began >= timeout:
                self._listener.note(f"the timeout of {timeout:g} s is over after {done} of {trials} trials")
                return
            self._stop.check()
            self._run_one()
            done += 1
            self._listener.step()

    def _sampler(self) -> TrialSeededSampler:
        config = self._problem.config.search
        stored = self._study.user_attrs.get(attributes.SAMPLER)
        if stored is None:
            stored, why = choose_sampler(config.sampler, self._space, config.trials, len(self._study.directions))
            self._study.set_user_attr(attributes.SAMPLER, stored)
            self._listener.note(f"sampler {stored}: {why}")
        return TrialSeededSampler(SAMPLERS.get(stored), self._space, config.seed)

    def _enqueue_warm_starts(self) -> None:
        """Put the warm starts in front, once; a crash on the way leaves none of them doubled."""
        if _ENQUEUED in self._study.user_attrs:
            return
        experts = [expert.name for expert in self._problem.config.models.experts]
        points, notes = warm_starts(self._space, experts, self._problem.config.search.warm_start)
        for note in notes:
            self._listener.note(note)
        there = {trial.user_attrs.get(attributes.ORIGIN) for trial in self._study.get_trials(deepcopy=False)}
        for origin, point in points.items():
            if origin not in there:
                self._study.enqueue_trial(point, user_attrs={attributes.ORIGIN: origin})
        self._study.set_user_attr(_ENQUEUED, len(points))

    def _run_one(self) -> None:
        start = time.perf_counter()
        trial = self._next()
        point = self._suggest(trial)
        spent = Spent(**trial.user_attrs.get(attributes.SECONDS, {}))
        spent.sampler += time.perf_counter() - start
        judgement = None
        try:
            judgement = self._judged(trial, point, spent)
            outcome = self._outcome(trial, judgement)
        except (CandidateError, InputError) as error:
            trial.set_user_attr(attributes.REASON, str(error))
            outcome = TrialOutcome(trial.number, _origin(trial), None, str(error))
        finally:
            trial.set_user_attr(attributes.SECONDS, asdict(spent))
        if judgement is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, judgement.values)
        self._listener.trial(outcome)

    def _judged(self, trial: Trial, point: Point, spent: Spent) -> Judgement:
        """Score the candidate, and keep in its trial what came out."""
        recipe = self._space.recipe(point)
        trial.set_user_attr(attributes.RECIPE, recipe.model_dump_json())
        trial.set_user_attr(attributes.DIGEST, recipe.digest)
        judgement = self._judge.judge(recipe, trial.number, spent)
        tasks = self._problem.evaluator.tasks
        told = {
            title: {"metric": task.label, "value": mean}
            for title, task, mean in zip(titles(tasks), tasks, judgement.means, strict=True)
        }
        trial.set_user_attr(attributes.TASKS, told)
        whole = len(self._problem.evaluator.documents("search"))
        trial.set_user_attr(attributes.SCORED, [judgement.documents, whole])
        if judgement.why:
            trial.set_user_attr(attributes.ESTIMATED, True)
            trial.set_user_attr(attributes.PRUNED, judgement.is_stopped)
            trial.set_user_attr(attributes.REASON, judgement.why)
            if math.isfinite(judgement.stderr):
                trial.set_user_attr(attributes.STDERR, judgement.stderr)
        if judgement.violations:
            trial.set_user_attr(attributes.CONSTRAINTS, judgement.violations)
            for name, violation in judgement.violations.items():
                if name not in trial.constraints:  # an interruption may have come after it was set
                    trial.set_constraint(name, violation)
        return judgement

    def _outcome(self, trial: Trial, judgement: Judgement) -> TrialOutcome:
        tasks = self._problem.evaluator.tasks
        kind = self._problem.config.evaluate.objective
        means = [np.float64(mean) for mean in judgement.means]
        return TrialOutcome(
            number=trial.number,
            origin=_origin(trial),
            objective=float(combine(means, tasks, kind)),
            reason=judgement.why,
            tasks=dict(zip(titles(tasks), judgement.means, strict=True)),
            estimated=bool(judgement.why),
            documents=judgement.documents,
            feasible=all(violation <= 0 for violation in judgement.violations.values()),
        )

    def _next(self) -> Trial:
        """The trial that an earlier process left under way, or a new one."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return Trial(self._study, running[0]._trial_id) if running else self._study.ask()

    def _suggest(self, trial: Trial) -> Point:
        point: Point = {}
        method = self._space.methods[0]
        if len(self._space.methods) > 1:
            method = point[METHOD] = trial.suggest_categorical(METHOD, self._space.methods)
        for dimension in self._space.dimensions(method):
            point[dimension.name] = trial.suggest_float(dimension.name, dimension.low, dimension.high)
        return point


def _origin(trial: Trial) -> str:
    return str(trial.user_attrs.get(attributes.ORIGIN, "sampler"))


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]

"""Calibration error of multiple-choice tasks: how far a model's confidence is from how often it is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.task import Task

from evomerge.errors import InputError
from evomerge.evaluators.aggregation import Aggregation

CALIBRATION_ERROR = "calibration_error"
BINS = 10


def calibration_error(answers: Sequence[tuple[float, float]]) -> float:
    """The expected calibration error (Guo et al. 2017, arXiv 1706.04599, equation 3), from 0 to 1.

    The sum over bins of the share of the answers in a bin, times how far their accuracy is from their mean confidence.
    The 10 bins are ((m - 1) / 10, m / 10], m from 1 to 10 (section 2).

    Args:
        answers: of each document the confidence in the chosen answer, in (0, 1], and 1 if it is right, else 0.
    """
    confidence, correct = np.array(answers, dtype=np.float64).T
    bins = np.ceil(confidence * BINS)
    gaps = [abs(math.fsum(correct[bins == m] - confidence[bins == m])) for m in np.unique(bins)]
    return math.fsum(gaps) / len(answers)


EXPECTED_CALIBRATION_ERROR = Aggregation(CALIBRATION_ERROR, corpus=calibration_error)


def require_choices(name: str, task: Task) -> None:
    """Raise InputError where a task has no choices between which a model could be more or less sure."""
    if task.OUTPUT_TYPE != "multiple_choice":
        raise InputError(
            f"calibration_error must be of a multiple_choice task, but {name!r} has output_type {task.OUTPUT_TYPE}"
        )


def answered(task: Task, doc: Any, responses: Sequence[tuple[float, bool]]) -> tuple[float, float]:
    """The confidence in the choice of the highest log-likelihood, and whether it is right (1.0) or not (0.0).

    The confidence is the softmax over the choices' log-likelihoods, neither normalized by length nor by the choices'
    own probability. Which choice is right is what lm-eval takes for it.

    Args:
        task: a multiple_choice task.
        doc: one of its documents.
        responses: of its requests, log-likelihood and whether the choice is the greedy continuation; those behind the
            choices' own, which lm-eval adds for `acc_mutual_info`, do not count.
    """
    choices = task.doc_to_choice(doc)
    likelihoods = np.array([response[0] for response in responses[: len(choices)]], dtype=np.float64)
    chosen = int(np.argmax(likelihoods))
    confidence = 1 / float(np.exp(likelihoods - likelihoods[chosen]).sum())
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    return confidence, float(chosen in _places(gold, choices))


def _places(gold: Any, choices: Sequence[str]) -> set[int]:
    """The places among the choices that are right: a place, a choice, or a list of either."""
    found = set()
    for each in gold if isinstance(gold, list) else [gold]:
        if isinstance(each, str):
            found |= {choices.index(each)} if each in choices else set()
        else:
            found.add(int(each))
    return found

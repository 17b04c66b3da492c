"""What matters: how the objective would change if a number of the best recipe were larger or smaller.

Optuna's measures of importance speak of the search's own dimensions: of coefficients of cosines, of forty layers that
the search moved together, of nothing where the methods' dimensions differ. A reader asks about experts. So the search's
surrogate is fitted to what recipes say, each expert's mean over the layers, and asked about the neighbourhood of the
best (docs/decisions/0017).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from evomerge.runs.report.blocks import Chart, Section, Table, Text
from evomerge.runs.report.drawing import BLUE, ORANGE, count, labels, layout, number, signed, small
from evomerge.runs.report.facts import Facts
from evomerge.search.beliefs import stderr_of
from evomerge.search.study import RECIPE, trial_objective
from evomerge.search.surrogate import Surrogate

AT_LEAST = 12  # trials
AT_MOST = 300  # of them that the surrogate is fitted to: half the best, half spread over the others
CHARACTERS = 20e6  # of the recipes that are read for it: fewer trials where recipes are long
STEP = 0.1  # of the range that the candidates cover
SHOWN = 30  # numbers in the chart
MODELLED = 60  # numbers that the surrogate knows; of more those that vary most

Floats = NDArray[np.float64]
Key = tuple[str, str]  # parameter, expert; "": all experts'


@dataclass(frozen=True)
class Effect:
    """Of one number of the best recipe.

    Attributes:
        key: parameter and expert.
        value: in the best recipe, the mean over layers and modules.
        step: how far it is moved.
        more, less: the change of the objective that the surrogate expects when it is moved up or down.
        sd: of the larger of the two.
    """

    key: Key
    value: float
    step: float
    more: float
    less: float
    sd: float

    @property
    def size(self) -> float:
        """By which effects are ranked."""
        return max(abs(self.more), abs(self.less))


def importance(facts: Facts) -> Section | None:
    """The section; None: nothing was searched that has a number."""
    if facts.best is None or facts.recipe is None:
        return None
    found = effects(facts)
    if found is None:
        text = f"Too few candidates of the method {facts.recipe.method} to say: it takes {AT_LEAST} with a score."
        return Section("importance", "What matters", [Text(text)])
    if not found:
        return None
    shown = sorted(found, key=lambda effect: -effect.size)[:SHOWN]
    told = (
        f"Each bar is how much the objective on search would change, as a model of the candidates expects it, if one "
        f"number of {facts.who}'s recipe, the mean over layers, were a tenth of the range tried higher or lower and "
        "the others stayed. Long bars to the left: the number matters, and is well chosen. Bars to the right: a "
        "direction that may still be worth trying. The model can be wrong: read the order, not the digits."
    )
    return Section("importance", "What matters", [Text(told, "note"), _chart(shown, len(found))])


def effects(facts: Facts) -> list[Effect] | None:
    """The effect of each number that varies; None: too few trials to say."""
    assert facts.best is not None
    assert facts.recipe is not None
    trials = [trial for trial in facts.scored if RECIPE in trial.user_attrs]
    told = {trial.number: json.loads(trial.user_attrs[RECIPE]) for trial in _chosen(facts, trials)}
    own = [number for number, recipe in told.items() if recipe["method"] == facts.recipe.method]
    if len(own) < AT_LEAST or facts.best.number not in own:
        return None
    means = {number: means_of(told[number]) for number in own}
    keys = [key for key in means[facts.best.number] if all(key in each for each in means.values())]
    points = np.array([[means[number][key] for key in keys] for number in own]).reshape(len(own), len(keys))
    low, high = points.min(axis=0), points.max(axis=0)
    varied = np.flatnonzero(high - low > 1e-9)
    if not len(varied):
        return []
    varied = varied[np.argsort(-(points[:, varied] - low[varied]).std(axis=0), kind="stable")][:MODELLED]
    keys = [keys[place] for place in varied]
    unit = (points[:, varied] - low[varied]) / (high - low)[varied]
    by_number = {trial.number: trial for trial in trials}
    values = np.array([trial_objective(by_number[number], facts.tasks) for number in own])
    errors = np.array([stderr_of(by_number[number]) for number in own])
    return _asked(keys, unit, values, errors, own.index(facts.best.number), (high - low)[varied], low[varied])


def _chosen(facts: Facts, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The best, and others evenly over the search."""
    longest = max((len(trial.user_attrs[RECIPE]) for trial in trials), default=1)
    most = min(AT_MOST, max(2 * AT_LEAST, int(CHARACTERS / longest)))
    if len(trials) <= most:
        return list(trials)
    ranked = sorted(trials, key=lambda trial: (-trial_objective(trial, facts.tasks), trial.number))
    best, others = ranked[: most // 2], sorted(ranked[most // 2 :], key=lambda trial: trial.number)
    places = np.linspace(0, len(others) - 1, most - len(best)).round().astype(int)
    chosen = {trial.number: trial for trial in [*best, *(others[place] for place in places)]}
    assert facts.best is not None
    return list({**chosen, facts.best.number: facts.best}.values())


def means_of(recipe: Mapping[str, Any]) -> dict[Key, float]:
    """The mean of each parameter and expert over a recipe's groups, each group of layers weighed by its layers."""
    sums: dict[Key, float] = {}
    shares: dict[Key, float] = {}
    for group in recipe["groups"]:
        layers = group["layers"]
        share = float(layers[1] - layers[0]) if isinstance(layers, list) else 1.0
        for name, value in group["parameters"].items():
            for expert, of_expert in (value if isinstance(value, dict) else {"": value}).items():
                sums[name, expert] = sums.get((name, expert), 0.0) + share * of_expert
                shares[name, expert] = shares.get((name, expert), 0.0) + share
    return {key: total / shares[key] for key, total in sums.items()}


def _asked(
    keys: Sequence[Key], unit: Floats, values: Floats, errors: Floats, best: int, width: Floats, low: Floats
) -> list[Effect]:
    """What the surrogate says of steps from the best; all points in units of the range tried."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a line search that meets the edge of its bounds
        surrogate = Surrogate(unit, np.arange(len(keys)), values, errors)
    here = unit[best]
    moved = np.repeat(here[None], 2 * len(keys), axis=0)
    for place in range(len(keys)):
        moved[2 * place, place] += STEP
        moved[2 * place + 1, place] -= STEP
    found = surrogate.posterior(np.concatenate([here[None], moved]))
    change = found.mean[1:] - found.mean[0]
    return [
        Effect(
            key,
            float(low[place] + width[place] * here[place]),
            float(STEP * width[place]),
            float(change[2 * place]),
            float(change[2 * place + 1]),
            float(found.sd[1 + 2 * place : 3 + 2 * place].max()),
        )
        for place, key in enumerate(keys)
    ]


def _chart(effects: Sequence[Effect], total: int) -> Chart:
    shown = effects[::-1]
    names = labels([f"{name} of {expert}" if expert else name for name, expert in (effect.key for effect in shown)])
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": names,
            "x": small(changes),
            "marker": {"color": color},
            "hovertemplate": f"%{{y}}, {name}: %{{x:+.4f}}<extra></extra>",
        }
        for name, color, changes in (
            ("higher", BLUE, [effect.more for effect in shown]),
            ("lower", ORANGE, [effect.less for effect in shown]),
        )
    ]
    rows = [
        [
            " of ".join(part for part in effect.key if part),
            *(number(each) for each in (effect.value, effect.step)),
            *(signed(each) for each in (effect.more, effect.less)),
            number(effect.sd),
        ]
        for effect in effects
    ]
    left = f" {total - len(effects)} more matter less." if total > len(effects) else ""
    return Chart(
        "importance",
        f"The change of the objective when a number of the recipe is moved a little.{left}",
        f"{count(len(effects), 'number')} by how much they matter; most: {rows[0][0]}.",
        bars,
        layout(110 + 34 * len(names), "expected change", yaxis={"type": "category"}, barmode="group"),
        Table(["number", "value", "step", "higher", "lower", "error"], rows, "Expected changes; error: one sd."),
    )

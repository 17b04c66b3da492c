"""The gradient on tiny random models: questions whose answers a merge of known weights gives."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import LlamaForCausalLM

from evomerge.errors import InterruptedRunError
from evomerge.evaluators import Document
from evomerge.evaluators.objective import objective
from evomerge.search import reference_descent, sampling
from evomerge.search import study as attributes
from evomerge.search.config import parse_config
from evomerge.search.gradient import GRADIENT, GradientStart
from evomerge.search.interrupt import StopRequest
from evomerge.search.ledger import Ledger
from evomerge.search.listener import Listener
from evomerge.search.problem import Problem, build_problem
from evomerge.search.reference_descent import held_back, worst_weights
from evomerge.search.scoring import Scorer
from evomerge.search.storage import open_storage, quiet_optuna, sqlite_url
from evomerge.search.study import create_study
from evomerge.spaces import Point
from tests.engine.tiny import VOCABULARY, tokenizer
from tests.evaluators.conftest import dataset_cache, random_model  # noqa: F401
from tests.search.toy import ToyRun

BEST = {"a": 0.9, "b": 0.3}
"""The weights of the merge that knows the answers."""

TASK = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {name}.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_target: gold
doc_to_choice: choices
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def _few_large_steps():
    """Tiny models and four dimensions need fewer steps than real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference_descent, "STEPS", 12)
        patch.setattr(reference_descent, "LOOK", 4)
        patch.setattr(reference_descent, "RATE", 0.05)
        patch.setattr(reference_descent, "BATCH", 16)
        yield


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two experts, and two tasks with answers of the best merge."""
    root = tmp_path_factory.mktemp("gradient")
    base, best, *experts_of = (random_model(seed, VOCABULARY) for seed in (0, 0, 1, 2))
    experts = dict(zip("ab", experts_of, strict=True))
    for name, parameter in best.named_parameters():
        origin = parameter.detach().clone()
        for expert, model in experts.items():
            own = model.get_parameter(name)
            own.data = origin + 0.12 * (own.detach() - origin)
            parameter.data += BEST[expert] * (own.detach() - origin)
    for name, model in {"base": base, **experts}.items():
        model.save_pretrained(root / name)
        tokenizer().save_pretrained(root / name)
    for seed, name in enumerate(("first", "second")):
        (root / f"{name}.yaml").write_text(TASK.format(name=name))
        rows = [json.dumps(row) for row in _answered(best, seed)]
        (root / f"{name}.jsonl").write_text("\n".join(rows))
    return root


def _answered(model: LlamaForCausalLM, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    lm = HFLM(pretrained=model, tokenizer=tokenizer(), batch_size=64)
    words = [f"w{number}" for number in range(VOCABULARY - 3)]
    rows = [{"question": " ".join(rng.choices(words, k=8)), "choices": rng.sample(words, 4)} for _ in range(80)]
    requests = [
        Instance("loglikelihood", row, (row["question"], f" {choice}"), 0) for row in rows for choice in row["choices"]
    ]
    answers = [answer[0] for answer in lm.loglikelihood(requests, disable_tqdm=True)]
    return [
        {**row, "gold": max(range(4), key=lambda choice, place=place: answers[4 * place + choice])}
        for place, row in enumerate(rows)
    ]


class Notes(Listener):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


class LateStop(StopRequest):
    """Is asked to stop after it was looked at so often."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._after = after

    def check(self) -> None:
        self._after -= 1
        if self._after < 0:
            self.set()
        super().check()


class Run:
    """A study in a folder, with one trial whose numbers are the same everywhere."""

    def __init__(self, problem: Problem, folder: Path, stop: StopRequest | None = None) -> None:
        quiet_optuna()
        self.problem = problem
        self.tasks = problem.evaluator.tasks
        self.storage = open_storage(sqlite_url(folder / "study.db"))
        name = problem.config.name
        try:
            self.study = optuna.load_study(storage=self.storage, study_name=name)
        except KeyError:
            self.study = create_study(self.storage, problem.config, self.tasks)
        self.ledger = Ledger(self.storage.engine, name)
        self.listener = Notes()
        self.stop = stop or StopRequest()
        self.scorer = Scorer(problem, self.ledger, self.listener, self.stop)
        self.gradient = GradientStart(problem, self.study, self.scorer, self.listener, self.stop)

    def begin(self, **weights: float) -> Run:
        space = self.problem.space
        point, _ = space.constant(space.methods[0], {"weight": weights})
        recipe = space.recipe(point)
        value = self.objective(recipe, "search")
        kinds = sampling.distributions(space)
        self.study.add_trial(
            optuna.trial.create_trial(
                params=point,
                distributions={name: kinds[name] for name in point},
                values=[value],
                user_attrs={attributes.RECIPE: recipe.model_dump_json(), attributes.DIGEST: recipe.digest},
            )
        )
        return self

    def objective(self, recipe: Any, split: Any) -> float:
        trial = None if split == "report" else len(self.study.trials)
        scores = self.scorer.score(recipe, split, trial)
        return objective(scores, self.tasks, self.problem.config.evaluate.objective)


@pytest.fixture(scope="module")
def make(zoo: Path) -> Callable[..., Problem]:
    def build(**evaluate: Any) -> Problem:
        raw = {
            "name": "tiny",
            "models": {"base": str(zoo / "base"), "experts": [str(zoo / "a"), str(zoo / "b")]},
            "merge": {"method": "task_arithmetic", "dtype": "float32"},
            "space": {"layers": "uniform", "modules": ["attention", "all"], "weight": [0.0, 1.2]},
            "evaluate": {
                "include_path": str(zoo),
                "tasks": ["first", "second"],
                "splits": {"search": 0.6, "select": 0.0, "report": 0.4},
                "guard": None,
                **evaluate,
            },
            "search": {"sampler": "random", "trials": 3},
            "runtime": {"device": "cpu"},
        }
        return build_problem(parse_config(raw, "tiny"))

    return build


@pytest.fixture(scope="module")
def problem(make: Callable[..., Problem]) -> Problem:
    return make()


@pytest.fixture(scope="module")
def whole(problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Point | None]:
    """An uninterrupted run, and the point that its gradient leads to."""
    run = Run(problem, tmp_path_factory.mktemp("whole")).begin(a=0.3, b=0.8)
    return run, run.gradient.point(1)


def test_the_outcome_is_better_on_documents_that_no_step_saw(whole):
    run, point = whole
    assert point is not None
    space = run.problem.space
    start = space.recipe(run.study.trials[0].params)
    assert run.objective(space.recipe(point), "report") > run.objective(start, "report") + 0.1
    weights = {name: [point[d.name] for d in space.dimensions("task_arithmetic") if d.expert == name] for name in "ab"}
    assert sum(weights["a"]) / len(weights["a"]) > 0.4  # from 0.3 towards 0.9
    assert sum(weights["b"]) / len(weights["b"]) < 0.75  # from 0.8 towards 0.3


def test_the_study_keeps_what_it_cost_and_the_listener_is_told(whole):
    run, point = whole
    outcome = run.study.user_attrs[GRADIENT]
    _, held = held_back(run.problem.evaluator.documents("search"))
    looks = outcome["steps"] // reference_descent.LOOK + 1
    assert outcome["documents"] == 3 * 16 * outcome["steps"] + len(held) * looks == run.gradient.documents
    assert outcome["kept"]
    assert outcome["after"] > outcome["before"]
    assert outcome["stderr"] > 0
    assert outcome["point"] == point
    assert json.loads(json.dumps(outcome)) == outcome
    (line,) = run.listener.lines
    assert line.startswith(f"gradient from trial 0: {outcome['steps']} steps, {outcome['documents']} documents")
    assert "first" in line
    assert "second" in line
    assert line.endswith("; kept")
    before, after = outcome["losses"]
    assert sum(after.values()) < sum(before.values())


def test_the_metric_decides_on_the_documents_held_back_which_are_scored_once(whole, problem):
    run, point = whole
    recipe = problem.space.recipe(point)
    rows = run.ledger.scores(recipe.digest, "search")
    _, held = held_back(problem.evaluator.documents("search"))
    assert {(row.task, row.document) for row in rows} >= {(document.task, document.key) for document in held}
    assert run.gradient.point(1) == point  # told, not computed again
    assert len(run.listener.lines) == 1


def test_an_interrupted_run_finds_the_same_point(whole, problem, tmp_path):
    uninterrupted, point = whole
    Run(problem, tmp_path).begin(a=0.3, b=0.8)
    for after in (3, 7):
        with pytest.raises(InterruptedRunError):
            Run(problem, tmp_path, LateStop(after)).gradient.point(1)
    last = Run(problem, tmp_path)
    assert last.gradient.point(1) == point
    assert 0 < last.gradient.documents < uninterrupted.gradient.documents  # went on from the last look


def test_steps_whose_batch_does_not_fit_into_memory_are_taken_in_pieces(whole, problem, tmp_path, monkeypatch):
    from evomerge.evaluators import teaching

    _, point = whole
    rows = teaching.row_likelihoods
    passes = []

    def tight(model: Any, of: Any, *others: Any) -> torch.Tensor:
        if torch.is_grad_enabled():
            passes.append(len(of))
            if len(passes) == 2:  # once some gradients of the step are there
                raise torch.OutOfMemoryError("too many rows")
        return rows(model, of, *others)

    monkeypatch.setattr(teaching, "row_likelihoods", tight)
    monkeypatch.setitem(teaching.TOKENS, "cpu", 600)
    run = Run(problem, tmp_path).begin(a=0.3, b=0.8)
    found = run.gradient.point(1)
    assert passes[2] < passes[0]
    assert found == pytest.approx(point, abs=0.02)


def test_a_start_that_cannot_be_bettered_is_not_left(problem, tmp_path):
    run = Run(problem, tmp_path).begin(**BEST)
    assert run.gradient.point(1) is None
    assert not run.study.user_attrs[GRADIENT]["kept"]
    assert "not kept, as " in run.listener.lines[-1]
    assert run.gradient.point(1) is None
    assert len(run.listener.lines) == 1


def test_a_constraint_that_the_start_keeps_is_not_broken(make, tmp_path):
    problem = make(constraints=[{"task": "second", "metric": "acc", "at_most": 0.7}])
    run = Run(problem, tmp_path).begin(a=0.3, b=0.8)
    assert run.gradient.point(1) is None
    assert "not kept, as it breaks second acc <= 0.7 there" in run.listener.lines[-1]


def test_the_worst_task_counts(make, tmp_path):
    run = Run(make(objective="worst"), tmp_path).begin(a=0.3, b=0.8)
    assert run.gradient.point(1) is not None


def test_only_trials_before_count_and_there_must_be_one(problem, tmp_path):
    run = Run(problem, tmp_path).begin(a=0.3, b=0.8)
    assert run.gradient.point(0) is None
    assert run.listener.lines == ["no gradient: no candidate has been scored in full"]


def test_tasks_without_reference_answers_have_no_gradient(tmp_path):
    run = ToyRun(tmp_path)
    run.run(2)
    listener = Notes()
    gradient = GradientStart(run.problem, run.study, run.scorer, listener, run.stop)
    assert gradient.point(2) is None
    (line,) = listener.lines
    assert line.startswith("no gradient: no task has reference answers to follow (left: it is scored by a function")


@given(st.dictionaries(st.sampled_from("abcde"), st.floats(-3, 3), min_size=1))
def test_the_lower_a_task_the_more_it_counts(levels):
    weights = worst_weights(levels)
    assert sum(weights.values()) == pytest.approx(1)
    ranked = sorted(levels, key=levels.__getitem__)
    assert all(weights[low] >= weights[high] for low, high in pairwise(ranked))
    assert weights[ranked[0]] >= 1 / len(levels)


@given(st.lists(st.tuples(st.sampled_from("xy"), st.integers(0, 30)), min_size=1, unique=True))
def test_documents_are_held_back_with_their_copies(found):
    documents = [
        Document(task, f"{number // 2:032x}{'-1' if number % 2 else ''}", number, "search") for task, number in found
    ]
    learn, held = held_back(documents)
    learned = [document for own in learn.values() for document in own]
    assert sorted(map(str, learned + held)) == sorted(map(str, documents))
    assert {document.task for document in held} == {document.task for document in documents}
    of = {(document.task, document.key[:32]) for document in held}
    assert not of & {(document.task, document.key[:32]) for document in learned}
    assert held_back(documents[::-1])[0].keys() == learn.keys()
    assert set(held_back(documents[::-1])[1]) == set(held)

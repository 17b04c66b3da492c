"""The `evaluate` section of a configuration: tasks, metrics, splits and how prompts are written. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]

_ROUNDING = 1e-9  # three decimal fractions that sum to 1 may miss it by this much in binary


class Frozen(BaseModel):
    """Base of the immutable types: unknown keys are errors, values are checked once, at construction."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Kind = Literal["task", "perplexity", "kl_from_base", "function"]
KINDS: tuple[Kind, ...] = ("task", "perplexity", "kl_from_base", "function")


class TaskSpec(Frozen):
    """One thing to score; a bare name stands for `{task: name}`.

    An lm-eval task by default. One of `perplexity`, `kl_from_base` and `function` makes it something else, and `task`
    is then its name (by default the file's stem or the function's name).

    Attributes:
        task: an lm-eval task, group or tag: of `include_path`, else one of lm-eval's own. A group or tag stands for
            all its tasks.
        perplexity: a text file; its passages are scored by their perplexity.
        kl_from_base: a file of prompts, one a line (or JSON lines with a key `prompt`); scored by how far the model's
            next-token distributions are from the base's.
        function: a Python function as `package.module:function`.
        documents: for a function, a file of documents, JSON or text lines: it then returns one score for each.
        metric: the metric to look at (`exact_match`, or with its filter `exact_match,strict-match`); by default the
            first that the task lists.
        filter: the filter that cuts the answer out of the model's text; needed only where a task has several.
        weight: share in the mean over tasks; a group's weight is split over its tasks as the group weighs them (by
            documents where it says so), a tag's evenly.
        num_fewshot: worked examples in each prompt; by default what the task says, else 0.
        higher_is_better: of a function's scores.
    """

    task: str = Field(default="", validate_default=False)
    perplexity: Path | None = None
    kl_from_base: Path | None = None
    function: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    documents: Path | None = None
    metric: str | None = Field(default=None, min_length=1)
    filter: str | None = Field(default=None, min_length=1)
    weight: float = Field(default=1.0, gt=0)
    num_fewshot: int | None = Field(default=None, ge=0)
    higher_is_better: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _normalize(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"task": value}
        if isinstance(value, dict) and isinstance(value.get("metric"), str) and "," in value["metric"]:
            metric, _, named = (part.strip() for part in value["metric"].partition(","))
            if value.get("filter") not in {None, named}:
                raise ValueError(
                    f"a filter must be named once, but metric says {named!r} and filter {value['filter']!r}"
                )
            value = {**value, "metric": metric, "filter": named}
        if isinstance(value, dict) and not value.get("task"):
            name = _default_name(value)
            value = {**value, "task": name} if name else value
        return value

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> TaskSpec:
        given = [kind for kind in KINDS[1:] if getattr(self, kind) is not None]
        if len(given) > 1:
            raise ValueError(f"a task must be one of {', '.join(KINDS)}, but got {' and '.join(given)}")
        if not self.task:
            raise ValueError(f"a task must have one of {', '.join(KINDS)}, but got none")
        if self.kind != "function" and (self.documents is not None or self.higher_is_better is not None):
            raise ValueError(f"documents and higher_is_better must come with a function, but {self.task!r} has none")
        if self.kind != "task" and (self.filter is not None or self.num_fewshot is not None):
            raise ValueError(f"filter and num_fewshot must come with an lm-eval task, but {self.task!r} is none")
        return self

    @property
    def kind(self) -> Kind:
        """What scores it."""
        return next((kind for kind in KINDS[1:] if getattr(self, kind) is not None), "task")

    def relative_to(self, folder: Path) -> TaskSpec:
        """The same entry with its files made absolute from `folder`."""
        files = {key: getattr(self, key) for key in ("perplexity", "kl_from_base", "documents")}
        return self.model_copy(update={key: _placed(path, folder) for key, path in files.items() if path is not None})


def _placed(path: Path, folder: Path) -> Path:
    """A path made absolute; as it is where it cannot be: nobody's home, or links in circles. Who opens it says so."""
    try:
        return (folder / path.expanduser()).resolve()
    except (OSError, RuntimeError, ValueError):
        return path


def _default_name(value: dict[str, Any]) -> str:
    if isinstance(value.get("function"), str):
        return str(value["function"]).rpartition(":")[2]
    for key in ("perplexity", "kl_from_base"):
        if isinstance(value.get(key), str | Path):
            return Path(value[key]).stem
    return ""


class Constraint(Frozen):
    """A bound on one task's score that a candidate has to keep to.

    Attributes:
        task, metric, filter: as in a TaskSpec; a task that is not among the scored ones is loaded for the constraint
            alone and has no part in the objective. `perplexity`, `kl_from_base`, `function`, `documents` and
            `higher_is_better` are a TaskSpec's, too.
        at_least: "base", an expert's name, or a number: a candidate must be as good, in the metric's own direction
            (for a metric of which less is better, a model's score is a ceiling). A number is always a floor.
        at_most: a number: a ceiling, whatever the metric's direction.
        margin: by how much a candidate may miss the bound, in the metric's unit.
    """

    task: str = Field(default="", validate_default=False)
    perplexity: Path | None = None
    kl_from_base: Path | None = None
    function: str | None = None
    documents: Path | None = None
    higher_is_better: bool | None = None
    metric: str | None = Field(default=None, min_length=1)
    filter: str | None = Field(default=None, min_length=1)
    num_fewshot: int | None = Field(default=None, ge=0)
    at_least: float | str | None = None
    at_most: float | None = None
    margin: float = Field(default=0.0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _normalize(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        own = {key: value[key] for key in ("at_least", "at_most", "margin") if key in value}
        named = {key: item for key, item in value.items() if key in TaskSpec.model_fields and key != "weight"}
        unknown = {key: item for key, item in value.items() if key not in named and key not in own}
        spec = TaskSpec.model_validate(named).model_dump(mode="json", exclude={"weight"}, exclude_none=True)
        return {**spec, **own, **unknown}

    @model_validator(mode="after")
    def _has_one_bound(self) -> Constraint:
        if (self.at_least is None) == (self.at_most is None):
            found = "both" if self.at_least is not None else "neither"
            raise ValueError(f"a constraint must have one of at_least and at_most, but {self.task!r} has {found}")
        return self

    @property
    def spec(self) -> TaskSpec:
        """The task it is about."""
        return TaskSpec.model_validate(self.model_dump(exclude={"at_least", "at_most", "margin"}))

    def relative_to(self, folder: Path) -> Constraint:
        """The same constraint with its files made absolute from `folder`."""
        spec = self.spec.relative_to(folder)
        files = ("perplexity", "kl_from_base", "documents")
        return self.model_copy(update={key: getattr(spec, key) for key in files})


class Racing(Frozen):
    """How candidates are stopped early.

    Attributes:
        error: the highest probability, over all looks at a candidate together, of stopping one that is better than
            the incumbent by more than `margin` on the whole split.
        margin: the least gain in the objective that is worth finding.
    """

    error: float = Field(default=0.2, gt=0, lt=0.5)
    margin: float = Field(default=0.0, ge=0)


class Splits(Frozen):
    """What share of each task's documents goes to which part; documents beyond their sum are not used.

    Attributes:
        search: what the sampler sees; positive.
        select: on which the best few are scored again.
        report: on which the winner is scored once.
    """

    search: float = Field(default=0.4, gt=0, le=1)
    select: Fraction = 0.2
    report: Fraction = 0.4

    @model_validator(mode="after")
    def _fit_in_one(self) -> Splits:
        total = self.search + self.select + self.report
        if total > 1 + _ROUNDING:
            raise ValueError(f"splits must sum to at most 1, but sum to {total:g}")
        return self

    def bounds(self) -> tuple[float, float, float]:
        """The upper ends of the three parts of [0, 1), cumulated in the order search, select, report."""
        search, select = self.search, self.search + self.select
        report = select + self.report
        snapped = [1.0 if abs(end - 1) <= _ROUNDING else end for end in (search, select, report)]
        return snapped[0], snapped[1], snapped[2]


class EvaluateConfig(Frozen):
    """How candidates are scored.

    Attributes:
        evaluator: the name of a registered evaluator.
        include_path: folders with lm-eval task files; where two define a task, the later one wins.
        tasks: at least one.
        objective: how the tasks' scores become one number: their weighted mean, or the worst of them.
        constraints: floors under single tasks.
        splits: the shares of search, select and report.
        limit: at most so many documents of each task, chosen by hash before splitting; None: all.
        batch_size: the most rows in one forward pass; "auto": 64.
        generation: how texts are generated: "batched", or "continuous" for transformers' continuous batching (CUDA).
        racing: stop candidates early that are clearly worse than the best; true, false, or a `Racing`.
        proxy: a cheap stand-in for generation tasks while the search runs; "reference_loglikelihood": the probability
            that the model gives to the reference answer, from one forward pass.
        subset: score candidates on so many documents of `search` only, the most telling ones; "auto": as many as
            needed.
        guard: a candidate whose perplexity on a few prompts exceeds so many times that of its worst source is given up
            before anything else is scored; None: no guard.
        apply_chat_template: write prompts with the tokenizer's chat template; a name picks one of several.
        system_instruction: put before every prompt.
        fewshot_as_multiturn: worked examples as turns of a conversation; needs `apply_chat_template`.
        fewshot_seed: of the choice of worked examples.
        max_length: the longest prompt in tokens; by default what the model's configuration says.
        allow_unsafe_code: admit tasks that run code written by the model.
    """

    evaluator: str = "lm_eval"
    include_path: Path | tuple[Path, ...] | None = None
    tasks: tuple[TaskSpec, ...] = Field(min_length=1)
    objective: Literal["mean", "worst", "pareto"] = "mean"
    constraints: tuple[Constraint, ...] = ()
    splits: Splits = Splits()
    limit: int | None = Field(default=None, ge=1)
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    generation: Literal["batched", "continuous"] = "batched"
    racing: bool | Racing = True
    proxy: Literal["reference_loglikelihood"] | None = None
    subset: Literal["auto"] | Annotated[int, Field(ge=8)] | None = None
    guard: float | None = Field(default=10.0, gt=1)
    apply_chat_template: bool | str = False
    system_instruction: str | None = None
    fewshot_as_multiturn: bool = False
    fewshot_seed: int = 1234
    max_length: int | None = Field(default=None, ge=2)
    allow_unsafe_code: bool = False

    @model_validator(mode="after")
    def _goes_together(self) -> EvaluateConfig:
        if self.objective == "pareto" and len(self.tasks) < 2 and self.tasks[0].kind != "task":
            raise ValueError(f"objective must be mean or worst for one task, but got {self.objective!r}")
        if self.proxy is not None and self.objective == "pareto":
            raise ValueError("proxy must be null with objective pareto, but got 'reference_loglikelihood'")
        if self.fewshot_as_multiturn and not self.apply_chat_template:
            raise ValueError("fewshot_as_multiturn must come with apply_chat_template, but that is false")
        return self

    @property
    def race(self) -> Racing | None:
        """How candidates are raced; None: they are not."""
        if isinstance(self.racing, Racing):
            return self.racing
        return Racing() if self.racing else None

    @property
    def include_paths(self) -> tuple[Path, ...]:
        """The folders of task files, none or several."""
        if self.include_path is None:
            return ()
        return (self.include_path,) if isinstance(self.include_path, Path) else self.include_path

    def relative_to(self, folder: Path) -> EvaluateConfig:
        """The same configuration with all paths made absolute from `folder`."""
        paths = tuple(_placed(path, folder) for path in self.include_paths)
        update: Any = None if not paths else paths[0] if len(paths) == 1 else paths
        tasks = tuple(spec.relative_to(folder) for spec in self.tasks)
        constraints = tuple(constraint.relative_to(folder) for constraint in self.constraints)
        return self.model_copy(update={"include_path": update, "tasks": tasks, "constraints": constraints})

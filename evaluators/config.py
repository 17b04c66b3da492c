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


class TaskSpec(Frozen):
    """One task to score; a bare name stands for `{task: name}`.

    Attributes:
        task: an lm-eval task, group or tag: of `include_path`, else one of lm-eval's own. A group or tag stands for
            all its tasks.
        metric: the metric to look at (`exact_match`, or with its filter `exact_match,strict-match`); by default the
            first that the task lists.
        filter: the filter that cuts the answer out of the model's text; needed only where a task has several.
        weight: share in the mean over tasks; a group's weight is split evenly over its tasks.
        num_fewshot: worked examples in each prompt; by default what the task says, else 0.
    """

    task: str = Field(min_length=1)
    metric: str | None = Field(default=None, min_length=1)
    filter: str | None = Field(default=None, min_length=1)
    weight: float = Field(default=1.0, gt=0)
    num_fewshot: int | None = Field(default=None, ge=0)

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
        return value


class Constraint(Frozen):
    """A floor under one task's score.

    Attributes:
        task, metric: as in a TaskSpec.
        at_least: "base", an expert's name, or a number.
        margin: how far below it a candidate may fall.
    """

    task: str = Field(min_length=1)
    metric: str | None = Field(default=None, min_length=1)
    at_least: float | str
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
        batch_size: requests in one forward pass; "auto": 32 on CPU, 64 elsewhere.
        racing: stop candidates early that are clearly worse than the best.
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
    racing: bool = False
    apply_chat_template: bool | str = False
    system_instruction: str | None = None
    fewshot_as_multiturn: bool = False
    fewshot_seed: int = 1234
    max_length: int | None = Field(default=None, ge=2)
    allow_unsafe_code: bool = False

    @model_validator(mode="after")
    def _is_available(self) -> EvaluateConfig:
        if self.objective == "pareto":
            raise ValueError("objective must be mean or worst in this version, but got 'pareto'")
        if self.constraints:
            raise ValueError(
                "constraints must be empty in this version; use `objective: worst` or a higher weight for the task "
                f"to protect, but got one on {self.constraints[0].task!r}"
            )
        if self.racing:
            raise ValueError(
                "racing must be false in this version; use a lower `limit` to score fewer documents, but got true"
            )
        if self.fewshot_as_multiturn and not self.apply_chat_template:
            raise ValueError("fewshot_as_multiturn must come with apply_chat_template, but that is false")
        return self

    @property
    def include_paths(self) -> tuple[Path, ...]:
        """The folders of task files, none or several."""
        if self.include_path is None:
            return ()
        return (self.include_path,) if isinstance(self.include_path, Path) else self.include_path

    def relative_to(self, folder: Path) -> EvaluateConfig:
        """The same configuration with `include_path` made absolute from `folder`."""
        paths = tuple((folder / path.expanduser()).resolve() for path in self.include_paths)
        update: Any = None if not paths else paths[0] if len(paths) == 1 else paths
        return self.model_copy(update={"include_path": update})

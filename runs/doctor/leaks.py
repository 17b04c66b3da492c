"""Documents that a search sees and its report should not have: shared, shown as examples, or known to everybody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from evomerge.evaluators import EvaluateConfig
from evomerge.evaluators.entries import entries
from evomerge.runs.doctor.benchmarks import benchmark, on_published
from evomerge.runs.doctor.duplicates import alike, normal
from evomerge.runs.doctor.fewshot import examples, scored_split
from evomerge.runs.doctor.tasks import Tasks, answers, question

if TYPE_CHECKING:
    from evomerge.evaluators.requests import PreparedTask

EXAMPLES = "examples"
"""What takes the place of a split for documents that worked examples are drawn from."""

MOST_EXAMPLES = 20_000
"""Documents for worked examples that are compared; the first ones."""

IN_PROMPT = 0.2
"""Share of prompts that hold their own answer, from which on it is told."""

LETTERS = 3
"""Letters that an answer must have for that; shorter ones stand in most texts."""


class Leak(NamedTuple):
    """One way in which documents are shared.

    Attributes:
        kind: "equal" or "near" (documents in two places), "benchmark", or "answer" (in its own prompt).
        text: what was found, in one line.
        advice: what to do about it.
        grave: whether it makes results look better than they are.
    """

    kind: str
    text: str
    advice: str
    grave: bool


class Text(NamedTuple):
    """A document's own text, and where it is used: a split, or `EXAMPLES`."""

    task: str
    use: str
    text: str


def leaks_of(tasks: Tasks, config: EvaluateConfig) -> list[Leak]:
    """All leaks of a configuration's tasks, the gravest first."""
    found = [*_published(tasks, config), *_shared(_texts(tasks)), *_told(tasks)]
    return sorted(found, key=lambda leak: not leak.grave)


def _published(tasks: Tasks, config: EvaluateConfig) -> Iterator[Leak]:
    prepared = tasks.prepared
    for entry in entries(config):
        name = entry.spec.task
        known = benchmark(name) if entry.spec.kind == "task" and entry.weight else None
        scored = scored_split(prepared[name].task) if name in prepared else None
        if known is not None and on_published(known, scored):
            yield Leak(
                "benchmark",
                f"the search optimizes on the {known.published} split of {known.title} ({name}): "
                f"results on it are not comparable with published ones",
                f"search on {known.instead}",
                grave=True,
            )


def _texts(tasks: Tasks) -> list[Text]:
    found = []
    for name, prepared in tasks.prepared.items():
        scored = []
        for document in prepared.documents:
            request = prepared.requests[document.key][0]
            scored.append(Text(name, document.split, question(prepared.task, request.doc, str(request.args[0]))))
        found += scored
        shown = examples(prepared.task, MOST_EXAMPLES) if _from_elsewhere(prepared) else ()
        found += [Text(name, EXAMPLES, question(prepared.task, each, "")) for each in shown]
    return [each for each in found if each.text.strip()]


def _from_elsewhere(prepared: PreparedTask) -> bool:
    """Whether worked examples are no documents that are scored, which another check tells."""
    from evomerge.runs.doctor.fewshot import examples_of

    return not examples_of(prepared.task).from_scored


def _shared(texts: Sequence[Text]) -> Iterator[Leak]:
    places = [(each.task, each.use) for each in texts]
    number = {place: count for count, place in enumerate(dict.fromkeys(places))}
    task_number = {task: count for count, task in enumerate(dict.fromkeys(task for task, _ in places))}
    pairs = alike(
        [each.text for each in texts], [task_number[task] for task, _ in places], [number[place] for place in places]
    )
    sizes = Counter(places)
    groups: dict[tuple[Any, Any, bool], list[tuple[int, int]]] = {}
    for one, other, similarity in pairs:
        key = (*sorted((places[one], places[other])), similarity == 1.0)
        groups.setdefault(key, []).append((one, other))  # type: ignore[arg-type]
    for (left, right, equal), members in sorted(groups.items(), key=lambda item: -len(item[1])):
        where = _where(left, right, sizes)
        many = len(members) != 1
        how = f"{'are' if many else 'is'} {'equal' if equal else 'nearly equal'}"
        example = normal(texts[members[0][0]].text)
        yield Leak(
            "equal" if equal else "near",
            f"{len(members):,} document{'s' * many} {how} in {where}, such as {example[:60]!r}",
            _remedy(left, right),
            grave="report" in (left[1], right[1]) or EXAMPLES in (left[1], right[1]),
        )


def _where(left: tuple[str, str], right: tuple[str, str], sizes: Counter[tuple[str, str]]) -> str:
    return " and ".join(f"{use} of {task} ({sizes[task, use]:,})" for task, use in (left, right))


def _remedy(left: tuple[str, str], right: tuple[str, str]) -> str:
    if EXAMPLES in (left[1], right[1]):
        return "take them out of the split that examples are drawn from: the prompt shows their answers"
    if left[1] == right[1]:
        return "they count twice in the objective; take them out of one of the tasks"
    return "take one copy out of the data: what the search has seen is no test"


def _told(tasks: Tasks) -> Iterator[Leak]:
    """Tasks whose prompts often hold the answer that is to be generated."""
    for name, prepared in tasks.prepared.items():
        first = prepared.requests[prepared.documents[0].key][0]
        if first.request_type != "generate_until":
            continue
        held = looked = 0
        for document in prepared.documents:
            request = prepared.requests[document.key][0]
            texts = answers(prepared.task, request.doc) or ("",)
            own = normal(texts[0])
            if sum(map(str.isalnum, own)) >= LETTERS:
                looked += 1
                held += own in normal(question(prepared.task, request.doc, str(request.args[0])))
        if looked and held >= IN_PROMPT * looked:
            yield Leak(
                "answer",
                f"{name}: {held:,} of {looked:,} prompts hold their own right answer",
                "right for reading comprehension; else look at doc_to_text",
                grave=False,
            )

"""Whether tasks load, and what their documents, answers, examples and lengths are like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from evomerge.errors import InputError
from evomerge.evaluators.types import SPLITS
from evomerge.runs.doctor.check import check
from evomerge.runs.doctor.duplicates import normal
from evomerge.runs.doctor.fewshot import examples_of
from evomerge.runs.doctor.findings import Finding, LeftOut, error, ok, skipped, warning
from evomerge.runs.doctor.subject import Subject
from evomerge.runs.doctor.tasks import answers, question

if TYPE_CHECKING:
    from evomerge.evaluators.requests import PreparedTask

LOOKED_AT = 256
"""Documents of a task whose prompts are turned into tokens."""

MOSTLY = 0.9
"""Share of one answer from which on a constant guess beats most models."""

SOME = 0.02
"""Share of copies that is not worth a warning."""

ROOM = 8
"""Times the longest reference answer, beyond which max_gen_toks only lets bad candidates ramble."""


@check("tasks", 70)
def tasks(subject: Subject) -> Iterator[Finding]:
    """Whether each task loads, with its metric, worked examples and documents in every split."""
    found = subject.tasks
    for trouble in found.troubles.values():
        yield error(str(trouble))
    for name, reason in found.left_out.items():
        yield skipped(f"{name}: {_short(reason)}", "checked when its data are on this machine")
    counts = {split: found.counts(split) for split in SPLITS}
    for metric in found.metrics:
        sizes = ", ".join(f"{split} {counts[split][metric.task]:,}" for split in SPLITS)
        weight = f"weight {metric.weight:g}" if metric.weight else "for a constraint"
        direction = "" if metric.higher_is_better else ", lower is better"
        yield ok(f"{metric.task}: {metric.label}{direction}, {weight}; documents: {sizes}")


@check("answers", 72)
def right_answers(subject: Subject) -> Iterator[Finding]:
    """Whether the right answers are there, and whether they differ."""
    for name, prepared in _seen(subject).items():
        finding = _answers(name, prepared)
        if finding is not None:
            yield finding


@check("duplicates", 73)
def duplicates(subject: Subject) -> Iterator[Finding]:
    """Whether documents of a task are there several times in the same split."""
    for name, prepared in _seen(subject).items():
        seen: Counter[tuple[str, ...]] = Counter()
        for document in prepared.documents:
            first = prepared.requests[document.key][0]
            text = question(prepared.task, first.doc, str(first.args[0]))
            seen[(document.split, normal(text), *(answers(prepared.task, first.doc) or ()))] += 1
        again = sum(times - 1 for times in seen.values())
        if again > SOME * len(prepared.documents):
            yield warning(
                f"{name}: {again:,} of {len(prepared.documents):,} documents are there before in the same split",
                "leave copies out: they count as if they were independent, and intervals come out too narrow",
            )
        else:
            yield ok(f"{name}: {again:,} of {len(prepared.documents):,} documents are copies in the same split")


@check("examples", 74)
def worked_examples(subject: Subject) -> Iterator[Finding]:
    """Where worked examples are drawn from."""
    for name, prepared in _seen(subject).items():
        found = examples_of(prepared.task)
        if found.number == 0:
            continue
        if found.from_scored:
            yield warning(
                f"{name} draws its {found.number} worked examples from {found.where}, which it is scored on",
                "give the task a `fewshot_split` or `training_split` of its own: other documents' answers are shown",
            )
        else:
            yield ok(f"{name}: {found.number} worked examples from {found.where}")


@check("lengths", 76)
def lengths(subject: Subject) -> Iterator[Finding]:
    """Whether prompts fit the model, and answers what may be generated."""
    room = _context(subject)
    for name, prepared in _seen(subject).items():
        sample = _sample(prepared)
        longest = max((_tokens(subject, "".join(map(str, texts))) for texts in _texts(prepared, sample)), default=0)
        if longest > room:
            yield warning(
                f"{name}: prompts have up to {longest:,} tokens and lose their beginning beyond {room:,}",
                "fewer worked examples, or a model with a longer context",
            )
        else:
            yield ok(f"{name}: prompts of up to {longest:,} tokens ({len(sample)} looked at), the model reads {room:,}")
        yield from _generation(subject, name, prepared)


@check("chat template", 78)
def chat_template(subject: Subject) -> Iterator[Finding]:
    """Whether prompts are written as the models expect them."""
    template, wanted = subject.tokenizer.chat_template, subject.config.evaluate.apply_chat_template
    if template and not wanted:
        yield ok(
            "prompts are plain text, and the tokenizer has a chat template",
            "models that were tuned for chat often answer better with `evaluate.apply_chat_template: true`",
        )
    else:
        yield ok("prompts are written with the chat template" if wanted else "the tokenizer has no chat template")


def _seen(subject: Subject) -> dict[str, PreparedTask]:
    """lm-eval's tasks. Raises LeftOut where there are none."""
    found = subject.tasks.prepared
    if not found:
        raise LeftOut("there is no task with documents of text to look at")
    return found


def _answers(name: str, prepared: PreparedTask) -> Finding | None:
    found = [answers(prepared.task, prepared.requests[document.key][0].doc) for document in prepared.documents]
    texts = [each[0].strip() for each in found if each is not None]
    if not texts or prepared.requests[prepared.documents[0].key][0].request_type == "loglikelihood_rolling":
        return None
    empty = sum(not text for text in texts)
    if empty:
        return warning(
            f"{name}: {empty:,} of {len(texts):,} documents have an empty right answer",
            "no model can be right there, or every model is; leave them out (`process_docs`)",
        )
    (common, times), *_ = Counter(texts).most_common(1)
    if times == len(texts) > 1:
        return warning(
            f"{name}: every document has the same right answer {common[:40]!r}",
            "a model that always says so is right; take a task whose answers differ",
        )
    if times >= MOSTLY * len(texts):
        return warning(
            f"{name}: {times / len(texts):.0%} of the right answers are {common[:40]!r}",
            "a constant guess scores as much; take a metric that balances classes",
        )
    return ok(f"{name}: {len(set(texts)):,} different answers in {len(texts):,} documents")


def _generation(subject: Subject, name: str, prepared: PreparedTask) -> Iterator[Finding]:
    first = prepared.requests[prepared.documents[0].key][0]
    if first.request_type != "generate_until":
        return
    most = int(first.args[1].get("max_gen_toks") or 256)
    found = [answers(prepared.task, prepared.requests[each.key][0].doc) for each in _sample(prepared)]
    longest = max((_tokens(subject, each[0]) for each in found if each), default=0)
    if not longest:
        return
    if longest > most:
        yield warning(
            f"{name}: right answers have up to {longest} tokens, and {most} may be generated",
            "raise max_gen_toks in the task's generation_kwargs",
        )
    elif most > ROOM * longest:
        yield warning(
            f"{name}: {most} tokens may be generated, and right answers have at most {longest}",
            f"max_gen_toks: {2 * longest} in the task's generation_kwargs stops bad candidates from rambling",
        )
    else:
        yield ok(f"{name}: at most {most} tokens are generated, right answers have up to {longest}")


def _sample(prepared: PreparedTask) -> Sequence[Any]:
    return prepared.documents[:LOOKED_AT]


def _texts(prepared: PreparedTask, documents: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """The longest request of each document: prompt and answer; of a generation the prompt."""
    for document in documents:
        requests = prepared.requests[document.key]
        of_each = [
            request.args if request.request_type == "loglikelihood" else request.args[:1] for request in requests
        ]
        yield max(of_each, key=lambda texts: sum(len(str(text)) for text in texts))


def _tokens(subject: Subject, text: str) -> int:
    return len(subject.tokenizer(text, add_special_tokens=False)["input_ids"])


def _context(subject: Subject) -> int:
    """The longest prompt in tokens, as lm-eval finds it out."""
    wanted = subject.config.evaluate.max_length
    if wanted is not None:
        return wanted
    try:
        config = subject.sources[0].checkpoint.pretrained_config.get_text_config(decoder=True)
    except InputError:
        raise LeftOut("the base's configuration") from None
    for key in ("n_positions", "max_position_embeddings", "n_ctx"):
        if isinstance(getattr(config, key, None), int):
            return int(getattr(config, key))
    return 2048


def _short(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:157]}..."

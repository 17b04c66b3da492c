"""What a search will take: documents, seconds and bytes, from the tasks' tokens and a machine's measured speed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any, NamedTuple

from evomerge.evaluators import Split
from evomerge.runs.doctor.probe import Speed
from evomerge.runs.doctor.tasks import answers
from evomerge.search.config import SearchConfig

if TYPE_CHECKING:
    from evomerge.engine.arena import Arena
    from evomerge.evaluators.requests import PreparedTask

RACED = 0.32
"""Share of the documents of `search` after which a candidate that is no new best is stopped, on average. With the new
bests, 500 recorded candidates in series of 80 to 240 took .36."""

OVERHEAD = 1.05
"""Scoring over its forward passes: softmax, filters, metrics."""

PER_DOCUMENT = 0.0002
"""Seconds beside the passes that a document takes."""

ROWS = 64
"""Rows in one pass for `batch_size: auto`."""

RAMBLE = 2.0
"""Times the longest reference answer that the longest answer of a batch has, bad candidates included."""

KERNELS = {"linear": 0.95, "task_arithmetic": 0.95, "slerp": 0.8, "dare_linear": 0.75, "breadcrumbs": 0.7}
ELECTION = 0.55
"""How fast merge kernels are, as a share of a copy's bytes a second; electing and ranking are bound by arithmetic."""

PER_GROUP = 2e-4
"""Seconds beside the pass over memory that a candidate's merge takes for each parameter."""

STATISTICS = 1.1e-8
"""Seconds of a thread that an element of an expert takes where a method needs statistics, once a run."""

ONCE = ("task_arithmetic", "linear", "dare_linear", "passthrough")
"""Methods that need no statistics."""

PROPOSAL = {"auto": 0.2, "gp": 0.08, "tpe": 0.02}
"""Seconds of a proposal; of other samplers some milliseconds, of warm starts none."""

COMPILING = 3.0
"""Seconds of compiling a kernel, where candidates are large enough; 1 s where an earlier run has left it on disk."""

LATER = 280_000_000
"""Bytes of libraries and kernels that a search loads after its memory plan, measured."""

STEPS, BATCH, BACKWARD, LOOKS, HELD = 40, 32, 3, 5, 0.25
"""Of the warm start `gradient`, at most: steps, documents a step, what one counts for, looks at so much of `search`."""

SAMPLE = 64
"""Documents of a task that are turned into tokens."""


class Work(NamedTuple):
    """What one document of a task costs, on average.

    Attributes:
        rows: of tokens.
        read: tokens in forward passes; what all documents begin with, and what a document's rows share, counts once.
        written: tokens generated.
        longest: steps of a batch's generation; 0: nothing is generated.
        asked: positions in these passes whose next token counts.
        answer: tokens of a right answer.
    """

    rows: float
    read: float
    written: float
    longest: float
    asked: float
    answer: float


class Estimates(NamedTuple):
    """What a search will take.

    Attributes:
        workers: that work side by side.
        documents: scored on `search`.
        merge, score, sampler: seconds of all trials; the sampler's with those of the gradient.
        gradient: of these, the seconds of that warm start.
        final: seconds of scoring finalists on `select`, and the winner and what it is compared with on `report`.
        once: of the merges' seconds, those of statistics, which the first ones take.
        trial: seconds of one full candidate.
    """

    workers: int
    documents: int
    merge: float
    score: float
    sampler: float
    gradient: float
    final: float
    once: float
    trial: float

    def as_data(self) -> dict[str, Any]:
        """{seconds: {merge, score, sampler, total, gradient, final, once, wall, trial}, documents}, in plain numbers.

        As in a run's status, `total` is what trials take: merge, score and sampler; `wall` is what passes until the
        end: everything, with workers side by side.
        """
        total = self.merge + self.score + self.sampler
        wall = (total - self.once + self.final) / self.workers + self.once
        parts = {**self._asdict(), "total": total, "wall": wall}
        documents, _ = parts.pop("documents"), parts.pop("workers")
        return {"seconds": {name: round(value, 3) for name, value in parts.items()}, "documents": documents}


def work_of(prepared: PreparedTask, tokenizer: Any) -> Work:
    """The cost of a task's document, from the first `SAMPLE` of them."""
    documents = prepared.documents[:SAMPLE]
    requests = [prepared.requests[document.key] for document in documents]
    kind = requests[0][0].request_type
    firsts = [str(own[0].args[0]) for own in requests]
    shared = _tokens(tokenizer, _beginning(firsts)) if len(firsts) > 1 and kind != ROLLING else 0
    contexts = [max(_tokens(tokenizer, first) - shared, 1) for first in firsts]
    found = [answers(prepared.task, own[0].doc) for own in requests]
    right = [_tokens(tokenizer, texts[0]) + 1 for texts in found if texts]
    if kind == "generate_until":
        most = int(requests[0][0].args[1].get("max_gen_toks") or 256)
        longest = min(RAMBLE * max(right), most) if right else most
        written = min(mean(right), most) if right else most
        return Work(1, mean(contexts), written, longest, 1 + written, mean(right or [most]))
    if kind == ROLLING:
        return Work(1, mean(contexts), 0, 0, mean(contexts), 0)
    endings = [[_tokens(tokenizer, str(request.args[1])) for request in own] for own in requests]
    read = [context + sum(own) for context, own in zip(contexts, endings, strict=True)]
    asked = mean(sum(own) for own in endings)
    return Work(mean(len(own) for own in requests), mean(read), 0, 0, asked, mean(right or [1]))


ROLLING = "loglikelihood_rolling"


Chunk = tuple[str, int]
"""A task, and how many of its documents are scored together."""


def planned_seconds(plan: Sequence[Chunk], work: Mapping[str, Work], speed: Speed, share: float, rows: int) -> float:
    """Seconds of scoring the first `share` of a plan's documents; tasks that are not in `work` take none."""
    left = share * sum(size for _, size in plan)
    total = 0.0
    for task, size in plan:
        part = min(max(left / size, 0.0), 1.0)
        left -= size
        if task in work:
            total += part * scoring_seconds(work[task], size, speed, rows=rows)
    return total


def scoring_seconds(work: Work, documents: int, speed: Speed, *, rows: int = ROWS) -> float:
    """Seconds of scoring so many documents of a task together, at most `rows` in a pass.

    Multiple choice takes one pass over prompts and one over answers, a generation one over prompts and one a step.
    """
    chunks = math.ceil(documents / rows)
    passes = chunks * (2 if work.rows > 1 else 1) + chunks * work.longest
    tokens = documents * (work.read + work.written)
    return OVERHEAD * speed.seconds(passes, tokens, documents * work.asked) + PER_DOCUMENT * documents


def merge_seconds(arenas: Sequence[Arena], methods: Sequence[str], rate: float) -> float:
    """Seconds of one candidate's merge: a pass over the sources and the result, at a share of a copy's rate."""
    moved = sum(
        arena.numel * (sum(dtype.itemsize for dtype in arena.kind.dtypes) + arena.kind.out.itemsize) for arena in arenas
    )
    share = mean(KERNELS.get(method, ELECTION) for method in methods)
    return moved / (share * rate) + PER_GROUP * sum(len(arena.segments) for arena in arenas)


def compiling_seconds(arenas: Sequence[Arena], methods: Sequence[str], trials: int) -> float:
    """Seconds of compiling the methods' kernels, if these have so much to do that it pays."""
    from evomerge.engine.compiled import WORTH_COMPILING

    worth = trials / len(methods) * sum(arena.numel for arena in arenas) > WORTH_COMPILING
    return COMPILING * len(methods) if worth else 0.0


def statistics_seconds(arenas: Sequence[Arena], methods: Sequence[str], threads: int = 1) -> float:
    """Seconds of the statistics that the methods need, once, with so many threads."""
    needing = sum(method not in ONCE for method in methods)
    experts = max((len(arena.kind.dtypes) - 1 for arena in arenas), default=0)
    return needing * STATISTICS * experts * sum(arena.numel for arena in arenas) / threads


def estimated(
    config: SearchConfig,
    plan: Mapping[Split, Sequence[Chunk]],
    work: Mapping[str, Work],
    speed: Speed,
    merge: float,
    once: float,
    sampler: str,
    gpus: int = 0,
    compiling: float = 0.0,
) -> Estimates:
    """What the search will take.

    Args:
        config: of the search.
        plan: by split the chunks in which documents are scored, in their order.
        work: by task.
        speed: of forward passes.
        merge: seconds of one merge.
        once: seconds of statistics.
        sampler: its name.
        gpus: that workers have; 0: they share the cores, and each is slower the more there are.
        compiling: seconds of compiling kernels.
    """
    workers = config.runtime.workers
    slower = workers / min(workers, gpus) if gpus else float(workers)
    rows = ROWS if config.evaluate.batch_size == "auto" else config.evaluate.batch_size
    of_split = {split: planned_seconds(chunks, work, speed, 1.0, rows) for split, chunks in plan.items()}
    trials, stopped_at = config.search.trials, 1.0 if config.evaluate.race is None else RACED
    stopped = planned_seconds(plan["search"], work, speed, stopped_at, rows)
    bests = new_bests(trials)
    search = sum(size for task, size in plan["search"] if task in work)
    compared = 4 + len(config.models.experts)  # winner, base, average, best sweep, and each expert
    gradient = _gradient_seconds(config, search, work, speed)
    return Estimates(
        workers,
        documents=round((bests + (trials - bests) * stopped_at) * search),
        merge=slower * trials * merge + compiling + once,
        score=slower * (bests * of_split["search"] + (trials - bests) * stopped),
        sampler=max(trials - _warm(config), 0) * PROPOSAL.get(sampler, 0.005) + gradient,
        gradient=gradient,
        final=slower * min(config.search.finalists, trials) * (of_split["select"] + merge)
        + slower * compared * (of_split["report"] + merge),
        once=once,
        trial=merge + of_split["search"],
    )


def new_bests(trials: int) -> float:
    """How many candidates are the best so far, and scored in full: of exchangeable ones 1 + 1/2 + ... + 1/trials."""
    return sum(1 / number for number in range(1, trials + 1))


def _warm(config: SearchConfig) -> int:
    """How many trials are warm starts, about."""
    from evomerge.search.warm_starts import SWEEP_STEPS

    counts = {"experts": len(config.models.experts), "sweep": SWEEP_STEPS}
    return sum(counts.get(start, 1) for start in config.search.warm_start) * len(config.merge.method)


def _gradient_seconds(config: SearchConfig, search: int, work: Mapping[str, Work], speed: Speed) -> float:
    """Of forward and backward passes over prompts with their right answers; at most, since it may end before."""
    if "gradient" not in config.search.warm_start or not work:
        return 0.0
    learned = STEPS * BATCH * BACKWARD + LOOKS * HELD * search
    tokens = mean(each.read + each.answer for each in work.values())
    passes = (STEPS * BACKWARD + LOOKS) * len(work)
    return OVERHEAD * speed.seconds(passes, learned * tokens, learned * mean(each.answer for each in work.values()))


def scoring_bytes(work: Mapping[str, Work], config: Any, itemsize: int, *, rows: int = ROWS) -> int:
    """Bytes that a pass over a full batch takes beside the weights, about.

    Per token: hidden states and the feed-forward's two inputs of one layer, and keys and values of all; per row the
    logits of one position in float32 and in the model's dtype.

    Args:
        work: by task.
        config: the text model's configuration.
        itemsize: bytes of a number.
        rows: of the batch.
    """
    hidden = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    heads = int(getattr(config, "num_attention_heads", 1) or 1)
    kept = hidden * int(getattr(config, "num_key_value_heads", heads) or heads) // heads
    token = itemsize * (6 * hidden + 3 * inner + 2 * kept * int(config.num_hidden_layers))
    row = (itemsize + 8) * int(config.vocab_size)
    longest = max((each.read + each.longest for each in work.values()), default=0.0)
    answer = max((each.answer * each.rows for each in work.values() if not each.longest), default=1.0)
    return int(rows * (longest * token + answer * row))


def _beginning(texts: Sequence[str]) -> str:
    """What all texts begin with."""
    first, last = min(texts), max(texts)
    length = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:length]


def _tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])

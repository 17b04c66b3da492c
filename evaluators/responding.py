"""What a live model answers to the requests of lm-eval's tasks."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lm_eval.api.instance import Instance

from evomerge.errors import InputError
from evomerge.evaluators import continuous, generation
from evomerge.evaluators.batches import BatchLimit, in_batches
from evomerge.evaluators.config import EvaluateConfig
from evomerge.evaluators.coverage import end_tokens
from evomerge.evaluators.encode import Encoded, encode
from evomerge.evaluators.forward import Forward, embeddings
from evomerge.evaluators.likelihoods import Likelihoods, Roots, TaskRows, alone, common_root
from evomerge.evaluators.proxy import proxy_rows, proxy_values
from evomerge.evaluators.sharing import EVERYTHING, reach
from evomerge.evaluators.types import Document
from evomerge.evaluators.wrapper import LiveModel, Memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from evomerge.evaluators.requests import PreparedTask

BATCH = 64  # rows in a pass for batch_size "auto"

log = logging.getLogger(__name__)


class Attached(NamedTuple):
    """A model that is being scored.

    Attributes:
        live: lm-eval's view of it.
        forward: ours.
        limit: the most rows in a pass.
        shape: all of the model that its rows of tokens depend on.
    """

    live: LiveModel
    forward: Forward
    limit: BatchLimit
    shape: tuple[object, ...]


class Responder:
    """Lets models answer the requests of prepared tasks; what does not depend on weights is kept between them.

    Args:
        config: says batch size, context length, and how answers are generated.
        tokenizer: of all models; lm-eval may give it a padding token.
        prepared: the tasks by name.
        targets: by task and document key the reference answers, of tasks that have a stand-in.
    """

    def __init__(
        self,
        config: EvaluateConfig,
        tokenizer: PreTrainedTokenizerBase,
        prepared: Mapping[str, PreparedTask],
        targets: Mapping[str, dict[str, tuple[str, ...]]],
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._prepared = prepared
        self._targets = targets
        self._memory: Memory = {}
        self._limits: dict[str, BatchLimit] = {}
        self._rows: dict[tuple[object, ...], TaskRows] = {}
        self._prefixes: dict[tuple[object, ...], tuple[int, ...]] = {}
        self._fitted: set[tuple[object, ...]] = set()
        self._roots = Roots()
        self._likelihoods = Likelihoods(self._roots)

    def attach(self, model: PreTrainedModel, weights: str | None) -> Attached:
        """A model with the weights that it has now, under the name `weights`.

        Raises:
            InputError: tokenizer or tasks do not fit the model.
        """
        kind = model.device.type
        size = self._config.batch_size
        start = BATCH if size == "auto" else size
        limit = self._limits.setdefault(kind, BatchLimit(start))
        if self._tokenizer.eos_token_id is None and self._tokenizer.bos_token_id is None:
            raise InputError("a tokenizer must have a begin or an end token, as lm-eval asks for one, but has neither")
        live = LiveModel(model, self._tokenizer, limit.size, self._config.max_length, self._memory)
        shape = (live.backend, live.max_length, live.add_bos_token, embeddings(model), *end_tokens(model))
        attached = Attached(live, Forward(model), limit, shape)
        self._roots.begin(model, weights)
        if shape not in self._fitted:
            for prepared in self._prepared.values():
                self._require_fit(attached, prepared)
            self._fitted.add(shape)
        return attached

    def detach(self) -> None:
        """Let go of what belongs to the weights, unless they have a name."""
        self._roots.end()

    def respond(self, attached: Attached, prepared: PreparedTask, chunk: Sequence[Document]) -> list[Instance]:
        """Hang answers on the chunk's requests, as `lm_eval.evaluate` does, and return these.

        Raises:
            CandidateError: one row alone does not fit into memory.
        """
        instances = prepared.instances(chunk)
        scored = [instance for instance in instances if instance.request_type != "generate_until"]
        if scored:
            keys = [document.key for document in chunk]
            for instance, answer in zip(scored, self._scored(attached, prepared, keys, scored), strict=True):
                instance.resps.extend([answer] * (instance.repeats or 1))
        generated = [
            instance
            for instance in instances
            if instance.request_type == "generate_until"
            for _ in range(instance.repeats or 1)
        ]
        if generated:
            for instance, text in zip(generated, self._generated(attached, prepared, generated), strict=True):
                instance.resps.append(text)
        return instances

    def stand_in(self, attached: Attached, prepared: PreparedTask, chunk: Sequence[Document]) -> list[float]:
        """The documents' values by their reference answers.

        Raises:
            CandidateError: one row alone does not fit into memory.
            InputError: the model is no causal one, or the references do not fit it.
        """
        live, forward, limit, shape = attached
        if live.backend != "causal":
            raise InputError("proxy must be null for an encoder-decoder model, but is 'reference_loglikelihood'")
        delimiter = "" if self._config.apply_chat_template else prepared.task.config.target_delimiter
        task = self._kept(
            (prepared.name, "stand-in", shape),
            live,
            lambda: proxy_rows(live, prepared, self._targets[prepared.name], delimiter),
        )
        keys = [document.key for document in chunk]
        answers = self._likelihoods.answers(f"{prepared.name}/stand-in", task, keys, forward, limit)
        return proxy_values(task, keys, alone(task, keys, forward) if answers is None else answers)

    def _scored(
        self, attached: Attached, prepared: PreparedTask, keys: Sequence[str], requests: Sequence[Instance]
    ) -> Sequence[tuple[float, bool] | float]:
        live, forward, limit, _ = attached
        if live.backend == "causal":
            task = self.task_rows(attached, prepared)
            answers = self._likelihoods.answers(prepared.name, task, keys, forward, limit)
            if answers is not None:
                return [
                    answer.loglikelihood
                    if request.request_type == "loglikelihood_rolling"
                    else (answer.loglikelihood, answer.greedy)
                    for request, answer in zip(requests, answers, strict=True)
                ]
        found: dict[int, tuple[float, bool] | float] = {}
        for kind in dict.fromkeys(request.request_type for request in requests):
            own = [place for place, request in enumerate(requests) if request.request_type == kind]
            answered = in_batches(_asked(live, kind), [requests[place] for place in own], limit)
            found.update(zip(own, answered, strict=True))
        return [found[place] for place in range(len(requests))]

    def _generated(self, attached: Attached, prepared: PreparedTask, requests: Sequence[Instance]) -> list[str]:
        live, forward, limit, _ = attached
        prefix = self._prefix(attached, prepared)
        root = self._roots.of(forward, prefix) if prefix else None
        generate = continuous.generate if self._config.generation == "continuous" else generation.generate
        return generate(forward, live, requests, limit, root)

    def task_rows(self, attached: Attached, prepared: PreparedTask) -> TaskRows:
        """The tokens of a task's requests, made once for a tokenizer and model."""
        live = attached.live

        def rows() -> TaskRows:
            of_document = {
                key: [encode(live, prepared.name, request) for request in requests if _is_scored(request)]
                for key, requests in prepared.requests.items()
            }
            after_context = [
                row
                for key, requests in prepared.requests.items()
                for request, rows in zip(filter(_is_scored, requests), of_document[key], strict=True)
                for row in rows
                if request.request_type == "loglikelihood" and request.args[0]
            ]
            rolling = all(r.request_type == "loglikelihood_rolling" for rs in prepared.requests.values() for r in rs)
            return TaskRows(of_document, common_root(after_context), (), live.max_length, greedy=not rolling)

        return self._kept((prepared.name, attached.shape), live, rows)

    def _kept(self, place: tuple[object, ...], live: LiveModel, make: Callable[[], TaskRows]) -> TaskRows:
        if place not in self._rows:
            with live.forgetting():
                self._rows[place] = make()
        return self._rows[place]

    def _prefix(self, attached: Attached, prepared: PreparedTask) -> tuple[int, ...]:
        """What all prompts of a task that generates begin with."""
        place = (prepared.name, attached.shape)
        if place not in self._prefixes:
            self._prefixes[place] = _common_prompt(attached, prepared)
        return self._prefixes[place]

    def _require_fit(self, attached: Attached, prepared: PreparedTask) -> None:
        """Check that a task's prompts fit the model; say how many are cut."""
        live = attached.live
        requests = [request for of_document in prepared.requests.values() for request in of_document]
        cut = live.count_cut(prepared.name, (r for r in requests if live.backend != "causal" or not _is_scored(r)))
        if live.backend == "causal":
            rows = [row for rows in self.task_rows(attached, prepared).of_document.values() for row in rows]
            live.require_known(prepared.name, (row.ids for windows in rows for row in windows))
            cut += sum(any(row.cut for row in windows) for windows in rows)
        if cut:
            log.warning(
                "%d of %d requests of task %r exceed the model's %d tokens and lose their beginning, as in lm-eval",
                cut,
                len(requests),
                prepared.name,
                live.max_length,
            )


def _is_scored(request: Instance) -> bool:
    return bool(request.request_type != "generate_until")


def _asked(live: LiveModel, kind: str) -> Callable[[Sequence[Instance]], list[tuple[float, bool] | float]]:
    return lambda part: list(getattr(live, kind)(list(part), disable_tqdm=True))


def _common_prompt(attached: Attached, prepared: PreparedTask) -> tuple[int, ...]:
    live, forward, _, _ = attached
    requests: Iterable[Instance] = [
        request for of_document in prepared.requests.values() for request in of_document if not _is_scored(request)
    ]
    of_settings = [request.args for request in requests]
    plan = generation.plan_of(live, of_settings[0][1])
    if plan is None:
        return ()
    prompts = generation.encode(live, plan, [context for context, _ in of_settings])
    if max(map(len, prompts)) + plan.most > reach(forward.model.config, EVERYTHING):
        return ()
    return common_root([Encoded(array("i", prompt), len(prompt)) for prompt in prompts])

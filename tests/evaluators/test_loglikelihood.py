"""Log-likelihoods do not depend on how rows are put together, and are those of lm-eval."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from evomerge.errors import CandidateError, InputError
from evomerge.evaluators import EvaluateConfig, LmEval, tensors
from evomerge.evaluators.batches import BatchLimit
from evomerge.evaluators.encode import Encoded, encode
from evomerge.evaluators.forward import Forward
from evomerge.evaluators.loglikelihood import Answer, Plan, log_probabilities
from evomerge.evaluators.prefix import common_prefix, run_root
from evomerge.evaluators.stems import Stem, Target, in_order
from evomerge.evaluators.tensors import Targets
from evomerge.evaluators.wrapper import LiveModel
from tests.evaluators.conftest import random_model

Config = Callable[..., EvaluateConfig]
Documents = list[list[list[Encoded]]]

MODEL = random_model(0, vocabulary=60)
TOKEN = st.integers(0, 59)


@st.composite
def row(draw: st.DrawFn, begin: Sequence[int]) -> Encoded:
    ids = [*begin, *draw(st.lists(TOKEN, min_size=2, max_size=9))]
    return Encoded(array("i", ids), draw(st.integers(len(begin) + 1, len(ids) - 1)))


@st.composite
def documents(draw: st.DrawFn) -> tuple[tuple[int, ...], Documents]:
    """Documents behind one beginning, some of whose rows begin alike, are equal, or are windows of one request."""
    root = tuple(draw(st.lists(TOKEN, max_size=5)))
    found: Documents = []
    for _ in range(draw(st.integers(1, 4))):
        begin = (*root, *draw(st.lists(TOKEN, max_size=6)))
        requests = [[draw(row(begin)) for _ in range(draw(st.integers(0, 2)))] for _ in range(draw(st.integers(1, 4)))]
        found.append(requests)
    found.append(found[0])
    return root, found


def expected(requests: Documents) -> list[tuple[float, bool]]:
    """Each row alone, in one plain call of the model."""
    found = []
    for request in (request for document in requests for request in document):
        total, greedy = 0.0, True
        for each in request:
            with torch.no_grad():
                logits = MODEL(torch.tensor([each.read.tolist()])).logits[0].log_softmax(-1)
            for place in range(each.start, len(each.ids)):
                total += float(logits[place - 1, each.ids[place]])
                greedy &= int(logits[place - 1].argmax()) == each.ids[place]
        found.append((total, greedy))
    return found


def assert_same(found: Sequence[Answer], wanted: Sequence[tuple[float, bool]]) -> None:
    assert [answer.loglikelihood for answer in found] == pytest.approx([w[0] for w in wanted], rel=1e-5, abs=1e-5)
    assert [answer.greedy for answer in found] == [w[1] for w in wanted]


def plan(requests: Documents, **given: Any) -> Plan:
    return Plan(requests, vocabulary=60, device=torch.device("cpu"), **given)


@settings(max_examples=60, deadline=None)
@given(documents(), st.integers(1, 6), st.sampled_from([0.0, 0.2, math.inf]))
def test_however_rows_are_put_together_they_get_what_they_get_alone(
    drawn: tuple[tuple[int, ...], Documents], size: int, least: float
) -> None:
    root, requests = drawn
    forward = Forward(MODEL)
    with torch.no_grad():
        planned = plan(requests, root=root, least=least)
        shared = run_root(forward, root) if planned.rooted else None
        assert_same(planned.run(forward, BatchLimit(size), shared), expected(requests))
        assert_same(plan(requests, cached=False).run(forward, BatchLimit(size)), expected(requests))


def some_documents(count: int = 12) -> Documents:
    generator = torch.Generator().manual_seed(0)

    def tokens(length: int) -> list[int]:
        return torch.randint(0, 60, (length,), generator=generator).tolist()

    found: Documents = []
    for number in range(count):
        question = tokens(5 + number % 4)
        found.append([[Encoded(array("i", question + tokens(1 + choice)), len(question))] for choice in range(4)])
    return found


def passes(requests: Documents, **given: Any) -> list[tuple[int, ...]]:
    """The shapes of the model's calls."""
    seen: list[tuple[int, ...]] = []
    handle = MODEL.register_forward_pre_hook(lambda *a: seen.append(tuple(a[2]["input_ids"].shape)), with_kwargs=True)
    with torch.no_grad():
        plan(requests, **given).run(Forward(MODEL), BatchLimit(16))
    handle.remove()
    return seen


def test_questions_run_once_and_single_tokens_need_no_second_pass() -> None:
    assert passes(some_documents())[0] == (12, 8)
    assert sum(rows for rows, _ in passes(some_documents())[1:]) == 12 * 3
    letters = [[[Encoded(array("i", [*range(9), letter]), 9)] for letter in range(20, 24)] for _ in range(3)]
    assert passes(letters) == [(1, 9)]


def test_tensors_are_made_once() -> None:
    planned = plan(some_documents())
    seen: list[torch.Tensor] = []
    handle = MODEL.register_forward_pre_hook(lambda *a: seen.append(a[2]["input_ids"]), with_kwargs=True)
    with torch.no_grad():
        first = planned.run(Forward(MODEL), BatchLimit(8))
        count = len(seen)
        assert planned.run(Forward(MODEL), BatchLimit(8)) == first
    handle.remove()
    assert len(seen) == 2 * count
    assert all(one.data_ptr() == other.data_ptr() for one, other in zip(seen[:count], seen[count:], strict=True))


def test_a_batch_that_does_not_fit_is_run_in_parts_with_the_same_answers() -> None:
    class Small(Forward):
        def __call__(self, ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if ids.shape[0] > 9:
                raise torch.OutOfMemoryError("no memory")
            return super().__call__(ids, *args, **kwargs)

    class Full(Forward):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            raise torch.OutOfMemoryError("no memory")

    requests = some_documents()
    limit = BatchLimit(16)
    with torch.no_grad():
        planned = plan(requests)
        assert_same(planned.run(Small(MODEL), limit), expected(requests))
        assert limit.size < 9
        with pytest.raises(CandidateError, match="out of memory with batch_size 1"):
            planned.run(Full(MODEL), BatchLimit(16))


def test_long_texts_run_in_pieces_within_the_budget_of_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: Documents = [[[Encoded(array("i", [(7 * k + n) % 60 for k in range(50 + n)]), 1)]] for n in range(3)]
    monkeypatch.setattr(tensors, "LOGITS", 60 * 16)
    shapes = passes(requests)
    assert max(rows * columns for rows, columns in shapes) <= 16
    assert len(shapes) > 9
    with torch.no_grad():
        assert_same(plan(requests).run(Forward(MODEL), BatchLimit(16)), expected(requests))
        assert_same(plan(requests, cached=False).run(Forward(MODEL), BatchLimit(16)), expected(requests))


def test_an_end_is_any_token_of_its_set() -> None:
    ends = [torch.tensor([3, 5, 9]), torch.tensor([7])]
    requests: Documents = [[[Encoded(array("i", [4, 8, 15, -1 - which]), 2)] for which in range(2)]]
    with torch.no_grad():
        found = plan(requests, ends=ends).run(Forward(MODEL), BatchLimit(4))
        logits = MODEL(torch.tensor([[4, 8, 15]])).logits[0].log_softmax(-1)
    for which, tokens in enumerate(ends):
        assert found[which].loglikelihood == pytest.approx(
            float(logits[1, 15] + logits[2, tokens].logsumexp(-1)), rel=1e-5
        )
        assert not found[which].greedy


def test_of_equally_likely_tokens_the_first_is_the_greedy_one() -> None:
    logits = torch.zeros(1, 1, 6, dtype=torch.bfloat16)
    logits[0, 0, [2, 4]] = 3.0
    where = torch.zeros(3, dtype=torch.long)
    found = log_probabilities(logits, Targets(where, where, torch.tensor([2, 4, 5])), ())
    assert found[:, 1].tolist() == [1.0, 0.0, 0.0]
    assert found[:2, 0].tolist() == pytest.approx([3 - math.log(4 + 2 * math.exp(3))] * 2)


@given(
    st.lists(st.tuples(st.integers(1, 30), st.booleans(), st.integers(0, 4)), max_size=20),
    st.integers(1, 8),
    st.integers(1, 50),
)
def test_batches_keep_to_their_budgets(shapes: list[tuple[int, bool, int]], size: int, vocabulary: int) -> None:
    stems = in_order(
        Stem(array("i", range(length)), rooted, [Target(0, min(last, length - 1), 0)])
        for length, rooted, last in shapes
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "LOGITS", 200)
        patch.setattr(tensors, "TOKENS", 60)
        runs = tensors.batched(stems, size, vocabulary)
    assert [place for run in runs for place in run] == list(range(len(stems)))
    for run in runs:
        part = [stems[place] for place in run]
        assert len({stem.rooted for stem in part}) == 1
        assert len(part) == 1 or (
            len(part) <= size
            and len(part) * max(len(stem.ids) for stem in part) <= 60
            and len(part) * max(stem.keep for stem in part) * vocabulary <= 200
        )


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=5))
def test_the_common_prefix_is_the_longest(sequences: list[list[int]]) -> None:
    length = common_prefix(sequences)
    assert len({tuple(each[:length]) for each in sequences}) <= 1
    if sequences and all(len(each) > length for each in sequences):
        assert len({each[length] for each in sequences}) > 1


REQUESTS = [
    ("loglikelihood", ("Q: oak pine\nA:", " maple")),
    ("loglikelihood", ("Q: oak pine \nA:  ", "maple")),
    ("loglikelihood", ("", "maple and oak")),
    ("loglikelihood", ("", "<s>maple")),
    ("loglikelihood", ("<s>Q: oak", " pine")),
    ("loglikelihood", ("rowan " * 60, "willow")),
    ("loglikelihood_rolling", ("ash",)),
    ("loglikelihood_rolling", ("rowan willow " * 40,)),
    ("loglikelihood_rolling", ("",)),
]


@pytest.mark.parametrize("max_length", [40, None])
@pytest.mark.parametrize("add_bos", [None, True])
def test_requests_of_all_kinds_get_what_lm_eval_gives(
    max_length: int | None, add_bos: bool | None, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, max_length=max_length, add_bos_token=add_bos)
    live = LiveModel(model, tokenizer, 4, max_length, {})
    live.add_bos_token = add_bos
    for kind, arguments in REQUESTS:
        request = Instance(request_type=kind, doc={}, arguments=arguments, idx=0)
        rows = encode(live, "task", request)
        made = Plan([[rows]], vocabulary=300, device=model.device)
        with torch.no_grad():
            (found,) = made.run(Forward(model), BatchLimit(4))
        (wanted,) = getattr(theirs, kind)([request], disable_tqdm=True)
        loglikelihood, greedy = wanted if isinstance(wanted, tuple) else (wanted, found.greedy)
        assert found.loglikelihood == pytest.approx(loglikelihood, rel=1e-5)
        assert found.greedy == greedy


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("Q:", ""), "answers of task 'task' must not be empty, but one is, to 'Q:'"),
        (("", "<s>"), "must have tokens of their own after a context with tokens, but '<s>' after '' has 0 after 1"),
        (("Q:", "rowan " * 50), "must be at most 40 tokens long, as the model's context is, but one has"),
    ],
)
def test_answers_that_cannot_be_scored(
    arguments: tuple[str, str], says: str, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    live = LiveModel(model, tokenizer, 4, 40, {})
    with pytest.raises(InputError) as caught:
        encode(live, "task", Instance(request_type="loglikelihood", doc={}, arguments=arguments, idx=0))
    assert says in str(caught.value)


def test_a_prefix_runs_once_for_all_chunks_of_one_name_of_weights(
    config: Config, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    spec = {"task": "choice_loglik", "num_fewshot": 0}
    everything = {"search": 1.0, "select": 0.0, "report": 0.0}
    text = "Answer the question with one of the four trees that are named, and nothing else."
    evaluator = LmEval(config(spec, system_instruction=text, splits=everything), tokenizer)
    chunks = evaluator.chunks("search")
    evaluator.score(model, chunks[0])
    shapes: list[tuple[int, ...]] = []
    handle = model.register_forward_pre_hook(lambda *a: shapes.append(tuple(a[2]["input_ids"].shape)), with_kwargs=True)

    def prefixes(weights: str | None) -> int:
        shapes.clear()
        for chunk in chunks:
            evaluator.score(model, chunk, weights)
        return sum(rows == 1 and columns > 40 for rows, columns in shapes)

    assert prefixes("one") == 1
    assert prefixes("one") == 0
    assert prefixes("two") == 1
    assert prefixes(None) == len(chunks)
    before = evaluator.score(model, chunks[0], "three")
    with torch.no_grad():
        for old, new in zip(model.parameters(), random_model(1).parameters(), strict=True):
            old.copy_(new)
    changed = evaluator.score(model, chunks[0], "four")
    assert changed != before
    assert changed == evaluator.score(model, chunks[0])
    handle.remove()

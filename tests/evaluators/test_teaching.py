"""Losses against lm-eval's own log-likelihoods, and gradients against those of one batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM

from evomerge.errors import CandidateError
from evomerge.evaluators import make_evaluator, teaching
from evomerge.evaluators.teaching import Teacher


def taught(config, tokenizer, model, *tasks, **settings):
    evaluator = make_evaluator(config(*tasks, limit=20, **settings), tokenizer)
    return evaluator, Teacher(evaluator, model)


def likelihoods(evaluator, tokenizer, model, task, kind):
    """By document key lm-eval's log-likelihoods of its requests."""
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
    found = {}
    for key, requests in evaluator.prepared[task].requests.items():
        answers = getattr(lm, kind)(requests, disable_tqdm=True)
        found[key] = [answer[0] if isinstance(answer, tuple) else answer for answer in answers]
    return found


def test_the_loss_of_choices_is_the_cross_entropy_over_them(config, tokenizer, model):
    evaluator, teacher = taught(config, tokenizer, model, {"task": "choice", "metric": "acc"})
    documents = evaluator.documents("search")
    losses = teacher.losses(model, documents)
    known = likelihoods(evaluator, tokenizer, model, "choice", "loglikelihood")
    for document, loss in zip(documents, losses, strict=True):
        scores = np.array(known[document.key])
        gold = evaluator.prepared["choice"].requests[document.key][0].doc["gold"]
        assert loss == pytest.approx(np.logaddexp.reduce(scores) - scores[gold], abs=1e-3)


def test_choices_that_are_compared_by_length_are_taught_so(config, tokenizer, model):
    evaluator, teacher = taught(config, tokenizer, model, {"task": "choice", "metric": "acc_norm"})
    documents = evaluator.documents("search")
    losses = teacher.losses(model, documents)
    known = likelihoods(evaluator, tokenizer, model, "choice", "loglikelihood")
    for document, loss in zip(documents, losses, strict=True):
        doc = evaluator.prepared["choice"].requests[document.key][0].doc
        lengths = np.array([len(choice) for choice in doc["choices"]])
        scores = np.array(known[document.key]) / lengths * lengths.mean()
        assert loss == pytest.approx(np.logaddexp.reduce(scores) - scores[doc["gold"]], abs=1e-3)


@pytest.mark.parametrize("task", ["loglikelihood", "rolling"])
def test_the_loss_of_a_text_is_its_log_likelihood_by_length(config, tokenizer, model, task):
    metric = {"loglikelihood": "acc", "rolling": "word_perplexity"}[task]
    evaluator, teacher = taught(config, tokenizer, model, {"task": task, "metric": metric})
    documents = evaluator.documents("search")
    losses = teacher.losses(model, documents)
    kind = "loglikelihood_rolling" if task == "rolling" else "loglikelihood"
    known = likelihoods(evaluator, tokenizer, model, task, kind)
    for document, loss in zip(documents, losses, strict=True):
        unit = teacher.lessons[task].examples[document.key].unit
        assert loss * unit == pytest.approx(-known[document.key][0], rel=1e-4)
    if task == "rolling":
        text = evaluator.prepared[task].requests[documents[0].key][0].args[0]
        assert teacher.lessons[task].examples[documents[0].key].unit == len(tokenizer(text)["input_ids"])


def test_the_loss_of_a_reference_is_that_of_the_stand_in(config, tokenizer, model):
    evaluator, teacher = taught(
        config, tokenizer, model, {"task": "generate", "metric": "right"}, proxy="reference_loglikelihood"
    )
    documents = evaluator.documents("search")
    losses = teacher.losses(model, documents)
    values = [score.value for score in evaluator.score(model, documents, proxy=True)]
    lesson = teacher.lessons["generate"]
    for document, loss, value in zip(documents, losses, values, strict=True):
        ((row,),) = lesson.examples[document.key].requests
        tokens = len(row.ids) - row.start
        assert loss * lesson.examples[document.key].unit / tokens == pytest.approx(-np.log(value), rel=1e-4)


def test_the_ends_of_two_tasks_are_told_apart(config, tokenizer, model):
    evaluator, teacher = taught(config, tokenizer, model, "generate", {"task": "exact", "filter": "word"}, "choice")
    teacher.lessons["exact"] = teaching.Lesson(teacher.lessons["exact"].examples, (torch.tensor([7, 9]),))
    documents = evaluator.documents("search")
    together = dict(zip(documents, teacher.losses(model, documents), strict=True))
    for name in ("generate", "exact", "choice"):
        own = [document for document in documents if document.task == name]
        assert teacher.losses(model, own) == pytest.approx([together[document] for document in own], rel=1e-4)


def test_gradients_in_batches_are_those_of_the_whole(config, tokenizer, model, monkeypatch):
    evaluator, teacher = taught(config, tokenizer, model, "choice", "generate")
    documents = evaluator.documents("search")[:12]
    shares = [0.1 * (place + 1) for place in range(len(documents))]
    found = []
    for tokens in (10**6, 60):
        monkeypatch.setitem(teaching.TOKENS, "cpu", tokens)
        teacher = Teacher(evaluator, model)
        model.zero_grad()
        losses = teacher.teach(model, documents, shares)
        assert losses == pytest.approx(teacher.losses(model, documents), rel=1e-4)
        found.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))
    assert not model.training


def test_tasks_without_reference_answers_say_why(config, tokenizer, model):
    _, teacher = taught(config, tokenizer, model, "choice", {"function": "tiny_scoring:weight"})
    assert set(teacher.lessons) == {"choice"}
    assert list(teacher.without.values()) == ["it is scored by a function"]


def test_what_does_not_fit_into_memory_is_read_in_smaller_pieces(config, tokenizer, model, monkeypatch):
    evaluator, teacher = taught(config, tokenizer, model, "choice")
    documents = evaluator.documents("search")
    monkeypatch.setitem(teaching.TOKENS, "cpu", 128)
    monkeypatch.setattr(teaching.gc, "collect", lambda: 0)  # takes seconds in a process with much in it
    wanted = teacher.losses(model, documents)
    sizes = []
    whole = teaching.row_likelihoods

    def tight(model, rows, ends, shifts):
        sizes.append(len(rows))
        if len(rows) > 4:
            raise torch.OutOfMemoryError("too many rows")
        return whole(model, rows, ends, shifts)

    monkeypatch.setattr(teaching, "row_likelihoods", tight)
    assert teacher.losses(model, documents) == pytest.approx(wanted, rel=1e-4)
    assert max(sizes) > 4 >= sizes[-1]
    monkeypatch.setattr(teaching, "row_likelihoods", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(CandidateError, match="out of memory with a gradient of one document"):
        teacher.losses(model, documents)

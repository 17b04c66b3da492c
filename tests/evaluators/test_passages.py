"""Texts scored by their perplexity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.models.huggingface import HFLM
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from evomerge.errors import InputError
from evomerge.evaluators import SPLITS, EvaluateConfig, Scores, make_evaluator
from evomerge.evaluators.passages import passages

Config = Callable[..., EvaluateConfig]


@given(st.text(alphabet="ab  \n\t\r", max_size=300), st.integers(2, 60))
def test_passages_put_together_are_the_text(text: str, longest: int) -> None:
    found = passages(text, longest)
    assert "".join(found) == text
    assert all(0 < len(passage) <= longest for passage in found) or not text
    assert all(len(passage) > longest // 2 for passage in found[:-1])


def test_passages_end_at_blank_lines_then_lines_then_words() -> None:
    assert passages("a b\nc d\n\ne f\ng h", 12) == ["a b\nc d\n\n", "e f\ng h"]
    assert passages("a b\nc d\ne f g h", 12) == ["a b\nc d\n", "e f g h"]
    assert passages("a b c d e f g h", 12) == ["a b c d e f ", "g h"]
    assert passages("abcdefghijklmno", 12) == ["abcdefghijkl", "mno"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "wiki.txt"
    path.write_text("\n\n".join(f"[{n}] larch and pine, {'oak ' * (n % 7)}willow {{{{n}}}}" for n in range(900)) + "\n")
    return path


def test_a_texts_perplexity_is_lm_evals(
    text: Path, config: Config, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    metrics = ["word_perplexity", "byte_perplexity", "bits_per_byte"]
    evaluator = make_evaluator(config(*({"perplexity": text, "metric": metric} for metric in metrics)), tokenizer)
    assert [(task.task, task.label, task.higher_is_better) for task in evaluator.tasks] == [
        ("wiki", metric, False) for metric in metrics
    ]
    scores = Scores(tuple(s for split in SPLITS for s in evaluator.score(model, evaluator.documents(split))))
    whole = passages(text.read_text())
    assert sum(len(evaluator.documents(split)) for split in SPLITS) == len(whole)
    instances = [type("Request", (), {"args": (passage,)})() for passage in whole]
    total = sum(HFLM(pretrained=model, tokenizer=tokenizer).loglikelihood_rolling(instances, disable_tqdm=True))
    characters = len(text.read_bytes())
    bits = scores.task(evaluator.tasks[2]).mean
    assert bits == pytest.approx(-total / characters / 0.6931471805599453, rel=1e-5)
    assert scores.task(evaluator.tasks[1]).mean == pytest.approx(2**bits, rel=1e-5)


def test_word_perplexity_is_the_default_and_texts_mix_with_tasks(
    text: Path, config: Config, tokenizer: PreTrainedTokenizerFast
) -> None:
    constraints = [{"perplexity": text, "at_most": 100.0}]
    evaluator = make_evaluator(config("choice", constraints=constraints), tokenizer)
    assert [(task.task, task.label, task.weight) for task in evaluator.tasks] == [
        ("choice", "acc", 1.0),
        ("wiki", "word_perplexity", 0.0),
    ]


def test_files_that_hold_no_text(
    tmp_path: Path, text: Path, config: Config, tokenizer: PreTrainedTokenizerFast
) -> None:
    (tmp_path / "blank.txt").write_text(" \n\n")
    (tmp_path / "binary.txt").write_bytes(b"ab\xff")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "wiki.txt").write_text("larch")
    cases = {
        "blank.txt": "perplexity of task 'blank' must be a file with text, but",
        "binary.txt": "perplexity of task 'binary' must be UTF-8, but .* is not at byte 2",
        "gone.txt": "perplexity of task 'gone' must be a file, but .* cannot be read: No such file",
        "other": "perplexity of task 'other' must be a file, but .* cannot be read: Is a directory",
    }
    for name, says in cases.items():
        with pytest.raises(InputError, match=says):
            make_evaluator(config({"perplexity": tmp_path / name}), tokenizer)
    with pytest.raises(InputError, match="but 'wiki' stands for two; give one of them another `task`"):
        make_evaluator(config({"perplexity": text}, {"perplexity": tmp_path / "other" / "wiki.txt"}), tokenizer)
    with pytest.raises(InputError, match="but 'choice' stands for two"):
        make_evaluator(config("choice", {"task": "choice", "perplexity": text}), tokenizer)

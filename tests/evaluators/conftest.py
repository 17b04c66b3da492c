"""A folder of tiny lm-eval tasks of every kind, a tokenizer, and random models of a few thousand parameters."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evomerge.evaluators import EvaluateConfig

WORDS = ["ash", "birch", "cedar", "elder", "fir", "hazel", "larch", "maple", "oak", "pine", "rowan", "willow"]
DOCUMENTS = 150

CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}"
    "{% if not (loop.last and not add_generation_prompt and continue_final_message) %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

FUNCTIONS = '''
import random

import datasets


def choice(doc, results):
    """Log-likelihood of the right choice: not rounded to right or wrong."""
    print("a task that talks")
    gold, doc["gold"] = doc["gold"], -1
    return {"loglik": results[gold][0]}


def shuffled(docs):
    """Choices in an order drawn anew at each reading from the global generator, as some of lm-eval's tasks do."""
    rows = []
    for doc in docs:
        choices = random.sample(doc["choices"], 4)
        rows.append({**doc, "choices": choices, "gold": choices.index(doc["answer"])})
    return datasets.Dataset.from_list(rows)


def text(doc, results):
    """Numbers that tell generated texts apart, however wrong they are."""
    return {"length": len(results[0]), "checksum": sum(map(ord, results[0])), "right": results[0] == doc["answer"]}


def lengths(doc, results):
    """A median's numbers, a pair for a function of all documents, and for every other document a number more."""
    odd = {"sometimes": 1.0} if len(doc["question"]) % 2 else {}
    return {"middle": len(results[0]), "parts": (len(results[0]), [doc["gold"], None]), **odd}


def spread(items):
    """Needs two documents at least, and tells tuples from lists."""
    first, second, *_ = items
    return sum(length * (gold + 1) for length, (gold, _) in items) / (len({type(item) for item in items}) * 7)


def thing(doc, results):
    return {"thing": {1, 2}}


def several(predictions, references):
    """A metric whose results have names of their own, as pass@k has."""
    return {"got@1": float(len(predictions[0])), "got@2": 2.0}


def tries(doc, results):
    return {"tries": float(len(results[0])), "checksum": float(sum(ord(c) for text in results[0] for c in text))}


def pair(doc, results):
    return {"pair": (1.0, 2.0)}


def crash(doc, results):
    raise ZeroDivisionError("no answer")
'''

QUESTIONS = """
dataset_path: json
dataset_kwargs: {data_files: {train: data/train.jsonl, test: data/test.jsonl}}
training_split: train
test_split: test
doc_to_text: "Q: {{question}}\\nA:"
doc_to_target: answer
"""

CHOICE = "output_type: multiple_choice\ndoc_to_choice: choices\ndoc_to_target: gold\n"
GENERATE = 'output_type: generate_until\ngeneration_kwargs: {until: ["\\n"], do_sample: false, max_gen_toks: 6}\n'


def mean_of(*metrics: str, higher_is_better: bool = True) -> str:
    rows = (
        f"  - {{metric: {name}, aggregation: mean, higher_is_better: {str(higher_is_better).lower()}}}"
        for name in metrics
    )
    return "metric_list:\n" + "\n".join(rows) + "\n"


TASKS = {
    "choice": f"include: base/questions.yaml\n{CHOICE}" + mean_of("acc", "acc_norm") + "tag: [tagged]\n",
    "choice_loglik": f"include: base/questions.yaml\n{CHOICE}process_results: !function functions.choice\n"
    + mean_of("loglik"),
    "generate": f"include: base/questions.yaml\n{GENERATE}process_results: !function functions.text\n"
    + mean_of("length", higher_is_better=False)
    + "  - {metric: checksum, aggregation: mean, higher_is_better: true}\n"
    + "  - {metric: right, aggregation: mean, higher_is_better: true}\n"
    + "  - {metric: middle, aggregation: median, higher_is_better: true}\n"
    + "tag: [tagged]\n",
    "exact": f"include: base/questions.yaml\n{GENERATE}"
    + mean_of("exact_match")
    + """filter_list:
  - {name: whole, filter: [{function: take_first}]}
  - {name: word, filter: [{function: regex, regex_pattern: "([a-z]+)"}, {function: take_first}]}
""",
    "loglikelihood": "include: base/questions.yaml\noutput_type: loglikelihood\n",
    "rolling": "include: base/questions.yaml\noutput_type: loglikelihood_rolling\n",
    "tries": f"include: base/questions.yaml\n{GENERATE}repeats: 3\nprocess_results: !function functions.tries\n"
    + mean_of("tries", "checksum")
    + "filter_list:\n  - {name: all, filter: [{function: take_first_k, k: 3}]}\n",
    "sampled": "include: base/questions.yaml\noutput_type: generate_until\nrepeats: 2\n"
    + 'generation_kwargs: {until: ["\\n"], do_sample: true, temperature: 1.0, max_gen_toks: 6}\n'
    + "process_results: !function functions.tries\n"
    + mean_of("checksum")
    + "filter_list:\n  - {name: all, filter: [{function: take_first_k, k: 2}]}\n",
    "shuffled": f"include: base/questions.yaml\n{CHOICE}process_docs: !function functions.shuffled\n",
    "shuffled_too": f"include: base/questions.yaml\n{CHOICE}process_docs: !function functions.shuffled\n",
    "zero_shot_only": f"include: base/questions.yaml\n{CHOICE}num_fewshot: 0\n",
    "no_training": f"include: base/questions.yaml\ntraining_split: null\n{CHOICE}",
    "unsafe": f"include: base/questions.yaml\n{CHOICE}unsafe_code: true\n",
    "pair": f"include: base/questions.yaml\n{GENERATE}process_results: !function functions.pair\n" + mean_of("pair"),
    "absent": f"include: base/questions.yaml\n{GENERATE}process_results: !function functions.pair\n" + mean_of("pear"),
    "crash": f"include: base/questions.yaml\n{GENERATE}process_results: !function functions.crash\n" + mean_of("x"),
    "endless": "include: base/questions.yaml\noutput_type: generate_until\n"
    + 'generation_kwargs: {until: ["\\n"], max_gen_toks: 4096}\n'
    + mean_of("exact_match"),
    "silent": f"include: base/questions.yaml\n{CHOICE}target_delimiter: ''\n"
    + "doc_to_choice: \"{{['a', 'b' if question.startswith('0 ') else '', 'c', 'd']}}\"\n",
    "undirected": f"include: base/questions.yaml\n{GENERATE}process_results: !function functions.text\n"
    + "metric_list:\n  - {metric: length, aggregation: mean}\n",
}

TASKS |= {
    "binary": "include: base/questions.yaml\noutput_type: multiple_choice\n"
    + 'doc_to_choice: "{{choices[:2]}}"\ndoc_to_target: "{{gold % 2}}"\nmetric_list:\n'
    + "".join(f"  - {{metric: {name}}}\n" for name in ("f1", "mcc", "brier_score", "acc")),
    "translate": f"include: base/questions.yaml\n{GENERATE}metric_list:\n"
    + "".join(f"  - {{metric: {name}}}\n" for name in ("bleu", "chrf", "ter")),
    "lengths": f"include: base/questions.yaml\n{GENERATE}process_results: !function functions.lengths\nmetric_list:\n"
    + "  - {metric: middle, aggregation: median, higher_is_better: true}\n"
    + "  - {metric: parts, aggregation: !function functions.spread, higher_is_better: false}\n"
    + "  - {metric: sometimes, aggregation: mean, higher_is_better: true}\n",
    "thing": f"include: base/questions.yaml\n{GENERATE}process_results: !function functions.thing\n"
    + "metric_list: [{metric: thing, aggregation: median, higher_is_better: true}]\n",
    "several": f"include: base/questions.yaml\n{GENERATE}metric_list:\n"
    + "  - {metric: !function functions.several, aggregation: mean, higher_is_better: false}\n",
    "some": f"include: base/questions.yaml\n{CHOICE}"
    + "dataset_kwargs: {data_files: {train: data/train.jsonl, test: data/some.jsonl}}\n",
    "unchosen": f"include: base/questions.yaml\n{CHOICE}"
    + "doc_to_choice: \"{{choices if not question.startswith('3 ') else []}}\"\n",
    "untested": f"include: base/questions.yaml\n{CHOICE}test_split: null\n",
    "validated": f"include: base/questions.yaml\n{CHOICE}test_split: null\nvalidation_split: test\n",
}

GROUPS = {
    "both": "task: [choice, generate]\naggregate_metric_list: [{metric: acc}]\n",
    "sized": "task: [choice, some]\naggregate_metric_list: [{metric: acc}]\n",
    "even": "task: [choice, some]\naggregate_metric_list: [{metric: acc, weight_by_size: false}]\n",
}

SCORING = '''
import math

import torch


def likeliest(model, tokenizer, documents):
    """Two numbers for each document."""
    assert not model.training and not torch.is_grad_enabled()
    rows = [torch.tensor([tokenizer(document["question"])["input_ids"]], device=model.device) for document in documents]
    return [{"top": model(row).logits[0, -1].max(), "words": len(document["question"].split())}
            for row, document in zip(rows, documents)]


def weight(model, tokenizer):
    """One number for the model as a whole."""
    weight.calls += 1
    print("a function that talks")
    return model.lm_head.weight.double().sum()


weight.calls = 0


def table(model, tokenizer):
    return {"first": 1, "second": 2.5}


def crash(model, tokenizer):
    raise ZeroDivisionError("no\\nanswer")


def not_a_number(model, tokenizer):
    return math.nan


def text(model, tokenizer):
    return "good"


def listed(model, tokenizer):
    return [1.0, 2.0]


def short(model, tokenizer, documents):
    return [1.0] * (len(documents) - 1)


def alone(model, tokenizer, documents):
    return 1.0


number = 3
'''


def write_documents(path: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        choices = rng.sample(WORDS, 4)
        gold = rng.randrange(4)
        question = f"{number} {' '.join(rng.choices(WORDS, k=rng.randint(1, 6)))}"
        rows.append({"question": question, "choices": choices, "gold": gold, "answer": choices[gold]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session", autouse=True)
def dataset_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower on several threads, by an order of magnitude where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Task files; their data lies beside the file that they include, named by a relative path."""
    root = tmp_path_factory.mktemp("tasks")
    data = root / "base" / "data"
    data.mkdir(parents=True)
    write_documents(data / "train.jsonl", 20, seed=1)
    write_documents(data / "test.jsonl", DOCUMENTS, seed=2)
    write_documents(data / "some.jsonl", 60, seed=3)
    (root / "base" / "questions.yaml").write_text(QUESTIONS)
    (root / "functions.py").write_text(FUNCTIONS)
    for name, text in TASKS.items():
        (root / f"{name}.yaml").write_text(f"task: {name}\n{text}")
    for name, text in GROUPS.items():
        (root / f"{name}.yaml").write_text(f"group: {name}\n{text}")
    return root


@pytest.fixture
def config(folder: Path) -> Callable[..., EvaluateConfig]:
    """A configuration on the folder's tasks."""

    def build(*tasks: Any, **settings: Any) -> EvaluateConfig:
        return EvaluateConfig.model_validate({"include_path": folder, "tasks": list(tasks), **settings})

    return build


@pytest.fixture(scope="session", autouse=True)
def scoring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A module `tiny_scoring` of functions that score models."""
    home = tmp_path_factory.mktemp("modules")
    (home / "tiny_scoring.py").write_text(SCORING)
    (home / "tiny_broken.py").write_text("import gone_for_good\n")
    sys.path.insert(0, str(home))
    yield
    sys.path.remove(str(home))


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level pairs: any text goes in and comes out; no padding token, so that setting one would show."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    core.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    made.chat_template = CHAT_TEMPLATE
    return made


def random_model(seed: int, vocabulary: int = 300, positions: int = 512) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    settings = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.4,
        bos_token_id=0,
        eos_token_id=1,
    )
    return LlamaForCausalLM(settings).eval()


@pytest.fixture
def model() -> LlamaForCausalLM:
    return random_model(0)

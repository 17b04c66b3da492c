"""What scoring costs beside the forward passes alone, and beside `lm_eval.evaluate`, on tasks of several kinds.

    python benchmarks/score.py --case FOLDER [--documents 64] [--repeat 3]

FOLDER has a checkpoint `base/` and `tasks/math.jsonl`, whose lines have `input`, `target` and `choices`; without it
only a tiny random Llama is measured. `forward_only_s` is the time inside of the model's calls while ours scores, by
hooks around the model; `ours_s` is all of the same call; `harness_s` is `lm_eval.evaluate` with tasks loaded,
`batch_size=32` and `bootstrap_iters=0`. Ways take turns, and medians are given. `max_difference` is the largest over
documents, of their metrics and of the log-likelihoods of their requests. Prints a table, and one JSON object last.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lm_eval import evaluator as harness
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from evomerge.evaluators import EvaluateConfig, LmEval
from evomerge.evaluators.quiet import quiet

QUESTIONS = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}, train: {examples}}}}}
test_split: test
fewshot_split: train
doc_to_text: "Question: {{{{input}}}}\\nAnswer:"
"""
CHOICE = """
output_type: multiple_choice
doc_to_choice: options
doc_to_target: gold
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
GENERATE = """
output_type: generate_until
doc_to_target: "{{target}}"
generation_kwargs: {until: ["\\n"], do_sample: false, max_gen_toks: 16}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
ROLLING = """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{passage}}"
metric_list: [{metric: bits_per_byte}]
"""
CASES = {
    "choice, 0 examples": ("choice", CHOICE, 0, ""),
    "choice, 5 fixed examples": ("fixed", CHOICE, 5, "fewshot_config: {sampler: first_n}\n"),
    "choice, 5 drawn examples": ("drawn", CHOICE, 5, ""),
    "generation": ("generate", GENERATE, 0, ""),
    "rolling perplexity": ("rolling", ROLLING, 0, ""),
}


def write_tasks(folder: Path, rows: list[dict[str, Any]], documents: int) -> None:
    """Tasks on some rows, with others as worked examples; passages are rows put together."""
    prepared = []
    for place, row in enumerate(rows):
        others = [choice for choice in row["choices"] if choice != row["target"]][:3]
        gold = place % 4
        options = [*others[:gold], row["target"], *others[gold:]]
        passage = "\n".join(f"{each['input']} {each['target']}" for each in rows[place : place + 12])
        prepared.append({**row, "options": options, "gold": gold, "passage": passage})
    for name, part in (("data", prepared[:documents]), ("examples", prepared[documents : documents + 40])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    for task, kind, _, more in CASES.values():
        head = QUESTIONS.format(data=folder / "data.jsonl", examples=folder / "examples.jsonl")
        text = head.replace('doc_to_text: "Question: {{input}}\\nAnswer:"\n', "") if kind is ROLLING else head
        (folder / f"{task}.yaml").write_text(f"task: {task}\n{text}{kind}{more}")


def random_rows(count: int) -> list[dict[str, Any]]:
    """Sums, where there is no case."""
    rows = []
    for place in range(count):
        first, second = 17 * place % 89, 31 * place % 97
        choices = [str(first + second + step) for step in (0, 1, -1, 10)]
        rows.append({"input": f"What is {first} plus {second}?", "target": choices[0], "choices": choices})
    return rows


def random_model(vocabulary: int) -> Any:
    """A Llama of half a million parameters in float32."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=vocabulary, max_position_embeddings=2048, initializer_range=0.2, **sizes)
    return AutoModelForCausalLM.from_config(config).eval()


def random_tokenizer() -> Any:
    """Bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({**{token: i + 2 for i, token in enumerate(alphabet)}, "<s>": 0, "</s>": 1}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


@contextmanager
def inside(model: torch.nn.Module) -> Iterator[list[float]]:
    """Seconds of each call of the model in the block."""
    times: list[float] = []
    begun: list[float] = []

    def before(*_: Any) -> None:
        synchronize()
        begun.append(time.perf_counter())

    def after(*_: Any) -> None:
        synchronize()
        times.append(time.perf_counter() - begun.pop())

    handles = [model.register_forward_pre_hook(before), model.register_forward_hook(after)]
    try:
        yield times
    finally:
        for handle in handles:
            handle.remove()


def synchronize() -> None:
    """Wait for a GPU."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def timed(do: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    start = time.perf_counter()
    result = do()
    synchronize()
    return time.perf_counter() - start, result


def measure(model: Any, tokenizer: Any, folder: Path, case: str, documents: int, repeat: int) -> dict[str, Any]:
    """One case on one model."""
    task, _, shots, _ = CASES[case]
    splits = {"search": 1.0, "select": 0.0, "report": 0.0}
    config = EvaluateConfig.model_validate(
        {
            "include_path": folder,
            "tasks": [{"task": task, "num_fewshot": shots}],
            "splits": splits,
            "racing": False,
        }
    )
    ours = LmEval(config, tokenizer)
    chunks = ours.chunks("search")

    def score(weights: int) -> list[Any]:
        return [score for chunk in chunks for score in ours.score(model, chunk, f"weights {weights}")]

    loaded = TaskManager(include_path=str(folder), include_defaults=False).load([task])
    loaded["tasks"][task].set_config("num_fewshot", shots)
    live = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=32)

    def evaluate() -> dict[str, Any]:
        loaded["tasks"][task].set_fewshot_seed(1234)
        with quiet():
            return dict(harness.evaluate(live, loaded, bootstrap_iters=0))

    score(-1)
    whole, within, theirs = [], [], []
    for turn in range(repeat):
        with inside(model) as times:
            seconds, scores = timed(lambda turn=turn: score(turn))
        whole.append(seconds)
        within.append(sum(times))
        seconds, results = timed(evaluate)
        theirs.append(seconds)
    forward_s, ours_s, harness_s = (statistics.median(times) for times in (within, whole, theirs))
    return {
        "case": case,
        "model": f"{type(model).__name__}, {sum(p.numel() for p in model.parameters()) / 1e6:.1f}M, {model.dtype}",
        "documents": documents,
        "forward_only_s": round(forward_s, 4),
        "harness_s": round(harness_s, 4),
        "ours_s": round(ours_s, 4),
        "overhead": round(statistics.median(w / f for w, f in zip(whole, within, strict=True)), 3),
        "speedup": round(harness_s / ours_s, 2),
        "max_difference": differences(ours, task, scores, results["samples"][task]),
    }


def differences(ours: LmEval, task: str, scores: list[Any], samples: list[dict[str, Any]]) -> dict[str, float]:
    """The largest over documents: of the metric's value, and of the log-likelihoods that it was made of."""
    index = {document.key: document.index for document in ours.documents("search")}
    by_index = {sample["doc_id"]: sample for sample in samples}
    metric = 0.0
    likelihood = 0.0
    for score in scores:
        sample = by_index[index[score.document]]
        expected = sample[score.metric]
        if not isinstance(expected, tuple):
            metric = max(metric, abs(score.value - float(expected)))
        for instance, response in zip(ours.prepared[task].requests[score.document], sample["resps"], strict=True):
            (own,), (other,) = instance.resps, response
            if not isinstance(own, str):
                own, other = (pair[0] if isinstance(pair, tuple) else pair for pair in (own, other))
                likelihood = max(likelihood, abs(own - float(other)))
    return {"metric": metric, "loglikelihood": likelihood}


def show(row: dict[str, Any]) -> None:
    """A row of the table."""
    keys = ("case", "documents", "forward_only_s", "harness_s", "ours_s", "overhead", "speedup")
    print(" | ".join(str(row[key]) for key in keys), "|", row["max_difference"], "|", row["model"], flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=Path)
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--only", help="cases whose name has this in it")
    given = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    tiny = random_tokenizer()
    subjects = [(random_model(len(tiny)), tiny, random_rows(given.documents + 60))]
    if given.case is None:
        print("no --case: the trained model is left out", file=sys.stderr)
    else:
        model = AutoModelForCausalLM.from_pretrained(given.case / "base", dtype=getattr(torch, given.dtype)).eval()
        rows = [json.loads(line) for line in (given.case / "tasks" / "math.jsonl").read_text().splitlines()]
        subjects.append((model, AutoTokenizer.from_pretrained(given.case / "base"), rows))
    told = []
    print("case | documents | forward_only_s | harness_s | ours_s | overhead | speedup | max_difference | model")
    for model, tokenizer, rows in subjects:
        model.to(given.device)
        with tempfile.TemporaryDirectory(prefix="evomerge-bench-") as name:
            write_tasks(Path(name), rows, given.documents)
            for case in CASES:
                if given.only is None or given.only in case:
                    told.append(measure(model, tokenizer, Path(name), case, given.documents, given.repeat))
                    show(told[-1])
    versions = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": given.device}
    print(json.dumps({"cases": told, **versions}))


if __name__ == "__main__":
    main()

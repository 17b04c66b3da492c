"""Well-known benchmarks: whose test split must not be searched on, and what there is in its place."""

from __future__ import annotations

import re
from typing import NamedTuple


class Benchmark(NamedTuple):
    """A benchmark whose results are published.

    Attributes:
        title: as papers call it.
        published: the split that published results are on.
        instead: what a search may use.
    """

    title: str
    published: str
    instead: str


_TRAIN = "its train split"

KNOWN: dict[str, Benchmark] = {
    r"aime": Benchmark("AIME", "test", "problems of earlier years"),
    r"agieval": Benchmark("AGIEval", "test", "other exams"),
    r"anli": Benchmark("ANLI", "test", _TRAIN),
    r"arc_(easy|challenge)": Benchmark("ARC", "test", _TRAIN),
    r"bbh|bigbench_hard": Benchmark("BIG-Bench Hard", "test", "tasks of BIG-bench that are not in it"),
    r"blimp": Benchmark("BLiMP", "test", "other pairs"),
    r"boolq": Benchmark("BoolQ", "validation", _TRAIN),
    r"ceval": Benchmark("C-Eval", "test", "its validation split"),
    r"cmmlu": Benchmark("CMMLU", "test", "its dev split"),
    r"commonsense_qa": Benchmark("CommonsenseQA", "validation", _TRAIN),
    r"drop": Benchmark("DROP", "validation", _TRAIN),
    r"gpqa": Benchmark("GPQA", "test", "other exams; it has no further questions"),
    r"gsm8k|gsm_plus": Benchmark("GSM8K", "test", _TRAIN),
    r"hellaswag": Benchmark("HellaSwag", "validation", _TRAIN),
    r"hendrycks_math|minerva_math|math_500": Benchmark("MATH", "test", _TRAIN),
    r"humaneval": Benchmark("HumanEval", "test", "mbpp's train split; it has no further problems"),
    r"ifeval": Benchmark("IFEval", "train", "other instructions; it has one split, on which results are published"),
    r"include_base": Benchmark("INCLUDE", "test", "its validation split"),
    r"lambada": Benchmark("LAMBADA", "test", _TRAIN),
    r"mathqa": Benchmark("MathQA", "test", _TRAIN),
    r"mbpp": Benchmark("MBPP", "test", _TRAIN),
    r"mgsm": Benchmark("MGSM", "test", "GSM8K's train split, translated"),
    r"mmlu_pro": Benchmark("MMLU-Pro", "test", "its validation split"),
    r"mmlu|global_mmlu|kmmlu|jmmlu": Benchmark("MMLU", "test", "its auxiliary train split"),
    r"musr": Benchmark("MuSR", "test", "stories generated anew"),
    r"nq_open": Benchmark("Natural Questions", "validation", _TRAIN),
    r"openbookqa": Benchmark("OpenBookQA", "test", _TRAIN),
    r"piqa": Benchmark("PIQA", "validation", _TRAIN),
    r"sciq": Benchmark("SciQ", "test", _TRAIN),
    r"squad": Benchmark("SQuAD", "validation", _TRAIN),
    r"social_iqa|siqa": Benchmark("Social IQa", "validation", _TRAIN),
    r"triviaqa": Benchmark("TriviaQA", "validation", _TRAIN),
    r"truthfulqa": Benchmark("TruthfulQA", "validation", "other questions; it has one split"),
    r"wikitext": Benchmark("WikiText", "test", _TRAIN),
    r"winogrande": Benchmark("WinoGrande", "validation", _TRAIN),
    r"xcopa": Benchmark("XCOPA", "test", "its validation split"),
    r"xnli": Benchmark("XNLI", "validation", _TRAIN),
    r"xstorycloze": Benchmark("XStoryCloze", "eval", _TRAIN),
    r"xwinograd": Benchmark("XWinograd", "test", "WinoGrande's train split"),
}  # fmt: skip
"""By how the names of lm-eval's tasks begin; the first that fits counts."""


def benchmark(task: str) -> Benchmark | None:
    """The benchmark that a task's name stands for: its own, or with a language, a subject or a variant behind it."""
    for pattern, known in KNOWN.items():
        if re.match(rf"({pattern})(?![a-z])", task):
            return known
    return None


def on_published(known: Benchmark, scored: str | None) -> bool:
    """Whether a task that is scored on the split `scored` is scored on what results are published of.

    Args:
        known: the benchmark.
        scored: as the task's file names it; None: not known, so as lm-eval's own task has it.
    """
    return scored is None or scored.startswith(known.published[:4])

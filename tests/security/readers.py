"""Every reader of files and databases with sound inputs to spoil, by name."""

from __future__ import annotations

import json
import random
import struct
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.security.fuzzing import Reader
from tests.security.mutations import as_json, as_yaml, changed, safetensors, spoiled

READERS: dict[str, Reader] = {}


def reader(function: Reader) -> Reader:
    READERS[function.__name__] = function
    return function


def tensors(*names: str, shape: tuple[int, ...] = (4, 2)) -> dict[str, Any]:
    """A header of float32 tensors of one shape."""
    size = 4 * shape[0] * shape[1]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for place, name in enumerate(names):
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [place * size, (place + 1) * size]}
    return header


def sound(header: dict[str, Any]) -> bytes:
    """A safetensors file of that header, with zeros."""
    text = json.dumps(header).encode()
    size = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    return struct.pack("<Q", len(text)) + text + bytes(size)


def spoiled_tensors(header: dict[str, Any], rng: random.Random) -> bytes:
    if rng.random() < 0.2:
        return spoiled(spoiled(sound(header), rng), rng)
    text = as_json(changed(header, rng), rng)
    payload = len(sound(header)) - 8 - len(json.dumps(header).encode())
    return safetensors(text, len(text), payload, rng)


def empty(folder: Path) -> Path:
    """A folder without files."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    return folder


@reader
def header(rng: random.Random, home: Path) -> None:
    from evomerge.engine.headers import read_header

    path = home / "model.safetensors"
    path.write_bytes(spoiled_tensors(tensors("a.weight", "b.weight", "c"), rng))
    read_header(path)


LAYERS = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight")
INDEX = {
    "metadata": {"total_size": 96},
    "weight_map": {name: f"model-0000{place + 1}-of-00003.safetensors" for place, name in enumerate(LAYERS)},
}


@reader
def index(rng: random.Random, home: Path) -> None:
    from evomerge.engine.checkpoint import Checkpoint
    from evomerge.engine.recipe import ModelRef

    folder = empty(home / "sharded")
    for name, file in INDEX["weight_map"].items():
        (folder / file).write_bytes(sound(tensors(name)))
    (folder / "model.safetensors.index.json").write_bytes(as_json(changed(INDEX, rng), rng))
    Checkpoint(ModelRef(model=str(folder)), folder)


@cache
def configs() -> list[dict[str, Any]]:
    from transformers import GPT2Config, LlamaConfig, MixtralConfig, Qwen2Config

    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    classes = (LlamaConfig, Qwen2Config, MixtralConfig)
    found = [each(vocab_size=16, intermediate_size=8, **sizes) for each in classes]
    found.append(GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=16))
    return [json.loads(each.to_json_string(use_diff=False)) for each in found]


def model(folder: Path) -> Path:
    """A small checkpoint's files, without a tokenizer."""
    empty(folder)
    (folder / "model.safetensors").write_bytes(sound(tensors(*LAYERS)))
    (folder / "config.json").write_text(json.dumps(configs()[0]))
    return folder


@reader
def config_json(rng: random.Random, home: Path) -> None:
    from evomerge.engine.checkpoint import Checkpoint
    from evomerge.engine.recipe import ModelRef

    folder = model(home / "config")
    (folder / "config.json").write_bytes(as_json(changed(rng.choice(configs()), rng), rng))
    checkpoint = Checkpoint(ModelRef(model=str(folder)), folder)
    assert checkpoint.pretrained_config is not None


ADAPTER = {
    "peft_type": "LORA", "base_model_name_or_path": "x/base", "r": 1, "lora_alpha": 2, "bias": "none",
    "use_rslora": False,
    "target_modules": ["up_proj"], "rank_pattern": {"layers.1.mlp.up_proj": 1}, "alpha_pattern": {"up_.*": 3},
    "init_lora_weights": True, "use_dora": False, "fan_in_fan_out": False, "modules_to_save": None,
}  # fmt: skip


def _factors() -> dict[str, Any]:
    found: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for layer in range(2):
        for side, shape in (("A", [1, 2]), ("B", [4, 1])):
            size = 4 * shape[0] * shape[1]
            name = f"base_model.model.model.layers.{layer}.mlp.up_proj.lora_{side}.weight"
            found[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, start + size]}
            start += size
    return found


@reader
def adapter(rng: random.Random, home: Path) -> None:
    from evomerge.engine.adapter import AdaptedCheckpoint
    from evomerge.engine.recipe import ModelRef

    folder, place = home / "base", empty(home / "adapter")
    if not folder.is_dir():
        model(folder)
    settings = rng.random() < 0.6
    (place / "adapter_config.json").write_bytes(as_json(changed(ADAPTER, rng) if settings else ADAPTER, rng))
    weights = sound(_factors()) if settings and rng.random() < 0.8 else spoiled_tensors(_factors(), rng)
    (place / "adapter_model.safetensors").write_bytes(weights)
    adapted = AdaptedCheckpoint(ModelRef(model=str(folder), adapter=str(place)), folder, place)
    for name in list(adapted.headers)[:4]:
        adapted.tensor(name)


def gguf_bytes() -> bytes:
    def text(words: str) -> bytes:
        return struct.pack("<Q", len(words)) + words.encode()

    settings = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("general.alignment") + struct.pack("<II", 4, 32),
        text("llama.block_count") + struct.pack("<II", 4, 2),
        text("llama.embedding_length") + struct.pack("<II", 4, 32),
        text("llama.rope.freq_base") + struct.pack("<If", 6, 1e4),
        text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 3) + text("a") + text("b") + text("c"),
        text("tokenizer.ggml.scores") + struct.pack("<IIQ3f", 9, 6, 3, 0, 1, 2),
        text("nested") + struct.pack("<IIQIQ2B", 9, 9, 1, 0, 2, 1, 2),
    ]
    shapes = [("token_embd.weight", 0, 0), ("blk.0.ffn_up.weight", 8, 1024), ("output.weight", 1, 1088 + 32)]
    infos = [text(name) + struct.pack("<IQQIQ", 2, 32, 8 if not kind else 2, kind, at) for name, kind, at in shapes]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(settings)) + b"".join(settings) + b"".join(infos)
    return head + bytes(-len(head) % 32) + bytes(2048)


GGUF = gguf_bytes()


@reader
def gguf(rng: random.Random, home: Path) -> None:
    from evomerge.engine.gguf_header import check_gguf

    data = bytearray(GGUF)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(min(len(data), 640) - 8)
        kind = rng.randrange(4)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            struct.pack_into("<Q", data, at, rng.choice((0, 1, 2**31, 2**32, 2**40, 2**62, 2**63, 2**64 - 1)))
        elif kind == 2:
            struct.pack_into("<I", data, at, rng.randrange(16) if rng.random() < 0.7 else 2**32 - 1)
        else:
            del data[at : at + rng.choice((1, 4, 8))]
    path = home / "model.gguf"
    path.write_bytes(spoiled(bytes(data), rng))
    check_gguf(path)


RECIPE = {
    "base": {"model": "./base", "name": "base"},
    "experts": [{"model": "./math", "name": "math"}, {"model": "x/lang", "revision": "main", "adapter": "./lora"}],
    "method": "ties",
    "groups": [
        {
            "layers": [0, 2],
            "modules": "attention",
            "parameters": {"weight": {"math": 0.5, "lora": 1.0}, "density": 0.3},
        },
        {"layers": "all", "modules": "mlp.*", "parameters": {"weight": 0.5}},
        {"parameters": {}},
    ],
    "options": {"normalize": True},
    "dtype": "bfloat16",
    "tokenizer": "union",
    "seed": 3,
    "stack": [{"layer": 0}, {"layer": 1, "source": "math", "scale": 1.5}],
}


@reader
def recipe(rng: random.Random, home: Path) -> None:
    from evomerge.search.recipes import read_recipe

    path = home / rng.choice(("recipe.yaml", "recipe.json"))
    path.write_bytes(as_yaml(changed(RECIPE, rng), rng))
    read_recipe(path).digest  # noqa: B018


MERGEKIT: list[dict[str, Any]] = [
    {
        "merge_method": "dare_ties", "base_model": "./base", "dtype": "float16", "tokenizer_source": "base",
        "models": [
            {"model": "./base"},
            {"model": "./math", "parameters": {"weight": 0.5, "density": [0.1, 0.9]}},
            {"model": "x/y@main+./lora", "parameters": {"weight": [{"filter": "mlp", "value": [0, 1]},
            {"value": 0.3}]}},
        ],
        "parameters": {"normalize": True, "int8_mask": True, "rescale": False},
    },
    {
        "merge_method": "passthrough", "dtype": "bfloat16",
        "slices": [
            {"sources": [{"model": "./a", "layer_range": [0, 4]}]},
            {"sources": [{"model": "./b", "layer_range": [2, 6]}]},
        ],
    },
    {
        "merge_method": "slerp", "base_model": "./a", "dtype": "float32", "parameters": {"t": [0, 0.5, 1]},
        "slices": [{"sources": [{"model": "./a", "layer_range": [0, 4]}, {"model": "./b", "layer_range": [0, 4]}]}],
    },
    {"merge_method": "linear", "models": [{"model": "./a", "parameters": {"weight": 1}}], "out_dtype": "bfloat16"},
]  # fmt: skip


@reader
def mergekit(rng: random.Random, home: Path) -> None:
    from evomerge.search.recipes import read_recipe

    path = home / "mergekit.yaml"
    path.write_bytes(as_yaml(changed(rng.choice(MERGEKIT), rng), rng))
    read_recipe(path).digest  # noqa: B018


SEARCH = {
    "name": "math-and-language",
    "models": {"base": "./zoo/base", "experts": ["./zoo/math", {"model": "./zoo/base", "adapter": "./l",
    "name": "lang"}]},
    "merge": {"method": ["ties", "linear"], "dtype": "bfloat16", "tokenizer": "base", "options": {"normalize": True}},
    "space": {"layers": "blocks", "blocks": 5, "modules": ["attention", "mlp", "other"], "weight": [0.0, 1.2]},
    "evaluate": {
        "include_path": "./tasks",
        "tasks": [{"task": "math", "metric": "exact_match,strict", "weight": 1.0, "num_fewshot": 0}, "lang",
                  {"perplexity": "a.txt"}, {"function": "a.b:c", "documents": "d.jsonl"}],
        "objective": "mean",
        "constraints": [{"task": "bbq", "metric": "acc", "at_least": "base", "margin": 0.02}],
        "splits": {"search": 0.4, "select": 0.2, "report": 0.4},
        "limit": 600, "batch_size": "auto", "racing": {"error": 0.2, "margin": 0.0}, "guard": 10.0,
    },
    "search": {"sampler": "auto", "sampler_options": {"a": 1}, "trials": 60, "timeout": "30m", "seed": 0,
               "warm_start": ["uniform", "./r.yaml"], "stop": "auto", "compare": "random"},
    "runtime": {"device": "cuda:0", "workers": 2, "storage": "postgresql+psycopg://u@h/d", "memory_limit": "16GB",
                "launcher": "ray", "trackers": ["wandb"]},
}  # fmt: skip


@reader
def search_config(rng: random.Random, home: Path) -> None:
    from evomerge.search.config import load_config

    path = home / "search.yaml"
    path.write_bytes(as_yaml(changed(SEARCH, rng), rng))
    overrides = (
        [f"search.trials={spoiled(b'[1, {a: 2}]', rng).decode('utf-8', 'replace')}"] if rng.random() < 0.2 else []
    )
    load_config(path, overrides)


@reader
def database(rng: random.Random, home: Path) -> None:
    """What a study's attributes say: its configuration, what it measures, and the recipes of trials."""
    from evomerge.search.study import CONFIG, MEASURED, study_config, study_tasks, trial_recipe
    from evomerge.search.study import RECIPE as KEY

    part = rng.randrange(3)
    if part == 0:
        text = as_json(changed(RECIPE, rng), rng).decode("utf-8", "replace")
        trial_recipe(SimpleNamespace(number=3, state=SimpleNamespace(name="COMPLETE"), user_attrs={KEY: text}))  # type: ignore[arg-type]
    elif part == 1:
        study_config(SimpleNamespace(study_name="s", user_attrs={CONFIG: changed(SEARCH, rng)}))  # type: ignore[arg-type]
    else:
        told = [{"task": "a", "metric": "acc", "filter": "none", "higher_is_better": True, "weight": 1.0}]
        study_tasks(SimpleNamespace(study_name="s", user_attrs={MEASURED: changed(told, rng)}))  # type: ignore[arg-type]


TASK = {
    "task": "quiz", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "test.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_target": "answer", "tag": ["a", "b"],
    "doc_to_choice": "{{choices}}", "metric_list": [{"metric": "acc", "aggregation": "mean",
    "higher_is_better": True}],
    "include": "_base", "metadata": {"version": 1.0}, "fewshot_config": {"sampler": "first_n"}, "num_fewshot": 0,
}  # fmt: skip


@reader
def task_file(rng: random.Random, home: Path) -> None:
    from evomerge.evaluators.confinement import read_task_file

    folder = empty(home / "tasks")
    (folder / "_base").write_text("description: x\n")
    path = folder / "quiz.yaml"
    path.write_bytes(as_yaml(changed(TASK, rng), rng))
    read_task_file(path, [folder])


@reader
def documents(rng: random.Random, home: Path) -> None:
    from evomerge.evaluators.files import read_documents

    path = home / rng.choice(("d.jsonl", "d.txt"))
    tree = {"question": "What?", "choices": ["a", "b"], "answer": 1, "more": {"x": [1, 2.5, None]}}
    path.write_bytes(b"\n".join(as_json(changed(tree, rng), rng) for _ in range(3)))
    read_documents(path, "documents of task 'x'")


@cache
def tokenizer_json() -> dict[str, Any]:
    from tests.engine.tiny import tokenizer

    found: dict[str, Any] = json.loads(tokenizer().backend_tokenizer.to_str())
    return found


@reader
def tokenizer(rng: random.Random, home: Path) -> None:
    from evomerge.engine.checkpoint import Checkpoint
    from evomerge.engine.recipe import ModelRef

    folder = model(home / "tokens")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "chat_template": "{{ messages }}",
                "added_tokens_decoder": {"0": {"content": "<unk>", "special": True}},
                "model_max_length": 32}  # fmt: skip
    first = rng.random() < 0.6
    tree = tokenizer_json()
    (folder / "tokenizer.json").write_bytes(as_json(changed(tree, rng), rng) if first else json.dumps(tree).encode())
    (folder / "tokenizer_config.json").write_bytes(as_json(settings if first else changed(settings, rng), rng))
    Checkpoint(ModelRef(model=str(folder)), folder).tokenizer()


EXPRESSIONS = (
    "q", "n", "choices", "'a'", "10**3", "99999", "range(9)", "''.__class__", "q.upper()", "q.format(n)",
    "namespace(x=1)",
    "self", "cycler", "dict(a=1)", "none", "[1, q]", "{'a': q}", "q[0]", "choices[::-1]", "q.join(choices)",
    "undefined_name",
)  # fmt: skip
FILTERS = ("upper", "join(', ')", "center(99999999)", "list", "string", "length", "replace('a', q)", "tojson",
"batch(3)",
           "attr('__class__')", "map('upper')", "sort", "indent(99999)", "format(n)", "regex_replace('a', q)",
           "xmlattr",
           "default(q)", "wordwrap(1)", "groupby('x')", "sum", "int", "urlize", "slice(9)", "pprint",
           "random")  # fmt: skip


OPERATORS = ("+", "*", "**", "~", "%", "//", "in", "and", "==")
ATTRIBUTES = ("x", "items()", "__class__", "split()", "format", "__init__", "real")


def _expression(rng: random.Random, depth: int = 0) -> str:
    kind = rng.randrange(4) if depth < 4 else 0
    if kind == 0:
        return rng.choice(EXPRESSIONS)
    left = _expression(rng, depth + 1)
    if kind == 1:
        return f"{left}|{rng.choice(FILTERS)}"
    if kind == 2:
        return f"({left} {rng.choice(OPERATORS)} {_expression(rng, depth + 1)})"
    return f"{left}.{rng.choice(ATTRIBUTES)}"


def _template(rng: random.Random, depth: int = 0) -> str:
    kind = rng.randrange(6) if depth < 3 else 0
    inner = _template(rng, depth + 1) if kind else ""
    ways = (
        f"{{{{ {_expression(rng)} }}}}",
        f"{{% for x in {_expression(rng)} %}}{inner}{{{{ x }}}}{{% endfor %}}",
        f"{{% set y %}}{inner}{inner}{{% endset %}}{{{{ y ~ y }}}}",
        f"{{% macro m(a) %}}{inner}{{{{ m(a) if a else a }}}}{{% endmacro %}}{{{{ m({_expression(rng)}) }}}}",
        f"{{% if {_expression(rng)} %}}{inner}{{% endif %}}",
        f"{inner}{_template(rng, depth + 1)}" if kind else "",
    )
    return ways[kind]


@reader
def template(rng: random.Random, home: Path) -> None:
    """Templates that the sandbox lets run may fail in jinja2's own words; who loads the task puts them in a line."""
    from jinja2 import TemplateError

    from evomerge.errors import InputError
    from evomerge.evaluators.templates import sandbox_templates

    sandbox_templates()
    from lm_eval import utils

    text = spoiled(_template(rng).encode(), rng).decode("utf-8", "replace")
    try:
        utils.apply_template(text, {"q": "What?", "n": 3, "choices": ["a", "b"]})
    except InputError:
        raise
    except (TemplateError, TypeError, ValueError, AttributeError, ArithmeticError, LookupError) as error:
        raise InputError(f"a template must render, but {' '.join(str(error).split())!r:.200}") from None


def prepare(name: str) -> None:
    """Load what a reader's libraries load late."""
    if name not in ("config_json", "adapter", "tokenizer"):
        return
    from transformers import AutoConfig, AutoTokenizer

    assert AutoConfig is not None
    assert AutoTokenizer is not None
    configs()
    tokenizer_json()

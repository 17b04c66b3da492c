"""Make the quickstart's base model, three experts and task data. Deterministic for one build of torch.

    python train.py [--seed 0] [--out FOLDER]

Every prompt and answer is a row of space-separated symbols, each a token of its own. The base learns the formats of all
skills on easy or meaningless examples, so that its experts share a basin; each expert then learns one skill in full:

    reverse   five letters backwards                     "reverse q d x a m =" -> "m a x d q"
    add       two numbers below 100                      "4 7 + 3 8 ="         -> "0 8 5"
    facts     100 made-up creatures, 4 properties each   "color b a d ="       -> one of "red", "green", "blue", "white"
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LETTERS = list("abcdefghijklmnopqrstuvwxyz")
PROPERTIES = {
    "color": ["red", "green", "blue", "white"],
    "home": ["sea", "forest", "desert", "river"],
    "food": ["grass", "fish", "seeds", "roots"],
    "size": ["tiny", "small", "large", "huge"],
}
VALUES = [value for values in PROPERTIES.values() for value in values]
VOCABULARY = ["<pad>", "</s>", *"0123456789+=", *LETTERS, "reverse", "copy", *PROPERTIES, *VALUES]
IDS = {token: index for index, token in enumerate(VOCABULARY)}
PAD, END = IDS["<pad>"], IDS["</s>"]

LENGTH = 5  # letters of a word to reverse
BATCH = 128


class Example(NamedTuple):
    """A prompt and its answer, in tokens."""

    prompt: list[str]
    answer: list[str]


class Schedule(NamedTuple):
    """How one model is trained; `rehearsal` is the share of the base's easy examples."""

    steps: int
    rate: float
    rehearsal: float = 0.0


BASE = Schedule(steps=1500, rate=2e-3)
EXPERTS = {
    "reverse": Schedule(steps=200, rate=1e-3, rehearsal=0.5),
    "add": Schedule(steps=600, rate=1e-3, rehearsal=0.5),
    "facts": Schedule(steps=300, rate=1.5e-3, rehearsal=0.5),
}
DOCUMENTS = {"reverse": 400, "add": 400, "facts": 400}

Source = Callable[[random.Random], Example]


def reverse(chance: random.Random, length: int) -> Example:
    """A random word backwards."""
    word = [chance.choice(LETTERS) for _ in range(length)]
    return Example(["reverse", *word, "="], word[::-1])


def copy(chance: random.Random, length: int) -> Example:
    """A random word as it is."""
    word = [chance.choice(LETTERS) for _ in range(length)]
    return Example(["copy", *word, "="], word)


def add(chance: random.Random, highest: int) -> Example:
    """Two numbers from 0 to `highest`, two digits each, and their sum in three."""
    first, second = chance.randint(0, highest), chance.randint(0, highest)
    return Example([*f"{first:02d}", "+", *f"{second:02d}", "="], [*f"{first + second:03d}"])


def all_facts(seed: int) -> list[Example]:
    """400 facts: each property of each of 100 creatures."""
    chance = random.Random(seed)
    names = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in "bdfgklmnprst"]
    return [
        Example([kind, *name, "="], [chance.choice(values)])
        for name in chance.sample(names, 100)
        for kind, values in PROPERTIES.items()
    ]


def easy(facts: list[Example]) -> Source:
    """What the base learns: all formats, with words and numbers too small to be the skills, and facts at random."""

    def draw(chance: random.Random) -> Example:
        skill = chance.choice(["copy", "reverse", "reverse", "add", "facts"])
        if skill == "copy":
            return copy(chance, chance.randint(1, LENGTH))
        if skill == "reverse":
            return reverse(chance, chance.randint(1, LENGTH - 2))
        if skill == "add":
            return add(chance, 19)
        kind, *rest = chance.choice(facts).prompt
        return Example([kind, *rest], [chance.choice(PROPERTIES[kind])])

    return draw


def skills(facts: list[Example]) -> dict[str, Source]:
    """What each expert learns."""
    return {
        "reverse": lambda chance: reverse(chance, LENGTH),
        "add": lambda chance: add(chance, 99),
        "facts": lambda chance: chance.choice(facts),
    }


def documents(skill: str, draw: Source, facts: list[Example], seed: int) -> list[Example]:
    """The test data of a skill, no document twice."""
    if skill == "facts":
        return facts
    chance = random.Random(f"{skill} {seed}")
    found: dict[str, Example] = {}
    while len(found) < DOCUMENTS[skill]:
        example = draw(chance)
        found[" ".join(example.prompt)] = example
    return list(found.values())


def batch(draw: Source, chance: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, each [BATCH, longest]; labels are -100 on prompts and padding."""
    examples = [draw(chance) for _ in range(BATCH)]
    rows = [[IDS[token] for token in [*example.prompt, *example.answer]] + [END] for example in examples]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
    labels = ids.clone()
    for index, (example, row) in enumerate(zip(examples, rows, strict=True)):
        labels[index, : len(example.prompt)] = -100
        labels[index, len(row) :] = -100
    return ids, labels


def train(model: LlamaForCausalLM, draw: Source, schedule: Schedule, seed: int, label: str) -> None:
    """AdamW with a linear warm-up and decay."""
    chance, began = random.Random(seed), time.time()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.rate, weight_decay=0.0, betas=(0.9, 0.98))
    for step in range(schedule.steps):
        pace = min(1.0, (step + 1) / 30) * max(0.05, 1 - step / schedule.steps)
        optimizer.param_groups[0]["lr"] = schedule.rate * pace
        ids, labels = batch(draw, chance)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = F.cross_entropy(logits.reshape(-1, len(VOCABULARY)), labels[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"{label} step {step + 1}: loss {loss.item():.3f}, {time.time() - began:.0f} s", flush=True)


def new_model(seed: int) -> LlamaForCausalLM:
    """About a million parameters."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=160,
            intermediate_size=320,
            num_hidden_layers=4,
            num_attention_heads=5,
            num_key_value_heads=5,
            max_position_embeddings=64,
            rope_theta=1000.0,
            initializer_range=0.05,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            bos_token_id=None,
            eos_token_id=END,
        )
    )


def new_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each symbol between spaces."""
    words = Tokenizer(WordLevel(IDS, unk_token="<pad>"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", model_max_length=64, padding_side="left"
    )


@torch.inference_mode()
def accuracy(model: LlamaForCausalLM, examples: list[Example]) -> float:
    """The share of documents whose whole answer, with its end, is the likeliest at every token."""
    prompts = len(examples[0].prompt)
    ids = torch.tensor([[IDS[token] for token in [*each.prompt, *each.answer]] + [END] for each in examples])
    guesses = model(input_ids=ids, use_cache=False).logits[:, prompts - 1 : -1].argmax(-1)
    return float((guesses == ids[:, prompts:]).all(1).float().mean())


def save(model: LlamaForCausalLM, folder: Path) -> None:
    """Weights in bfloat16, with the tokenizer."""
    model.to(torch.bfloat16).save_pretrained(folder)  # type: ignore[arg-type]
    new_tokenizer().save_pretrained(folder)
    model.float()


def write_tasks(data: dict[str, list[Example]], folder: Path) -> None:
    """One file of documents for each skill; facts have four choices."""
    folder.mkdir(parents=True, exist_ok=True)
    for skill, examples in data.items():
        rows = []
        for prompt, answer in examples:
            row: dict[str, object] = {"prompt": " ".join(prompt), "answer": " ".join(answer)}
            if skill == "facts":
                row["choices"] = PROPERTIES[prompt[0]]
            rows.append(json.dumps(row))
        (folder / f"{skill}.jsonl").write_text("\n".join(rows) + "\n")


def main() -> None:
    """Train everything and print each model's accuracy on each skill."""
    parser = argparse.ArgumentParser(description="Make the quickstart's models and task data.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    options = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(2)
    facts = all_facts(options.seed)
    sources = skills(facts)
    data = {skill: documents(skill, draw, facts, options.seed) for skill, draw in sources.items()}
    held_out = {" ".join(example.prompt) for skill in ("reverse", "add") for example in data[skill]}
    write_tasks(data, options.out / "tasks")

    model = new_model(options.seed)
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters")
    train(model, _without(easy(facts), held_out), BASE, options.seed, "base")
    save(model, options.out / "models" / "base")
    origin = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for skill, schedule in {"base": None, **EXPERTS}.items():
        model.load_state_dict(origin)
        if schedule is not None:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_("layers" in name)
            draw = _mixed(sources[skill], _others(easy(facts), skill), schedule.rehearsal)
            train(model, _without(draw, held_out), schedule, options.seed, skill)
            save(model, options.out / "models" / skill)
        scores = ", ".join(f"{name} {accuracy(model, examples):.3f}" for name, examples in data.items())
        print(f"{skill}: {scores}", flush=True)


def _mixed(skill: Source, rehearsal: Source, share: float) -> Source:
    return lambda chance: rehearsal(chance) if chance.random() < share else skill(chance)


def _without(draw: Source, held_out: set[str]) -> Source:
    def fresh(chance: random.Random) -> Example:
        while " ".join((example := draw(chance)).prompt) in held_out:
            pass
        return example

    return fresh


def _others(draw: Source, skill: str) -> Source:
    """Easy examples that do not contradict the skill: no random facts for the expert in facts."""

    def other(chance: random.Random) -> Example:
        while skill == "facts" and (example := draw(chance)).prompt[0] in PROPERTIES:
            pass
        return example if skill == "facts" else draw(chance)

    return other


if __name__ == "__main__":
    main()

"""How to load the model, what it is for, and what to beware of."""

from __future__ import annotations

from evomerge.runs.exporting import Export

_LOAD = """\
## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{place}")
model = AutoModelForCausalLM.from_pretrained("{place}", dtype="{dtype}", device_map="auto")
```

{prompt}

In a quarter of the memory, quantised while loading (`pip install bitsandbytes`, a GPU; or torchao's
`TorchAoConfig`, which also works on CPU):

```python
from transformers import BitsAndBytesConfig

quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="bfloat16")
model = AutoModelForCausalLM.from_pretrained("{place}", quantization_config=quantised)
```

For llama.cpp, in its repository and with this folder at hand:

```
python convert_hf_to_gguf.py {name} --outfile {name}.gguf --outtype {outtype}
llama-quantize {name}.gguf {name}-Q4_K_M.gguf Q4_K_M
```

Scores were taken in {dtype}, unquantised; quantised weights score differently.
"""

OUTTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def loading(export: Export) -> str:
    """Loading with transformers, quantised, and with llama.cpp."""
    templated = (export.evaluation or {}).get("apply_chat_template")
    prompt = (
        "It was scored with its chat template: `tokenizer.apply_chat_template`."
        if templated
        else "It was scored on plain prompts, without a chat template."
        if export.result is not None
        else "Its tokenizer's chat template, where it has one, is used by `tokenizer.apply_chat_template`."
    )
    dtype = export.recipe.dtype
    place = export.repository or export.name
    return _LOAD.format(name=export.name, place=place, dtype=dtype, outtype=OUTTYPES[dtype], prompt=prompt)


def limits(export: Export) -> str:
    """Intended use, limits, bias."""
    tasks = list(export.result["winner"]["tasks"]) if export.result is not None else []
    measured = (
        f"It was chosen for {', '.join(tasks)}. Abilities that these do not measure may have been lost, and scores on "
        "other documents, prompts or languages may differ."
        if tasks
        else "Nothing has been measured on untouched documents; score it on what you need before you use it."
    )
    guarded = [constraint["task"] for constraint in (export.evaluation or {}).get("constraints") or []]
    bias = (
        f"The search was bound by constraints on {', '.join(dict.fromkeys(guarded))}; beyond them"
        if guarded
        else "Safety and bias were not measured:"
    )
    return (
        "## Intended use and limits\n\n"
        f"For the uses that its sources are meant for, within their terms. {measured}\n\n"
        f"{bias} it may show the biases of every source, and a merge can undo what one of them was taught to refuse. "
        "Test it for your use, and let no decision about people rest on its answers alone.\n"
    )

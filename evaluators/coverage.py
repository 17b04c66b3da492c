"""Which generations the greedy loop covers: an allow-list, as what is unknown may change what is generated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers import DynamicCache, GenerationMixin, cache_utils
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Without effect where the likeliest token is taken, or decided by lm-eval at each call.
IDLE = {
    "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
    "early_stopping", "length_penalty", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "assistant_confidence_threshold", "max_length", "do_sample", "pad_token_id", "bos_token_id", "eos_token_id",
    "decoder_start_token_id", "transformers_version", "_from_model_config", "compile_config", "disable_compile",
    "continuous_batching_config",
}  # fmt: skip
# Without effect at these values; at None or False any setting is.
NEUTRAL: dict[str, Any] = {
    "use_cache": True,
    "cache_implementation": "dynamic",
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "diversity_penalty": 0.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "guidance_scale": 1.0,
}
LAYERS: set[type] = {DynamicLayer, DynamicSlidingWindowLayer}  # of a cache whose rows can be chosen
if hasattr(cache_utils, "DummyLayer"):  # newer transformers: of layers that keep nothing
    LAYERS.add(cache_utils.DummyLayer)


def plain_settings(settings: Mapping[str, Any]) -> bool:
    """Whether a task's generation settings ask for the likeliest token each time, until a stop or a number of tokens.

    Args:
        settings: as lm-eval's `normalize_gen_kwargs` gives them.
    """
    if settings["do_sample"] is not False or settings["max_gen_toks"] < 1:
        return False
    rest = {name: value for name, value in settings.items() if name not in {"until", "max_gen_toks"}}
    # what the model's own configuration may leave to lm-eval is a task's own wish here
    return "max_length" not in rest and not any(name.endswith("_token_id") for name in rest) and _neutral(rest)


def plain_model(model: PreTrainedModel) -> bool:
    """Whether the model generates as transformers' decoders do by default, from a cache of keys and values alone."""
    configuration = getattr(model, "generation_config", None)
    if configuration is None or model.config.is_encoder_decoder:
        return False
    if getattr(type(model), "generate", None) is not GenerationMixin.generate:
        return False
    if configuration.use_cache is False or not _neutral(configuration.to_dict()):
        return False
    if model._is_stateful or not model._supports_default_dynamic_cache():  # type: ignore[operator]
        return False
    return _layers(model) <= LAYERS


def slides(model: PreTrainedModel) -> bool:
    """Whether some layers see a window of the last positions only; padding between tokens would take up its room."""
    return DynamicSlidingWindowLayer in _layers(model)


def end_tokens(model: PreTrainedModel) -> tuple[int, ...]:
    """The tokens at which transformers ends a row; may be none."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        return ()
    return (ends,) if isinstance(ends, int) else tuple(ends)


def _neutral(settings: Mapping[str, Any]) -> bool:
    return all(
        name in IDLE or value is None or value is False or value == NEUTRAL.get(name, ...)
        for name, value in settings.items()
    )


def _layers(model: PreTrainedModel) -> set[type]:
    return {type(layer) for layer in DynamicCache(config=model.config.get_text_config(decoder=True)).layers}

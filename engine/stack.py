"""Layer stacking: a decoder that repeats, drops and reorders its layers, live and as an ordinary checkpoint.

The live layers are light copies: modules of their own over the very same parameters, so a candidate that is written
in place shows through at once. A checkpoint has every layer written out, and the scales folded into the weights.
(Akiba et al., 2403.13187, section 3.2: merging in the data-flow space.)
"""

from __future__ import annotations

import copy
import itertools
import json
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from evomerge.engine.checkpoint import first_line
from evomerge.engine.layers import find_layers, place
from evomerge.engine.layout import file_views
from evomerge.engine.recipe import MERGED, StackLayer
from evomerge.errors import CandidateError, InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

LayerReader = Callable[[str, int], Mapping[str, torch.Tensor]]
"""The parameters of one layer of the model called by a name, by their paths inside the layer, as files name them."""

INDICES = ("layer_idx", "layer_id")
"""What modules call their layer's index in the key-value cache."""

NOT_PER_LAYER = re.compile(r"_token_ids?$|^architectures$")
"""Lists of a configuration that are not one entry a layer, even where they happen to be as long."""

TOLERANCE = {torch.float32: 1e-2, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""How far the logits of a checkpoint with folded scales may be from the live ones, relative to their norm: norms are
invariant to a scale up to their epsilon only, and a folded weight is rounded once more."""

EXACT = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""The same without scales: the checkpoint then holds the live weights themselves."""


class Fold(NamedTuple):
    """Where an architecture's weights can take the scale S of the residual stream.

    A layer that sees S h and adds f(S h) is, on the stream h, one that adds f(S h) / S. Regular expressions match the
    whole path of a parameter inside its layer.

    Attributes:
        divided: what every block's output is linear in: takes 1/S.
        multiplied: the weights that read the stream without a norm before them: take S.
        offset: a norm that multiplies by offset + weight.
    """

    divided: str
    multiplied: str = "(?!)"
    offset: float = 0.0

    def __call__(self, path: str, tensor: torch.Tensor, scale: float) -> torch.Tensor:
        """The parameter `path` of a layer whose stream carries `scale`; computed in float32, rounded once."""
        if re.fullmatch(self.multiplied, path):
            return (tensor.float() * scale).to(tensor.dtype)
        if re.fullmatch(self.divided, path):
            return ((tensor.float() + self.offset) / scale - self.offset).to(tensor.dtype)
        return tensor


_LLAMA = Fold(r"self_attn\.o_proj\.(weight|bias)|mlp\.(experts\.down_proj(_bias)?|down_proj\.(weight|bias))")
_BLOOM = Fold(r"(self_attention|attention)\.dense\.(weight|bias)|mlp\.dense_4h_to_h\.(weight|bias)")
_OUTPUT_NORMS = r"post_(attention|feedforward)_layernorm\.weight"
_GEMMA2 = Fold(_OUTPUT_NORMS, offset=1.0)
_OLMO2 = Fold(_OUTPUT_NORMS, multiplied=r"self_attn\.[qkv]_proj\.weight|mlp\.(gate|up)_proj\.weight")

FOLDS = {
    **dict.fromkeys(("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "phi3", "gpt_oss"), _LLAMA),
    **dict.fromkeys(("gemma", "granite", "cohere", "smollm3"), _LLAMA),
    **dict.fromkeys(("bloom", "falcon", "gpt_neox"), _BLOOM),
    **dict.fromkeys(("gemma2", "gemma3_text"), _GEMMA2),
    **dict.fromkeys(("olmo2", "olmo3"), _OLMO2),
    "gpt2": Fold(r"(attn|mlp)\.c_proj\.(weight|bias)"),
    "opt": Fold(r"(self_attn\.out_proj|fc2)\.(weight|bias)"),
}
"""By the `model_type` of the text configuration."""


def fold_of(config: PretrainedConfig) -> Fold | None:
    """How a text configuration's layers take scales; None where unknown, or where a norm stands in the stream."""
    if getattr(config, "apply_residual_connection_post_layernorm", False):
        return None
    return FOLDS.get(config.model_type) if getattr(config, "do_layer_norm_before", True) else None


class Unrolled(NamedTuple):
    """An ordinary checkpoint of a stacked model.

    Attributes:
        config: with the new depth, and its lists with one entry a layer remapped.
        tensors: parameters and persistent buffers by the names that files use; tied ones once. Layers that repeat
            share memory, so a writer of safetensors must copy them.
    """

    config: PretrainedConfig
    tensors: dict[str, torch.Tensor]


class Restacker:
    """Sets and restores the decoder layers of one live model.

    Args:
        model: with its own layers. Its configuration, which must be no other model's too, is changed
            along with them.

    Attributes:
        stack: what is applied; None: the model's own layers.

    Raises:
        InputError: the model's layers cannot be found.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._name, self._depth = find_layers(model)
        self._layers: nn.ModuleList = model.get_submodule(self._name)  # type: ignore[assignment]
        self._text = model.config.get_text_config(decoder=True)
        self._lists = {
            key: value
            for key, value in vars(self._text).items()
            if isinstance(value, list | tuple) and len(value) == self._depth and not NOT_PER_LAYER.search(key)
        }
        self._fold = fold_of(self._text)
        self._borrowed: dict[tuple[str, int], nn.Module] = {}
        self.stack: tuple[StackLayer, ...] | None = None

    def check(self, stack: Sequence[StackLayer]) -> None:
        """Raise InputError where the model lacks a layer, or its architecture allows no stacks, or no scales."""
        if getattr(self._text, "num_kv_shared_layers", None):
            raise InputError(
                f"layers can be stacked where each has keys and values of its own, but {type(self._model).__name__} "
                f"has num_kv_shared_layers {self._text.num_kv_shared_layers}"
            )
        for layer in stack:
            if layer.layer >= self._depth:
                raise InputError(f"a layer of a stack must be from 0 to {self._depth - 1}, but got {layer.layer}")
            if layer.scale != 1.0 and self._fold is None:
                raise InputError(
                    f"scales of a stack must be 1 where weights are not known to take them, as in this "
                    f"{self._text.model_type}, but got {layer.scale:g}"
                )

    def apply(self, stack: Sequence[StackLayer] | None, read: LayerReader | None = None) -> None:
        """Give the model the layers that `stack` lists, first to last; None gives it back its own.

        Args:
            stack: at least one layer.
            read: called once for each layer of another source than "merged", which is kept while stacks use it.

        Raises:
            InputError: as `check`, or a layer that `read` gives does not fit.
        """
        if stack is None:
            self._borrowed.clear()
            self._install(self._layers, range(self._depth))
        else:
            self.check(stack)
            used = {(layer.source, layer.layer) for layer in stack if layer.source != MERGED}
            fresh = {key: self._borrow(*key, read) for key in sorted(used - self._borrowed.keys())}
            self._borrowed = {key: layer for key, layer in {**self._borrowed, **fresh}.items() if key in used}
            twins = [_twin(self._original(layer), index, layer.scale) for index, layer in enumerate(stack)]
            self._install(nn.ModuleList(twins), [layer.layer for layer in stack])
        self.stack = None if stack is None else tuple(stack)

    def unroll(self) -> Unrolled:
        """The checkpoint of what is applied, after running it against the live model on random tokens.

        Raises:
            InputError: it computes something else: this architecture's layers cannot be written in this order, or
                with these scales.
            CandidateError: a weight is not finite once the scales are folded into it.
        """
        scaled = any(layer.scale != 1.0 for layer in self.stack or ())
        if scaled:
            self._unroll_unscaled()
        config, live, buffers = _reread(self._model.config), self._parameters(), self._buffers()
        tolerance = TOLERANCE[self._model.dtype] if scaled else EXACT[self._model.dtype]
        self._compare(_rebuilt(self._model, config, {**live, **buffers}, self._devices()), tolerance)
        return Unrolled(config, {**file_views(self._model, live), **buffers})

    def _unroll_unscaled(self) -> None:
        """Check the order by itself, to which a narrower tolerance applies."""
        scaled = self.stack
        self.apply([layer.model_copy(update={"scale": 1.0}) for layer in scaled or ()])
        try:
            self.unroll()
        finally:
            self.apply(scaled)

    def _original(self, layer: StackLayer) -> nn.Module:
        return self._layers[layer.layer] if layer.source == MERGED else self._borrowed[layer.source, layer.layer]

    def _borrow(self, source: str, index: int, read: LayerReader | None) -> nn.Module:
        """The layer with another model's weights."""
        if read is None:
            raise ValueError(f"a reader must be given for layers of {source!r}")
        layer = _copy(self._layers[index], [*self._layers[index].buffers()])
        own = {f"{self._name}.{index}.{path}": tensor.detach() for path, tensor in layer.named_parameters()}
        given = dict(read(source, index))
        for name, view in file_views(self._model, own).items():
            where = place(name, self._name)
            tensor = given.pop(where.path, None) if where.layer == index else None
            if tensor is None or tensor.shape != view.shape:
                found = "is missing" if tensor is None else f"has {list(tensor.shape)}"
                raise InputError(f"layer {index} of {source!r} must have {name} {list(view.shape)}, but it {found}")
            view.copy_(tensor)
        if given:
            raise InputError(f"layer {index} of {source!r} must have the base's parameters, but has {min(given)}")
        return layer

    def _install(self, layers: nn.ModuleList, order: Sequence[int]) -> None:
        parent, _, last = self._name.rpartition(".")
        setattr(self._model.get_submodule(parent), last, layers)
        for key, values in self._lists.items():
            setattr(self._text, key, values if layers is self._layers else type(values)(values[i] for i in order))
        self._text.num_hidden_layers = len(order)

    def _parameters(self) -> dict[str, torch.Tensor]:
        """All parameters by their live names, tied ones once, those of the layers with the scales folded in."""
        found = {
            name: parameter.detach()
            for name, parameter in self._model.named_parameters()
            if place(name, self._name).layer is None
        }
        layers: nn.ModuleList = self._model.get_submodule(self._name)  # type: ignore[assignment]
        scales = [layer.scale for layer in self.stack] if self.stack else [1.0] * self._depth
        for index, (layer, scale) in enumerate(zip(layers, itertools.accumulate(scales, operator.mul), strict=True)):
            for path, parameter in layer.named_parameters():
                name = f"{self._name}.{index}.{path}"
                found[name] = parameter.detach() if scale == 1.0 else self._folded(name, path, parameter, scale)
        return found

    def _folded(self, name: str, path: str, parameter: torch.Tensor, scale: float) -> torch.Tensor:
        assert self._fold is not None  # `check` has seen to it
        folded = self._fold(path, parameter.detach(), scale)
        if not folded.isfinite().all():
            raise CandidateError(
                f"weights must be finite in {folded.dtype}, but {name} is not once divided by {scale:g}"
            )
        return folded

    def _buffers(self) -> dict[str, torch.Tensor]:
        names = {name for name, _ in self._model.named_parameters(remove_duplicate=False)}
        return {name: tensor for name, tensor in self._model.state_dict().items() if name not in names}

    def _devices(self) -> dict[str, Any]:
        """The devices of the model's modules, by the names they have now; empty where it is on one."""
        known = getattr(self._model, "hf_device_map", None) or {}
        around = {name: device for name, device in known.items() if not name.startswith(f"{self._name}.")}
        layers: nn.ModuleList = self._model.get_submodule(self._name)  # type: ignore[assignment]
        inside = {f"{self._name}.{index}": next(layer.parameters()).device for index, layer in enumerate(layers)}
        return {**around, **inside} if known else {}

    def _compare(self, written: PreTrainedModel, tolerance: float) -> None:
        tokens = torch.randint(self._text.vocab_size, (2, 16), generator=torch.Generator().manual_seed(0))
        tokens = tokens.to(self._model.device)
        with torch.no_grad():
            live, again = (model(tokens, use_cache=False).logits.float() for model in (self._model, written))
        apart = ((again - live).norm() / live.norm()).item()
        if not apart <= tolerance:
            raise InputError(
                f"a stack must compute the same once written as a {self._text.model_type}, but its logits differ by "
                f"{apart:.2g} of their norm"
            )


def _twin(layer: nn.Module, index: int, scale: float) -> nn.Module:
    """A light copy of a layer for the place `index`, with `scale` on the hidden states that enter it."""
    twin = _copy(layer, [*layer.parameters(), *layer.buffers()])
    for module in twin.modules():
        for name in INDICES:
            if isinstance(getattr(module, name, None), int):
                setattr(module, name, index)
    if scale != 1.0:
        twin.register_forward_pre_hook(_scaling(scale), with_kwargs=True)
    return twin


def _copy(layer: nn.Module, shared: Iterable[object]) -> nn.Module:
    """A copy that shares with `layer` the objects in `shared`, configurations, and the weights that hooks hold."""
    configs = (getattr(module, "config", None) for module in layer.modules())
    held = (getattr(getattr(module, "_hf_hook", None), "tied_params_map", None) for module in layer.modules())
    return copy.deepcopy(layer, {id(each): each for each in (*shared, *configs, *held)})


def _scaling(
    scale: float,
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]:
    def scaled(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (args[0] * scale, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] * scale}

    return scaled


def _reread(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration as it is read from the file that it is written to."""
    try:
        again: PretrainedConfig = type(config).from_dict(json.loads(config.to_json_string()))
    except Exception as error:
        raise InputError(
            f"a stack must have a configuration that can be written, but {config.model_type}: {first_line(error)}"
        ) from None
    return again


def _rebuilt(
    model: PreTrainedModel,
    config: PretrainedConfig,
    tensors: Mapping[str, torch.Tensor],
    devices: Mapping[str, Any],
) -> PreTrainedModel:
    """A model of this configuration over these very tensors, on `devices`, or where `model` is.

    Raises:
        InputError: it would have other parameters.
    """
    from accelerate import dispatch_model, init_empty_weights

    try:
        with init_empty_weights(include_buffers=False):
            twin: Any = type(model)(config)
        unexpected = twin.load_state_dict(tensors, strict=False, assign=True).unexpected_keys
        twin.tie_weights()
    except Exception as error:
        raise InputError(f"a stack must be expressible as a {config.model_type}, but {first_line(error)}") from None
    missing = [name for name, tensor in twin.state_dict().items() if tensor.is_meta]
    if unexpected or missing:
        name, found = (unexpected[0], "has") if unexpected else (missing[0], "lacks")
        raise InputError(f"a stack must be expressible as a {config.model_type}, but it {found} {name}")
    twin.train(False)
    moved: PreTrainedModel = dispatch_model(twin, dict(devices), force_hooks=True) if devices else twin.to(model.device)
    return moved

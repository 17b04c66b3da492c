"""How fast this machine is, from small trials: a copy of memory, and two layers of the model's own kind.

A pass over n tokens takes about a + b n: a is what layers cost however small they are (and reading their weights), b is
arithmetic. Both are measured on a model of the same architecture, dtype and device with two layers and made-up weights.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from evomerge.runs.doctor.findings import LeftOut
from evomerge.sizes import readable

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LAYERS = 2
COPIED = 2**24
"""Elements of two bytes that are copied; more than a cache holds."""

FEW, MANY, ROW = 16, 512, 32
"""Tokens of the two passes that are timed, and of a row at most."""

PATIENCE = 1.0
"""Seconds that the larger pass may take, about; slow machines are timed on fewer tokens."""

REPEATS = 3
SHARE = 0.5
"""Of the free memory that two layers may take."""


class Line(NamedTuple):
    """Seconds of one thing done on n tokens or positions: fixed + each * n."""

    fixed: float
    each: float


class Speed(NamedTuple):
    """How fast forward passes are.

    Attributes:
        layer: one layer, by tokens.
        rest: everything else, by the positions whose next token is asked for: most of it is the head.
        num_layers: of the model.
    """

    layer: Line
    rest: Line
    num_layers: int

    def seconds(self, passes: float, tokens: float, positions: float) -> float:
        """Of so many passes over so many tokens in all, with logits at so many positions."""
        fixed = self.num_layers * self.layer.fixed + self.rest.fixed
        return passes * fixed + tokens * self.num_layers * self.layer.each + positions * self.rest.each


def copy_rate(device: torch.device) -> float:
    """Bytes read and written in a second by a copy on the device; takes some milliseconds."""
    source = torch.ones(COPIED, dtype=torch.bfloat16, device=device)
    target = torch.zeros_like(source)
    return 2 * source.nbytes / _fastest(lambda: target.copy_(source), device)


@torch.no_grad()
def forward_speed(
    config: PretrainedConfig, dtype: torch.dtype, device: torch.device, *, trust_remote_code: bool = False
) -> Speed:
    """Build two layers and time passes over them; takes a second or two.

    Args:
        config: of the model.
        dtype: of its weights.
        device: where it runs.
        trust_remote_code: whether the configuration's own code may build it.

    Raises:
        LeftOut: the architecture cannot be cut to two layers, or these do not fit into memory.
    """
    num_layers = int(config.get_text_config(decoder=True).num_hidden_layers)
    try:
        layer, rest = _measured(
            _filled(_cut(config, dtype, trust_remote_code=trust_remote_code), dtype, device), device
        )
    except LeftOut:
        raise
    except Exception as error:  # whatever an unusual architecture does
        raise LeftOut(f"no forward pass of two layers could be timed: {type(error).__name__}: {error}") from None
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the candidate and its scoring want the room
    return Speed(layer, rest, num_layers)


def _measured(model: Any, device: torch.device) -> tuple[Line, Line]:
    """The lines of a layer and of the rest."""
    few = _timed(model, FEW, device)
    slow = few[0] * LAYERS * MANY / FEW + few[1] * MANY / ROW
    many = max(ROW, int(MANY * min(1.0, PATIENCE / slow)) // ROW * ROW)
    large = _timed(model, many, device)
    return _line(FEW, few[0], many, large[0]), _line(1, few[1], many // ROW, large[1])


def _cut(config: PretrainedConfig, dtype: torch.dtype, *, trust_remote_code: bool) -> Any:
    """The model with two layers; its parameters have no memory."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    from evomerge.engine.quiet import quiet

    own = copy.deepcopy(config)
    text = own.get_text_config(decoder=True)
    text.num_hidden_layers = LAYERS
    if isinstance(getattr(text, "layer_types", None), list):
        text.layer_types = text.layer_types[:LAYERS]
    with quiet(), init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            own, dtype=dtype, trust_remote_code=trust_remote_code
        )
    return model.eval().requires_grad_(False)


def _filled(model: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """The model, its parameters with memory and small numbers. Raises LeftOut where there is too little memory."""
    from evomerge.engine.memory import available

    need = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available()
    if need > SHARE * free:
        raise LeftOut(f"two layers take {readable(need)}, too much of the {readable(free)} that are free")
    block = torch.randn(2**16, generator=torch.Generator().manual_seed(0)).mul_(0.02).to(device, dtype)
    for module in model.modules():
        for name, held in module._parameters.items():
            if held is not None:
                data = block.repeat(-(-held.numel() // block.numel()))[: held.numel()].view(held.shape)
                module._parameters[name] = torch.nn.Parameter(data, requires_grad=False)
    return model.to(device)


def _timed(model: Any, tokens: int, device: torch.device) -> tuple[float, float]:
    """Seconds of one layer and of everything else, in a pass over `tokens`, the fastest of some."""
    from evomerge.engine.layers import find_layers
    from evomerge.evaluators.forward import Forward

    name, _ = find_layers(model)
    layers = list(model.get_submodule(name))
    length = min(tokens, ROW)
    ids = (torch.arange(tokens, device=device) % 50).view(-1, length)
    forward, mask = Forward(model), torch.ones_like(ids)
    best = [float("inf"), float("inf")]
    for _ in range(REPEATS):
        with _clocks(layers, device) as spent:
            start = _now(device)
            forward(ids, mask)
            total = _now(device) - start
        best = [min(best[0], *spent), min(best[1], total - sum(spent))]
    return best[0], max(best[1], 0.0)


@contextmanager
def _clocks(layers: list[Any], device: torch.device) -> Iterator[list[float]]:
    """Within the block, each pass of a layer adds its seconds to the list."""
    spent: list[float] = []
    begun: list[float] = []
    handles = []
    for layer in layers:
        handles.append(layer.register_forward_pre_hook(lambda *_: begun.append(_now(device))))
        handles.append(layer.register_forward_hook(lambda *_: spent.append(_now(device) - begun[-1])))
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _fastest(do: Callable[[], object], device: torch.device) -> float:
    found = []
    for _ in range(REPEATS + 1):
        start = _now(device)
        do()
        found.append(_now(device) - start)
    return min(found[1:])


def _line(few: int, fast: float, many: int, slow: float) -> Line:
    """Through both measurements, neither coefficient below 0."""
    each = max((slow - fast) / (many - few), 0.0) if many > few else fast / few
    return Line(max(fast - few * each, 0.0), each)

"""The element-wise kernels, written once in plain PyTorch. What they return does not depend on the chunking.

Notation: m elements of a chunk, n experts. Every product is rounded before it is added: a fused multiply-add,
which PyTorch uses in some loops and not in others, would make results depend on where a chunk ends. Masks are
applied by float arithmetic where that is exact, because loops over bools are not vectorized on CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch

from evomerge.engine.plan import EVERY, NO_DIRECTION, Combination, Keep, Plan, TaskVectors
from evomerge.engine.random_bits import Key, random_bits


class Kernel(NamedTuple):
    """A plan made ready to run.

    Attributes:
        sources: what it reads, in order: 0 is the base, i the recipe's expert number i - 1. Nothing else has an
            influence on the result.
        run: from one float32 chunk [m] of each of these sources, and the position of the chunk's first element in
            the parameter, to the result's chunk: float32 [m], in memory of its own.
    """

    sources: tuple[int, ...]
    run: Callable[[Sequence[torch.Tensor], int], torch.Tensor]


def kernel(plan: Plan, keys: Sequence[Key]) -> Kernel:
    """The kernel of a plan.

    Args:
        plan: for n experts.
        keys: n keys of random words.
    """
    if isinstance(plan, Combination):
        coefficients = (plan.base, *plan.experts)
        active = tuple(i for i, coefficient in enumerate(coefficients) if coefficient != 0.0) or (0,)
        used = [coefficients[i] for i in active]
        return Kernel(active, lambda chunks, start: combine(chunks, used))
    experts = [i for i, weight in enumerate(plan.weights) if weight != 0.0]
    own, words = plan.only(experts), [keys[i] for i in experts]
    return Kernel(
        (0, *(i + 1 for i in experts)),
        lambda chunks, start: merge_task_vectors(chunks[0], chunks[1:], own, words, start),
    )


def combine(sources: Sequence[torch.Tensor], coefficients: Sequence[float]) -> torch.Tensor:
    """sum_j c_j s_j, added in the order given.

    Args:
        sources: at least one, each float32 [m].
        coefficients: as many numbers.

    Returns:
        float32 [m], in memory of its own.
    """
    result = sources[0] * coefficients[0]
    for source, coefficient in zip(sources[1:], coefficients[1:], strict=True):
        result += source * coefficient
    return result


def merge_task_vectors(
    base: torch.Tensor, experts: Sequence[torch.Tensor], plan: TaskVectors, keys: Sequence[Key], start: int
) -> torch.Tensor:
    """The sum of base and merged task vectors, as `TaskVectors` defines it.

    Args:
        base: float32 [m].
        experts: n, each float32 [m].
        plan: for these n experts.
        keys: n keys of random words.
        start: the position of the chunk's first element in the parameter.

    Returns:
        float32 [m], in memory of its own.
    """
    terms = (
        surviving(expert - base, rule, key, start).mul_(weight * rule.scale)
        for expert, rule, key, weight in zip(experts, plan.keep, keys, plan.weights, strict=True)
    )
    merged = _elected(base, terms, plan) if plan.elect else _summed(base, terms)
    return merged.mul_(plan.scale).add_(base)


def surviving(delta: torch.Tensor, rule: Keep, key: Key, start: int) -> torch.Tensor:
    """`delta` with what `rule` drops set to 0; the rule's scale is not applied.

    Args:
        delta: float32 [m]; may be overwritten.
        rule: which elements survive.
        key: of the random words.
        start: the position of the chunk's first element in the parameter.

    Returns:
        float32 [m].
    """
    if rule.ties or rule.cut < EVERY:
        word = random_bits(key, torch.arange(start, start + delta.numel(), device=delta.device))
    if rule.cut < EVERY:
        delta = delta.mul_(word < rule.cut)
    if rule.threshold is None:
        return delta
    above = torch.nn.functional.hardshrink(delta, rule.threshold)
    if rule.ties:
        above += delta.mul_((delta.abs() == rule.threshold).logical_and_(word < rule.ties))
    return above


def _summed(base: torch.Tensor, terms: Iterable[torch.Tensor]) -> torch.Tensor:
    total = torch.zeros_like(base)
    for term in terms:
        total += term
    return total


def _elected(base: torch.Tensor, terms: Iterable[torch.Tensor], plan: TaskVectors) -> torch.Tensor:
    """sum_i m_i t_i, divided by sum_i m_i w_i under `normalize`: positive and negative terms are summed apart."""
    up, down = torch.zeros_like(base), torch.zeros_like(base)
    up_weight, down_weight = (torch.zeros_like(base), torch.zeros_like(base)) if plan.normalize else (None, None)
    for term, weight in zip(terms, plan.weights, strict=True):
        positive, negative = term.relu(), term.clamp(max=0.0)
        up += positive
        down += negative
        if up_weight is not None and down_weight is not None:
            up_weight += positive.sign_().mul_(weight)
            down_weight -= negative.sign_().mul_(weight)
    positive_wins = (up + down).sign_().add_(1.0).clamp_(max=1.0)
    negative_wins = 1.0 - positive_wins
    merged = up.mul_(positive_wins).add_(down.mul_(negative_wins))
    if up_weight is None or down_weight is None:
        return merged
    divisor = up_weight.mul_(positive_wins).add_(down_weight.mul_(negative_wins))
    divisor = torch.nn.functional.hardshrink(divisor, NO_DIRECTION)
    return merged.div_(divisor.add_(1.0 - divisor.sign().abs_()))  # 0 counts as 1

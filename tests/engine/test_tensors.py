"""Merging of bare tensors; what methods compute is tested by test_conformance.py."""

from __future__ import annotations

import pytest
import torch

from evomerge.engine import merge_tensors
from evomerge.errors import InputError


def test_experts_have_numbers_of_their_own_or_one_for_all():
    base = torch.zeros(3, 4)
    experts = {"math": torch.ones(3, 4), "lang": torch.full((3, 4), 10.0)}
    merged = merge_tensors("task_arithmetic", base, experts, {"weight": {"math": 2.0, "lang": 0.5}})
    assert torch.equal(merged, torch.full((3, 4), 7.0))
    assert torch.equal(merge_tensors("task_arithmetic", base, experts, {"weight": 0.5}), torch.full((3, 4), 5.5))
    assert torch.equal(merge_tensors("linear", base, experts), torch.full((3, 4), 5.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_result_has_the_dtype_asked_for_and_inputs_may_be_views(dtype):
    base = torch.arange(24.0).view(4, 6)
    merged = merge_tensors("linear", base.T, {"math": base.T.bfloat16()}, dtype=dtype)
    assert merged.dtype == dtype
    assert torch.equal(merged, base.T.to(dtype))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"experts": {"math": torch.ones(4, 3)}},
            r"expert 'math' must have the base's shape \[3, 4\], but has \[4, 3\]",
        ),
        ({"method": "tie"}, "did you mean 'ties'"),
        ({"parameters": {"wieght": 1.0}}, "did you mean 'weight'"),
        ({"parameters": {"weight": {"lang": 1.0}}}, "an expert in weight must be one of math"),
        ({"experts": {"math": torch.full((3, 4), torch.nan)}}, "expert 'math' holds 12 NaN or infinite values"),
    ],
)
def test_wrong_input_is_told(change, message):
    given = {"method": "ties", "base": torch.zeros(3, 4), "experts": {"math": torch.ones(3, 4)}, "parameters": {}}
    with pytest.raises(InputError, match=message):
        merge_tensors(**{**given, **change})

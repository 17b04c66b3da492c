"""How experts get along: against sums over whole weights, and what is made of them."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.engine.readings import whole
from evomerge.runs.doctor.advice import judged
from evomerge.runs.doctor.conflict import LARGE, Conflict, Place, Sums, conflict_of
from tests.runs.doctor.conftest import Copied, configured, levels, look, subject


@pytest.fixture(scope="module")
def alignment() -> object:
    return subject().alignment


def _delta(alignment: object, expert: int, layer: int | None) -> torch.Tensor:
    slots = [slot for slot in alignment.layout.slots if slot.place.layer == layer]  # type: ignore[attr-defined]
    base, own = alignment.readings[0], alignment.readings[expert + 1]  # type: ignore[attr-defined]
    return torch.cat([(whole(own[slot.name]).double() - whole(base[slot.name]).double()).flatten() for slot in slots])


def test_cosines_are_those_of_the_whole_weights(alignment: object) -> None:
    found = conflict_of(alignment)  # type: ignore[arg-type]
    assert found.share == 1
    assert found.layers == ("outside", "0", "1", "2", "3")
    for layer in range(4):
        one, other = _delta(alignment, 0, layer), _delta(alignment, 2, layer)
        expected = float(one @ other / (one.norm() * other.norm()))
        assert found.of(str(layer)).cosine(0, 2) == pytest.approx(expected, abs=1e-6)
    assert found.of("outside").cosine(0, 1) is None  # the experts have the base's embedding


def test_a_sample_is_nearly_as_good(alignment: object) -> None:
    everything, some = conflict_of(alignment), conflict_of(alignment, sample=2**12)  # type: ignore[arg-type]
    assert some.share < 0.3
    for one, other in everything.pairs():
        assert some.of().cosine(one, other) == pytest.approx(everything.of().cosine(one, other), abs=0.03)
        assert some.of().signs(one, other) == pytest.approx(everything.of().signs(one, other), abs=0.05)
    assert some.of().length(0) == pytest.approx(everything.of().length(0), rel=0.05)


def test_signs_are_counted_where_both_changes_are_large(alignment: object) -> None:
    slot = next(slot for slot in alignment.layout.slots if slot.place.layer == 1)  # type: ignore[attr-defined]
    deltas = [
        whole(alignment.readings[place][slot.name]).float() - whole(alignment.readings[0][slot.name]).float()  # type: ignore[attr-defined]
        for place in (1, 2)
    ]
    large = []
    for delta in deltas:
        size = delta.abs().flatten()
        large.append((size >= size.sort().values[-math.ceil(LARGE * size.numel())]) & (size > 0))
    both = large[0] & large[1]
    agree = (deltas[0].sign() == deltas[1].sign()).flatten() & both
    places = [each for each in alignment.layout.slots if each is slot]  # type: ignore[attr-defined]
    alone = conflict_of(_only(alignment, places))
    assert alone.of().signs(0, 1) == pytest.approx(float(agree.sum() / both.sum()))


def _only(alignment: object, slots: list[object]) -> object:
    from dataclasses import replace

    layout = replace(alignment.layout, slots=tuple(slots))  # type: ignore[attr-defined]
    return replace(alignment, layout=layout)  # type: ignore[type-var]


def test_data_has_a_number_for_each_layer(alignment: object) -> None:
    data = conflict_of(alignment).as_data(["advice"])  # type: ignore[arg-type]
    assert data["experts"] == ["reverse", "add", "facts"]
    assert [(pair["a"], pair["b"]) for pair in data["pairs"]] == [
        ("reverse", "add"), ("reverse", "facts"), ("add", "facts"),
    ]  # fmt: skip
    for pair in data["pairs"]:
        assert len(pair["cosine"]) == len(pair["signs"]) == len(data["layers"]) == 5
        assert set(pair["modules"]) == {"attention", "mlp", "other"}
    assert data["advice"] == ["advice"]


def test_an_expert_that_equals_the_base_and_two_that_are_one_are_warned_of(copied: Copied) -> None:
    same, twin = copied("base", "same"), copied("add", "twin")
    base, add = configured().models.base.model, configured().models.experts[1].model
    found = look("conflict", subject(f"models.experts=[{same}, {add}, {twin}]", f"models.base={base}"))
    told = [finding.text for finding in found if finding.level == "warning"]
    assert any(text.startswith("same equals the base") for text in told)
    assert any(text.startswith("nearly one model: add and twin (cosine 1.00") for text in told)


def test_an_opposed_expert_is_told_of_methods_that_elect(copied: Copied) -> None:
    folder = copied("add", "against")
    base = load_file(f"{configured().models.base.model}/model.safetensors")
    weights = load_file(folder / "model.safetensors")
    opposed = {name: (2 * base[name].float() - weight.float()).to(weight.dtype) for name, weight in weights.items()}
    save_file(opposed, folder / "model.safetensors", metadata={"format": "pt"})
    add = configured().models.experts[1].model
    settings = f"models.experts=[{add}, {folder}]"
    (opposing, _) = look("conflict", subject(settings))
    assert "oppose each other" in opposing.text
    assert "ties" in opposing.advice
    assert look("conflict", subject(settings, "merge.method=ties"))[0].advice == ""


def _conflict(gram: list[list[float]]) -> Conflict:
    sums = Sums.none(len(gram) - 1)
    sums.gram += gram
    return Conflict(("a", "b"), ("outside", "0"), 1.0, {Place("0", "mlp"): sums})


@pytest.mark.parametrize(
    ("gram", "level", "text"),
    [
        ([[100, 0, 0], [0, 1, 0.5], [0, 0.5, 1]], "ok", "point the same way"),
        ([[100, 0, 0], [0, 1, 0.0], [0, 0.0, 1]], "ok", "nearly independent"),
        ([[100, 0, 0], [0, 1, 0.0], [0, 0.0, 16]], "warning", "4.0 times as long"),
    ],
)
def test_what_is_made_of_angles_and_lengths(gram: list[list[float]], level: str, text: str) -> None:
    assert any(finding.level == level and text in finding.text for finding in judged(_conflict(gram)))


def test_without_weights_nothing_is_read() -> None:
    from evomerge.runs.doctor.findings import LeftOut
    from evomerge.runs.doctor.subject import Subject

    with pytest.raises(LeftOut, match="--no-weights"):
        look("conflict", Subject(configured(), offline=True, weights=False))


def test_the_examples_experts_are_nearly_independent() -> None:
    found = look("conflict", subject())
    assert levels(found) == {"ok"}
    assert "nearly independent" in found[0].text

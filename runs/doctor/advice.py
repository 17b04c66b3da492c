"""What angles, signs and lengths of task vectors mean for the choice of method and bounds."""

from __future__ import annotations

from collections.abc import Iterator

from evomerge.runs.doctor.conflict import Conflict
from evomerge.runs.doctor.findings import Finding, ok, warning

ALIKE = 0.98
"""Cosine from which on two experts are one."""

ALONG = 0.3
"""Cosine from which on task vectors add up to much more than each. Experts for different skills have 0 to .1: .01 to
.02 in the quickstart, .02 in the SmolLM2 case; and see Ilharco et al. (arXiv:2212.04089), figure 5."""

AGAINST = -0.1
"""Cosine below which task vectors take back what the other gives."""

UNLIKE = 0.45
"""Share of agreeing signs below which large changes meet head on. By chance it is .5; .51 to .54 in the quickstart,
.53 in the SmolLM2 case."""

ELECTING = ("breadcrumbs_ties", "consensus", "dare_ties", "della", "pcb", "sce", "ties")
"""Methods that settle such changes weight by weight."""

LONGER = 3.0
"""Times the shortest task vector. At 2.5, as in the quickstart, one pair of bounds for all weights was wide enough."""


def judged(conflict: Conflict, methods: tuple[str, ...] = ()) -> list[Finding]:
    """What to make of it, the most important first.

    Args:
        conflict: of the experts.
        methods: that the search chooses from.
    """
    found = [*_idle(conflict), *_pairs(conflict, methods), *_lengths(conflict)]
    return sorted(found, key=lambda finding: finding.level != "warning")


def lines_of(conflict: Conflict, methods: tuple[str, ...] = ()) -> list[str]:
    """The same, a line each."""
    return [f"{each.text}; {each.advice}" if each.advice else each.text for each in judged(conflict, methods)]


def _idle(conflict: Conflict) -> Iterator[Finding]:
    total = conflict.of()
    for place, name in enumerate(conflict.experts):
        if total.length(place) == 0:
            yield warning(f"{name} equals the base: there is nothing to merge", "leave it out")


def _pairs(conflict: Conflict, methods: tuple[str, ...]) -> Iterator[Finding]:
    """A finding for each verdict, with its pairs."""
    total = conflict.of()
    found: dict[Finding, list[str]] = {}
    for one, other in conflict.pairs():
        cosine, signs = total.cosine(one, other), total.signs(one, other)
        if cosine is not None:
            names = f"{conflict.experts[one]} and {conflict.experts[other]}"
            told = f"{names} (cosine {cosine:.2f}" + (f", {signs:.0%} of signs agree)" if signs is not None else ")")
            found.setdefault(_verdict(cosine, signs, methods), []).append(told)
    for verdict, pairs in found.items():
        yield verdict._replace(text=f"{verdict.text}: {', '.join(pairs)}")


def _verdict(cosine: float, signs: float | None, methods: tuple[str, ...]) -> Finding:
    if cosine >= ALIKE:
        return warning("nearly one model", "leave one of them out: it only makes the space larger")
    if cosine <= AGAINST or (signs is not None and signs < UNLIKE):
        elect = "ties and pcb elect for each weight, consensus leaves out what one expert alone wants"
        return ok("large changes oppose each other", "" if any(each in ELECTING for each in methods) else elect)
    if cosine >= ALONG:
        return ok(
            "their changes point the same way, and a sum of them overshoots",
            "weights that sum to 1 (linear, nuslerp), or upper bounds below 1",
        )
    return ok("nearly independent", "task_arithmetic or dare_linear will do, each with weights up to 1 or more")


def _lengths(conflict: Conflict) -> Iterator[Finding]:
    total = conflict.of()
    lengths = {name: total.length(place) for place, name in enumerate(conflict.experts)}
    present = {name: length for name, length in lengths.items() if length > 0}
    if len(present) < 2:
        return
    long, short = max(present, key=lambda name: present[name]), min(present, key=lambda name: present[name])
    ratio = present[long] / present[short]
    if ratio >= LONGER:
        yield warning(
            f"{long}'s task vector is {ratio:.1f} times as long as {short}'s and drowns it at equal weights",
            f"search wider bounds, or name the shorter ones in wider bounds of their own than {long}'s",
        )
    else:
        listed = ", ".join(f"{name} {100 * length:.2g} %" for name, length in lengths.items())
        yield ok(f"lengths of task vectors, of the base's: {listed}")

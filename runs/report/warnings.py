"""What should make a reader doubt the answer."""

from __future__ import annotations

import math
from collections.abc import Iterator

from evomerge.runs.report.blocks import Bullets, Section, Text
from evomerge.runs.report.drawing import count, number, shortened, signed
from evomerge.runs.report.facts import LEAKS, Facts
from evomerge.search.proxy import LEAST_CORRELATION

GAP = 0.02  # by which a score on chosen documents may exceed that on untouched ones before it is said
FEW_DOCUMENTS = 100  # of a task on `report`: the interval of a share is then up to 0.2 wide
FEW_CANDIDATES = 20
LUCK = 0.25  # of the gain over the best source: luck of the choice that is told
FAILED = 0.1  # of the trials


def warnings(facts: Facts) -> Section:
    """All warnings, or that there are none."""
    found = [
        *_of_the_comparison(facts),
        *_of_stand_ins(facts),
        *(f"Leak: {line}" for line in facts.kept.get(LEAKS, ())),
        *_of_the_search(facts),
    ]
    blocks = [Bullets(found, "warning")] if found else [Text("None: nothing that the report looks for was found.")]
    return Section("warnings", "Warnings", blocks)


def _of_the_comparison(facts: Facts) -> Iterator[str]:
    result = facts.result
    if result is None:
        return
    if result["split"] != "report":
        yield "There are no untouched documents: all scores are of documents that the search saw, and are too high."
    luck = result.get("shrinkage")
    if luck is not None and result["split"] == "report":
        gap = luck["chosen"] - result["winner"]["objective"]
        if gap > GAP and result["winner"]["interval"][1] < luck["chosen"]:
            yield (
                f"Over-fitting: the winner has {number(luck['chosen'])} on the documents it was chosen by and "
                f"{number(result['winner']['objective'])} on untouched ones, {number(gap)} less and outside of the "
                "interval."
            )
        gains = [row["difference"] for row in result["baselines"].values()]
        if gains and luck["shrinkage"] > max(LUCK * max(min(gains), 0.0), 0.005):
            yield (
                f"Luck: {number(luck['shrinkage'])} of the winner's {number(luck['chosen'])} is expected to be luck of "
                f"the choice, and its gain over the best other model is {signed(min(gains))}."
            )
    yield from _of_documents(facts)
    yield from _of_constraints(facts)


def _of_documents(facts: Facts) -> Iterator[str]:
    sizes = facts.documents_by_task
    few = [f"{shortened(title, 60)} ({size})" for title, size in sizes.items() if 0 < size < FEW_DOCUMENTS]
    if few:
        widest = 1.96 * math.sqrt(0.25 / min(size for size in sizes.values() if size))
        yield (
            f"Few documents: fewer than {FEW_DOCUMENTS} untouched ones of {', '.join(few[:8])}"
            f"{f' and {len(few) - 8} more tasks' if len(few) > 8 else ''}; of so few a score may be off by "
            f"{widest:.2f}."
        )


def _of_constraints(facts: Facts) -> Iterator[str]:
    result = facts.result
    assert result is not None
    if not result.get("feasible", True):
        yield "Constraints: no finalist keeps them all on the documents it was chosen by; the winner breaks the least."
    for name, row in result.get("constraints", {}).items():
        if not row["kept"]:
            yield (
                f"Constraint broken on {result['split']}: {shortened(name, 80)} asks for {number(row['bound'])}, "
                f"the winner has {number(row['value'])}."
            )


def _of_stand_ins(facts: Facts) -> Iterator[str]:
    for name, row in facts.told.get("proxy", {}).items():
        if row["correlation"] < LEAST_CORRELATION:
            yield (
                f"Weak stand-in: over {count(row['pairs'], 'candidate')} the cheap signal for {shortened(name, 60)} "
                f"ranks like the metric with {row['correlation']:.2f}, below {LEAST_CORRELATION:g}"
                f"{'' if row['leads'] else '; the metric itself leads the search'}."
            )
    subset = facts.told.get("subset")
    if subset is not None and subset["error"] > GAP:
        yield (
            f"Sampled documents: candidates are scored on {subset['documents']} of {subset['of']}, and their scores "
            f"are off by {subset['error']:.3f} (standard error)."
        )


def _of_the_search(facts: Facts) -> Iterator[str]:
    ended = len(facts.scored) + len(facts.failed)
    if facts.failed and len(facts.failed) >= FAILED * ended:
        reason, times = facts.failures[0]
        yield (
            f"Failed trials: {len(facts.failed)} of {ended}; most often ({times}): {shortened(reason, 200)}"
            f"{'' if reason.endswith('.') else '.'}"
        )
    if not facts.is_open and len(facts.scored) < FEW_CANDIDATES:
        yield f"Few candidates: {len(facts.scored)} have a score; {FEW_CANDIDATES} or more find better ones."

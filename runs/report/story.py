"""What the search decided, in its own words; and how to do it again."""

from __future__ import annotations

import shlex

from evomerge.runs.files import as_yaml
from evomerge.runs.report.blocks import Block, Bullets, Code, Folded, Section, Text
from evomerge.runs.report.drawing import count
from evomerge.runs.report.facts import Facts
from evomerge.search.stopping import STOPPED

SHOWN = 200  # decisions
LINES, BEGINNING = 5000, 300  # of a recipe that is shown whole, and of what is shown of a longer one


def decisions(facts: Facts) -> Section | None:
    """One line for each decision; None: nobody noted any."""
    blocks: list[Block] = []
    if facts.result is not None:
        blocks.append(Text(f"The winner was picked as {facts.result['pick']}."))
    if STOPPED in facts.kept:
        blocks.append(Text(str(facts.kept[STOPPED])))
    notes = facts.notes
    stages = [line for line in notes if line.startswith(("stage ", "sampler ", "gradient ", "method "))]
    others = [line for line in notes if line not in stages]
    if stages:
        blocks.append(Bullets(stages[-SHOWN:]))
    if others:
        left = f", the last {SHOWN}" if len(others) > SHOWN else ""
        blocks.append(Folded(f"{count(len(others), 'more note')}{left}", [Bullets(others[-SHOWN:])]))
    return Section("decisions", "What the search decided", blocks) if blocks else None


def reproduce(facts: Facts) -> Section:
    """Commands that do it again, and the configuration."""
    folder = shlex.quote(str(facts.run.folder))
    commands = [
        f"evomerge run {shlex.quote(str(facts.run.folder / 'config.yaml'))} --out AGAIN   # the same search",
        f"evomerge status {folder}",
        f"evomerge resume {folder}   # goes on where it stopped",
    ]
    if facts.best is not None:
        commands += [
            f"evomerge export {folder} --to MERGED   # the best checkpoint",
            f"evomerge export {folder} --trial {facts.best.number} --to MERGED   # the same by its number",
            f"evomerge merge {shlex.quote(str(facts.run.folder / 'best' / 'recipe.yaml'))} --to MERGED",
        ]
    told = (
        "The same configuration, models and tasks, versions and seed give the same search, trial by trial, with one "
        "worker; with several, trials are proposed in the order in which others ended."
    )
    return Section(
        "reproduce",
        "How to do it again",
        [Text(told), Code("\n".join(commands)), Folded("The configuration", [Code(as_yaml(facts.public_config))])],
    )


def recipe(facts: Facts) -> Section | None:
    """The recipe itself; None: there is none."""
    if facts.recipe is None or facts.best is None:
        return None
    lines = as_yaml(facts.recipe).splitlines()
    told = f"Of {facts.who}, trial {facts.best.number}; digest {facts.recipe.digest}. Whole in best/recipe.yaml."
    where = f"{count(len(lines), 'line')} of YAML, as evomerge merge reads it"
    if len(lines) > LINES:
        where += f" (here the first {BEGINNING} of them)"
        lines = lines[:BEGINNING]
    return Section("recipe", "The recipe", [Text(told), Folded(where, [Code("\n".join(lines))])])

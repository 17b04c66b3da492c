"""Where the model comes from: its sources, how it was found, its recipe, and what to cite."""

from __future__ import annotations

from evomerge.engine.method import METHODS
from evomerge.engine.recipe import ModelRef, Recipe
from evomerge.runs.exporting import Export, public_name, short_name
from evomerge.runs.files import as_yaml
from evomerge.runs.mergekit_file import mergekit_file


def sources(export: Export) -> str:
    """The table of sources with licences and digests."""
    licences = {found.model: found.name for found in export.verdict.sources}
    lines = ["## Sources\n", "| source | role | licence | SHA-256 of the weights |", "|---|---|---|---|"]
    for name, model in export.models.items():
        role = "base" if model == export.recipe.base else "expert"
        digest = f"`{export.sources[name]}`" if name in export.sources else ""
        lines.append(f"| {public_name(model)} | {role} | {licences.get(name, 'unknown')} | {digest} |")
    return "\n".join(lines) + "\n"


def search(export: Export) -> str:
    """How the recipe was found; empty without a search."""
    if export.found is None:
        return ""
    found, space, settings = export.found, export.found.config["space"], export.found.config["search"]
    apart = [module for module in space.get("modules") or () if module != "all"]
    modules = f", apart for {', '.join(apart)}" if apart else ""
    tasks = export.evaluation["tasks"] if export.evaluation else []
    names = ", ".join(f"`{task['task']}`" for task in tasks)
    return (
        "## How it was found\n\n"
        f"By an evolutionary search with evomerge: coefficients by layer ({space['layers']}{modules}), "
        f"{found.trials['complete']} candidates scored in full and {found.trials['pruned']} stopped early, "
        f"{found.documents['scored']:,} scores of single documents, seed {settings['seed']}; this is trial "
        f"{found.number}. The search was led by {names}. Documents are split by a hash of their content: candidates "
        "are proposed and chosen on some, and the results above are those of others.\n"
    )


def recipe(export: Export) -> str:
    """The recipe, and how to make the model again."""
    file = mergekit_file(export)
    theirs = (
        "`mergekit.yaml` is the same merge for mergekit."
        if file.text
        else f"There is no mergekit.yaml: mergekit cannot express {file.why_not}."
    )
    return (
        "## Recipe\n\n"
        f"`evomerge merge recipe.yaml --to DIR` makes it again, bit for bit: the digest of the weights is "
        f"`{export.weights}`. {theirs} `evomerge.json` holds digests, versions and scores for programs.\n\n"
        f"```yaml\n{as_yaml(_public(export.recipe), exclude_defaults=True)}```\n"
    )


def _public(recipe: Recipe) -> Recipe:
    """The recipe with folders of this machine by their names only."""
    return recipe.model_copy(
        update={"base": _nameless(recipe.base), "experts": tuple(_nameless(expert) for expert in recipe.experts)}
    )


def _nameless(model: ModelRef) -> ModelRef:
    places = {key: short_name(source) for key in ("model", "adapter") if (source := getattr(model, key))}
    return model.model_copy(update=places)


def citation(export: Export) -> str:
    """The papers behind the method."""
    paper = METHODS.get(export.recipe.method).paper
    stacked = ["- layers in another order: Akiba et al. 2024, [arXiv:2403.13187](https://arxiv.org/abs/2403.13187)"]
    lines = [f"- {export.recipe.method}: {_link(paper)}", *(stacked if export.recipe.stack else [])]
    lines.append("- the harness: [lm-evaluation-harness](https://doi.org/10.5281/zenodo.12608602)")
    return "## Citation\n\n" + "\n".join(lines if export.result is not None else lines[:-1]) + "\n"


def _link(paper: str) -> str:
    kind, _, number = paper.partition(":")
    places = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}
    return f"[{paper}]({places[kind]}{number})" if kind in places else f"<{paper}>"

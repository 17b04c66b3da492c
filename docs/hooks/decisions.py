"""Puts every page of docs/decisions into the site's navigation."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the pages, in their order, to the section that names the folder's index."""
    folder = Path(config.docs_dir) / "decisions"
    pages = [f"decisions/{path.name}" for path in sorted(folder.glob("[0-9]*.md"))]
    for entry in config.nav or []:
        if "Decisions" in entry:
            entry["Decisions"] = ["decisions/index.md", *pages]
    return config

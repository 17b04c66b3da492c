"""The documentation's site: it builds without a warning, loads nothing from the network, and its pages say what is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from evomerge.engine.method import METHODS
from evomerge.runs.schema import config_schema
from evomerge.runs.verbs import VERBS
from tests.docs.pages import DOCS, ROOT

LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}
HARMLESS = {"canonical", "next", "prev", "alternate"}
OUTSIDE = re.compile(r"""(?:@import\s+|url\()\s*["']?((?:https?:)?//[^"')\s]+)""")


class Loads(HTMLParser):
    """The addresses that a page makes the browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        address = told.get(LOADING.get(tag, ""))
        if address and not (tag == "link" and told.get("rel") in HARMLESS):
            self.found.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_no_page_loads_anything_from_the_network(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(list(DOCS.rglob("*.md"))) - 5
    for page in pages:
        loads = Loads()
        text = page.read_text(encoding="utf-8")
        loads.feed(text)
        assert loads.found
        assert [address for address in loads.found if "//" in address] == [], page
        assert OUTSIDE.findall(text) == []
    for sheet in site.rglob("*.css"):
        assert OUTSIDE.findall(sheet.read_text(encoding="utf-8")) == [], sheet


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if path.parent.name != "decisions"}
    assert [page for page in sorted(pages) if page not in text] == []


def test_the_readme_names_every_verb_and_every_link_in_it_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in VERBS if f"`evomerge {name}" not in text] == []
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_the_configuration_s_page_has_every_key() -> None:
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    schema = config_schema()
    for section in ("MergeConfig", "SearchSection", "RuntimeConfig", "EvaluateConfig"):
        for key in schema["$defs"][section]["properties"]:
            assert re.search(rf"\b{key}\b", page), f"{section}: {key}"


def test_the_methods_page_names_every_method() -> None:
    page = (DOCS / "methods.md").read_text(encoding="utf-8")
    assert [name for name in METHODS.names() if name not in page] == []


def test_pages_have_one_title_and_no_other_project_s_script() -> None:
    for path in DOCS.rglob("*.md"):
        text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1, path
        assert "<script" not in text, path
    assert yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8").replace("!!", ""))["theme"]["font"] is False

"""What is installed: every package of the repository, and the files beside the code that it reads."""

from __future__ import annotations

import tomllib

from tests.docs.pages import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CODE = ROOT / "src" / "evomerge"


def test_every_folder_with_code_is_a_package_of_the_distribution() -> None:
    rooms = [path for path in CODE.iterdir() if path.is_symlink()]
    folders = {path.parent for room in rooms for path in room.resolve().rglob("*.py")}
    named = {f"evomerge.{folder.relative_to(ROOT).as_posix().replace('/', '.')}" for folder in folders}
    assert named | {"evomerge"} == set(SETTINGS["tool"]["setuptools"]["packages"])


def test_files_beside_the_code_are_data_of_the_distribution() -> None:
    told = SETTINGS["tool"]["setuptools"]["package-data"]
    rooms = [path.resolve() for path in CODE.iterdir() if path.is_symlink()]
    found = {path for folder in (CODE, *rooms) for path in folder.rglob("*") if path.is_file() and path.suffix != ".py"}
    for path in found:
        if "__pycache__" in path.parts:
            continue
        inside = path.relative_to(CODE) if path.is_relative_to(CODE) else path.relative_to(ROOT)
        package = ".".join(("evomerge", *inside.parent.parts))
        assert any(path.match(pattern) for pattern in told.get(package, ())), path


def test_every_extra_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in SETTINGS["project"]["optional-dependencies"] if f"`{name}`" not in text] == []

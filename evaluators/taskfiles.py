"""lm-eval's task files: finding a task by name, and reading data files from the folder of the file that names them.

lm-eval skips files that it cannot parse and looks for relative data files below the working directory. Here the
first is an error, and a relative path that exists beside the task file (or beside a file that it includes) means
that one. What the files may run is confined, as `evomerge.evaluators.confinement` says.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from lm_eval.api.group import Group
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from evomerge.errors import InputError
from evomerge.evaluators.confinement import confined, read_task_file

_NAMED = 20  # an error lists the known names up to this many


class Loaded(NamedTuple):
    """Tasks by name, and the group that they are if they are one; of a single task and of a tag there is none."""

    tasks: dict[str, Task]
    group: Group | None


class TaskFiles:
    """The tasks that a configuration can name.

    Args:
        folders: searched for task files, with all folders below; where two define a task, the later folder wins. Their
            functions (`!function`) may run.
        unsafe: whether metrics may be scripts of the package evaluate.

    Raises:
        InputError: a folder does not exist, a file in it cannot be parsed or includes one elsewhere, or two files of
            one folder define the same task.
    """

    def __init__(self, folders: Sequence[Path], *, unsafe: bool = False) -> None:
        for folder in folders:
            if not folder.is_dir():
                raise InputError(f"include_path must be an existing folder, but got {str(folder)!r}")
        for folder in folders:
            _require_sound(folder, folders)
        self._folders = folders
        self._unsafe = unsafe
        self._manager = TaskManager(include_path=list(folders), include_defaults=False)

    def load(self, name: str) -> Loaded:
        """The tasks that `name` stands for: one, or all of a group or tag.

        Raises:
            InputError: there is no such task, or lm-eval cannot load it.
        """
        if name not in self._manager.task_index:
            self._add_defaults(name)
        try:
            with confined(self._folders, unsafe=self._unsafe):
                self._anchor(name)
                loaded = self._manager.load([name])
            return Loaded(dict(loaded["tasks"]), loaded.get("groups", {}).get(name))
        except InputError as error:
            raise InputError(f"task {name!r}: {error}") from None
        except Exception as error:
            if "must have valid or test docs" in str(error):
                raise without_documents(name) from error
            raise InputError(f"task {name!r} must load, but lm-eval says {one_line(error)}") from error

    def _add_defaults(self, name: str) -> None:
        """Bring in lm-eval's own tasks: some 14,000 files, read only when a name is not among the user's."""
        own = self._manager.all_tasks
        self._manager = TaskManager(include_path=list(self._folders), include_defaults=True)
        if name not in self._manager.task_index:
            raise _unknown_task(name, own, self._manager.all_tasks, self._folders)

    def _anchor(self, name: str, seen: frozenset[str] = frozenset()) -> None:
        """Make the data paths of a task, or of all tasks of a group or tag, absolute."""
        index = self._manager.task_index
        entry = index.get(name)
        if entry is None or name in seen:
            return
        seen |= {name}
        for member in entry.tags if entry.kind.name == "TAG" else _members(entry.cfg or {}):
            self._anchor(member, seen)
        if entry.yaml_path is not None and _absolute(entry.cfg or {}, entry.yaml_path) != entry.cfg:
            config = _absolute(load_yaml(entry.yaml_path), entry.yaml_path)
            index[name] = replace(entry, yaml_path=None, cfg=config)


def without_documents(name: str) -> InputError:
    """The error of a task with neither a test split nor a validation split."""
    return InputError(f"task {name!r} must have a test_split or a validation_split, but has neither")


def one_line(error: BaseException) -> str:
    """The kind of an error and its text, in one line of at most 300 characters."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else f"{text[:297]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _require_sound(folder: Path, folders: Sequence[Path]) -> None:
    defined: dict[str, Path] = {}
    for path in sorted(folder.glob("**/*.yaml")):
        config = read_task_file(path, folders)
        name = config.get("group", config.get("task"))
        if not isinstance(name, str):
            continue
        if name in defined:
            raise InputError(
                f"a task must be defined once in a folder, but {name!r} is in {str(defined[name])!r} and {str(path)!r}"
            )
        defined[name] = path


def _unknown_task(name: str, own: Sequence[str], known: Sequence[str], folders: Sequence[Path]) -> InputError:
    near = difflib.get_close_matches(name, own, n=1, cutoff=0.5) or difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    where = ", ".join(str(folder) for folder in folders) or "no include_path"
    listed = f" ({', '.join(own)})" if 0 < len(own) <= _NAMED else ""
    return InputError(f"task must be one of {where}{listed} or of lm-eval's own, but got {name!r}{hint}")


def _members(config: Mapping[str, Any]) -> Iterator[str]:
    """The names in a group's `task:` list, at any depth."""
    members = config.get("task")
    for member in members if isinstance(members, list) else ():
        if isinstance(member, str):
            yield member
        elif isinstance(member, Mapping):
            yield from (name for name in (member.get("task"), member.get("group")) if isinstance(name, str))
            yield from _members(member)


def _absolute(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """`config` of the task file `path`, with the data paths that exist beside it made absolute."""
    folders = tuple(_homes(path))
    changed = dict(config)
    source = config.get("dataset_path")
    if isinstance(source, str) and source.startswith("."):
        changed["dataset_path"] = _found(source, folders)
    kwargs = config.get("dataset_kwargs")
    if isinstance(kwargs, Mapping):
        changed["dataset_kwargs"] = {
            key: _found(value, folders) if key in {"data_files", "data_dir"} else value for key, value in kwargs.items()
        }
    if isinstance(config.get("task"), list):
        changed["task"] = [_absolute(m, path) if isinstance(m, Mapping) else m for m in config["task"]]
    return changed


def _homes(path: Path) -> Iterator[Path]:
    """The folder of a task file, then those of the files it includes, the last named first as it has precedence."""
    yield path.parent.resolve()
    includes = load_yaml(path, resolve_func=False, recursive=False).get("include", [])
    for include in reversed(includes if isinstance(includes, list) else [includes]):
        yield from _homes(path.parent / include)


def _found(value: Any, folders: Iterable[Path]) -> Any:
    """A path, or lists and tables of paths: each one absolute if it exists below one of `folders`, else as it is."""
    if isinstance(value, Mapping):
        return {key: _found(item, folders) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_found(item, folders) for item in value]
    if not isinstance(value, str) or "://" in value or Path(value).is_absolute():
        return value
    for folder in folders:
        if (folder / value).exists() or any(folder.glob(value)):
            return str(folder / value)
    return value

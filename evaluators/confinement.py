"""What task files may run: functions of files in folders that the user named and of lm-eval, and lm-eval's metrics.

lm-eval takes `!function` from any path and from any module that can be imported, fetches metrics that it does not know
as scripts from the hub, and hands dataset_path to whatever reader it names. While tasks load, these three are checked
here, at the places where lm-eval calls them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.api import registry
from lm_eval.api import task as lm_eval_task
from lm_eval.tasks import _yaml_loader
from lm_eval.tasks._yaml_loader import load_yaml

from evomerge.errors import InputError, unknown_name
from evomerge.evaluators.templates import sandbox_templates
from evomerge.plain import MAX_YAML_BYTES, check_yaml, decode

FUNCTION = "!function"
OWN = Path(lm_eval.__file__).resolve().parent
"""lm-eval's own files."""

REFUSED_READERS = frozenset(("cache", "generator", "iceberg", "pandas", "spark", "sql"))
"""Readers of the package datasets that unpickle, import by name, or run queries."""

_lock = threading.RLock()


@contextmanager
def confined(folders: Sequence[Path], *, unsafe: bool = False) -> Iterator[None]:
    """Keep lm-eval within bounds while the block loads tasks, and its templates in their sandbox from then on.

    Args:
        folders: whose files may hold functions, beside lm-eval's own.
        unsafe: whether metrics may be scripts of the package evaluate.

    Raises:
        InputError: in the block, for a function, a metric or a reader of data that is refused.
    """
    sandbox_templates()
    homes = [folder.resolve() for folder in folders]
    import_function, download = _yaml_loader._import_func_in_yml, lm_eval_task.ConfigurableTask.download
    with _lock:
        found = (import_function, lm_eval_task.get_metric, download)
        _yaml_loader._import_func_in_yml = _functions_in(homes, import_function)
        lm_eval_task.get_metric = lm_eval_task.get_metric if unsafe else _own_metric
        lm_eval_task.ConfigurableTask.download = _reading(download)
        try:
            yield
        finally:
            _yaml_loader._import_func_in_yml, lm_eval_task.get_metric, lm_eval_task.ConfigurableTask.download = found


def read_task_file(path: Path, folders: Sequence[Path]) -> dict[str, Any]:
    """What a task file says, together with what it includes; functions stay names.

    Args:
        path: of the file.
        folders: in which it and what it includes must lie, unless that is lm-eval's own.

    Raises:
        InputError: it, or what it includes, is no YAML, too deep or too large, has another tag than `!function`,
            includes itself, or lies elsewhere.
    """
    _check(path, folders, frozenset())
    return _loaded(path, recursive=True)


def _check(path: Path, folders: Sequence[Path], seen: frozenset[Path]) -> None:
    rule = f"task file {str(path)!r} must be valid YAML"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_YAML_BYTES + 1)
    except OSError as error:
        raise InputError(f"task file {str(path)!r} must be readable, but: {error.strerror}") from None
    if len(data) > MAX_YAML_BYTES:
        raise InputError(f"task file {str(path)!r} must have at most {MAX_YAML_BYTES} bytes, but has more")
    check_yaml(decode(data, rule), rule, frozenset((FUNCTION,)))
    includes = _loaded(path, recursive=False).get("include", [])
    for include in includes if isinstance(includes, list) else [includes]:
        _check_include(path, include, folders, seen | {path.resolve()})


def _loaded(path: Path, *, recursive: bool) -> dict[str, Any]:
    try:
        return dict(load_yaml(path, resolve_func=False, recursive=recursive))
    except Exception as error:  # whatever PyYAML's constructors make of it
        said = " ".join(str(error).split())[:300]
        raise InputError(f"task file {str(path)!r} must be valid YAML, but {type(error).__name__}: {said}") from None


def _check_include(path: Path, include: Any, folders: Sequence[Path], seen: frozenset[Path]) -> None:
    if not isinstance(include, str):
        raise InputError(f"include of task file {str(path)!r} must be a path, but is {include!r:.100}")
    try:
        target = (path.resolve().parent / include).resolve()
        is_file = target.is_file()
    except (OSError, ValueError, RuntimeError):
        is_file = False
    if not is_file:
        raise InputError(f"include of task file {str(path)!r} must be a file, but {include!r:.200} is none")
    if target in seen:
        raise InputError(f"task file {str(path)!r} must not include itself, but does through {include!r:.200}")
    if target.is_relative_to(OWN):
        return
    if not _is_within(target, [folder.resolve() for folder in folders]):
        raise InputError(
            f"include of task file {str(path)!r} must lie in include_path, but {include!r:.200} leaves it; name that "
            f"folder, too"
        )
    _check(target, folders, seen)


def network_source(task: Any) -> str | None:
    """From where a loaded task has its documents, where that is another machine: a repository of the hub, or a URL."""
    config = getattr(task, "config", None)
    if config is None or callable(getattr(config, "custom_dataset", None)):
        return None
    files = _texts((config.dataset_kwargs or {}).get("data_files"))
    remote = next((file for file in files if "://" in file and not file.startswith("file://")), None)
    source = str(config.dataset_path or "")
    if remote is not None or not source or files or Path(source).expanduser().exists():
        return remote
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    return None if source in _PACKAGED_DATASETS_MODULES else source


def _functions_in(homes: Sequence[Path], import_function: Callable[[str, Path], Any]) -> Callable[[str, Path], Any]:
    def checked(name: str, base: Path) -> Any:
        module, _, _ = name.rpartition(".")
        try:
            beside = (base / f"{module.replace('.', '/')}.py").resolve()
            exists = beside.exists()
        except (OSError, ValueError, RuntimeError):
            exists = False
        if exists and not _is_within(beside, [*homes, OWN]):
            raise InputError(
                f"{FUNCTION} must be in a file in include_path, but {name!r:.200} of {str(base)!r} is in "
                f"{str(beside)!r}"
            )
        if not exists and module.partition(".")[0] != OWN.name:
            raise InputError(
                f"{FUNCTION} must be in a file beside the task file that names it, or in {OWN.name}, but "
                f"{name!r:.200} of {str(base)!r} is not"
            )
        return import_function(name, base)

    return checked


def _own_metric(name: Any, hf_evaluate_metric: bool = False) -> Any:
    import lm_eval.api.metrics  # noqa: F401 - registers them

    if hf_evaluate_metric:
        raise InputError(
            f"metrics must be lm-eval's own, but {name!r:.100} is a script of the package evaluate; "
            f"allow_unsafe_code must be true for it"
        )
    if name not in registry.metric_registry:
        raise unknown_name("a metric of lm-eval", str(name)[:100], map(str, registry.metric_registry))
    return registry.metric_registry.get(name)


def _reading(download: Callable[..., None]) -> Callable[..., None]:
    def checked(task: Any, dataset_kwargs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        source = str(task.config.dataset_path or "")
        if source in REFUSED_READERS or source.endswith(".py"):
            raise InputError(
                f"dataset_path of task {task.config.task!r} must be data, but {source!r:.200} runs code to read it"
            )
        download(task, dataset_kwargs, **kwargs)

    return checked


def _is_within(path: Path, homes: Sequence[Path]) -> bool:
    return any(path.is_relative_to(home) for home in homes)


def _texts(value: Any) -> list[str]:
    """All texts in a value, in lists and mappings."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []

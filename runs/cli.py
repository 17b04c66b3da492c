"""The command line: `evomerge VERB ...`. Each verb imports what it needs when it runs."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import Abort, TyperException

from evomerge.errors import EvomergeError, InputError, InterruptedRunError

app = typer.Typer(
    name="evomerge",
    help="Evolutionary search for the best merge of language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Trials = Annotated[int | None, typer.Option(min=1, help="Candidates in all, warm starts and earlier ones included.")]
TimeoutOption = Annotated[str | None, typer.Option("--timeout", help="Stop after so long, such as 90s, 30m, 2h.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:i, or balanced over all GPUs.")]
MemoryLimit = Annotated[str | None, typer.Option(help="Of the host's memory, such as 16GB; by default what is free.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="key.path=value in place of the file's.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
RunFolder = Annotated[Path, typer.Argument(help="The run's folder.")]


@app.callback()
def _common(debug: Debug = False) -> None:
    """Evolutionary search for the best merge of language models."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.basicConfig(level=logging.DEBUG if debug else logging.ERROR, stream=sys.stderr)


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="The search's YAML file.")],
    out: Annotated[Path | None, typer.Option(help="The run's folder; by default outputs/NAME.")] = None,
    trials: Trials = None,
    timeout: TimeoutOption = None,
    workers: Workers = None,
    storage: Annotated[str | None, typer.Option(help="The database's URL; by default SQLite in the folder.")] = None,
    device: Device = None,
    memory_limit: MemoryLimit = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Launch a search; it ends with the winner and its comparison on untouched documents."""
    from evomerge.runs.launch import start
    from evomerge.search.config import load_config

    given = {
        "search.trials": trials,
        "search.timeout": timeout,
        "runtime.workers": workers,
        "runtime.storage": storage,
        "runtime.device": device,
        "runtime.memory_limit": memory_limit,
    }
    flags = [f"{key}={value}" for key, value in given.items() if value is not None]
    resolved = load_config(config, [*(settings or []), *flags])
    folder = out or Path("outputs") / resolved.name
    with _progress() as bar:
        done = start(resolved, folder, bar)
    _tell_result(done, as_json)


@app.command()
def resume(
    run: Annotated[Path | None, typer.Argument(help="The run's folder.")] = None,
    trials: Trials = None,
    timeout: TimeoutOption = None,
    workers: Workers = None,
    storage: Annotated[str | None, typer.Option(help="Join a study from its database: its URL.")] = None,
    study: Annotated[str | None, typer.Option(help="With --storage: the study's name.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --storage: the folder to make; by default outputs/STUDY.")
    ] = None,
    memory_limit: MemoryLimit = None,
    as_json: Json = False,
) -> None:
    """Go on with a run, after any kind of stop."""
    from evomerge.runs.launch import go_on
    from evomerge.runs.run import join_run, open_run
    from evomerge.search.config import seconds

    if workers not in (None, 1):
        raise InputError(f"--workers must be 1 in this version (more come later), but got {workers}")
    if (run is None) == (storage is None) or (storage is None) != (study is None):
        raise InputError("resume must be given either a run's folder, or --storage and --study")
    limit = None if timeout is None else _duration(seconds, timeout)
    opened = (
        open_run(run) if run is not None else join_run(str(storage), str(study), out or Path("outputs") / str(study))
    )
    with _progress() as bar:
        go_on(opened, bar, trials, limit, memory_limit)
    _tell_result(opened, as_json)


@app.command()
def status(run: RunFolder, as_json: Json = False, watch: Annotated[bool, typer.Option("--watch")] = False) -> None:
    """Show where a run stands."""
    from evomerge.runs.run import open_run
    from evomerge.runs.status import status as told

    opened = open_run(run)
    if watch:
        _watch(opened)
    elif as_json:
        _print_json(told(opened))
    else:
        from evomerge.runs.console import status_table

        _out().print(status_table(told(opened)))


@app.command()
def export(
    run: RunFolder,
    to: Annotated[Path, typer.Option(help="A new folder.")],
    trial: Annotated[str, typer.Option(help="best, or a trial's number.")] = "best",
    push_to_hub: Annotated[str | None, typer.Option(help="Upload to this repository of the hub, too.")] = None,
    memory_limit: MemoryLimit = None,
    as_json: Json = False,
) -> None:
    """Write the checkpoint of a candidate, with its card and provenance."""
    from evomerge.runs.export import export_run
    from evomerge.runs.run import open_run

    if trial != "best" and not trial.isdecimal():
        raise InputError(f"--trial must be best or a number, but got {trial!r}")
    folder = export_run(
        open_run(run), to, None if trial == "best" else int(trial), memory_limit=memory_limit, tell=_tell
    )
    if push_to_hub is not None:
        from evomerge.runs.hub import push

        push(folder, push_to_hub)
    _tell_folder(folder, as_json)


@app.command()
def merge(
    recipe: Annotated[Path, typer.Argument(help="A recipe in YAML or JSON, or a mergekit YAML.")],
    to: Annotated[Path, typer.Option(help="A new folder.")],
    device: Device = None,
    memory_limit: MemoryLimit = None,
    as_json: Json = False,
) -> None:
    """Merge one recipe and write its checkpoint."""
    from evomerge.runs.export import write_recipe
    from evomerge.search.recipes import read_recipe

    folder = write_recipe(read_recipe(recipe), to, device or "auto", memory_limit=memory_limit, tell=_tell)
    _tell_folder(folder, as_json)


@app.command(name="eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="A model's folder, a hub id, or a recipe.")],
    config: Annotated[Path, typer.Option(help="The search's YAML file.")],
    split: Annotated[str, typer.Option(help="search, select, report or all.")] = "all",
    device: Device = None,
    memory_limit: MemoryLimit = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Score a model or recipe the way a search with CONFIG would."""
    from evomerge.runs.evaluation import evaluate_source
    from evomerge.search.config import load_config

    given = {"runtime.device": device, "runtime.memory_limit": memory_limit}
    flags = [f"{key}={value}" for key, value in given.items() if value is not None]
    told = evaluate_source(model, load_config(config, [*(settings or []), *flags]), split, _tell)
    if as_json:
        _print_json(told)
    else:
        from evomerge.runs.console import evaluation_table

        _out().print(evaluation_table(told))


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One of them, explained in full.")] = None,
    as_json: Json = False,
) -> None:
    """List the merge methods: what each is for, its parameters with their ranges, and its paper."""
    from evomerge.runs.methods import described, everything, method_page, methods_table

    if as_json:
        _print_json(everything() if name is None else described(name))
    else:
        _out().print(methods_table() if name is None else method_page(name))


@app.command()
def space(
    config: Annotated[Path, typer.Argument(help="The search's YAML file.")],
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """List what a search may vary: every dimension with its bounds, and what is fixed."""
    from evomerge.runs.spaces import described, space_page
    from evomerge.search.config import load_config

    resolved = load_config(config, settings)
    if as_json:
        _print_json(described(resolved))
    else:
        _out().print(space_page(resolved))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 wrong input, 130 interrupted, 1 anything else; errors take one line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    ordered = ["--debug"] * debug + [argument for argument in arguments if argument != "--debug"]
    try:
        code = app(ordered, standalone_mode=False)
    except (InputError, TyperException) as error:
        code = _fail(error, 2, debug)
    except (InterruptedRunError, KeyboardInterrupt, Abort) as error:
        code = _fail(error, 130, debug)
    except BrokenPipeError:
        code = 1
    except Exception as error:
        code = _fail(error, 1, debug)
    sys.exit(code)


def _fail(error: BaseException, code: int, debug: bool) -> int:
    if debug:
        raise error
    text = str(getattr(error, "format_message", error.__str__)())
    name = (
        ""
        if isinstance(error, EvomergeError | TyperException | KeyboardInterrupt | Abort)
        else f"{type(error).__name__}: "
    )
    print(f"evomerge: {name}{' '.join(text.split()) or 'interrupted'}", file=sys.stderr)
    return code


def _progress() -> Any:
    from rich.console import Console

    from evomerge.runs.console import ProgressBar

    return ProgressBar(Console(stderr=True))


def _out() -> Any:
    from rich.console import Console

    return Console()


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _tell_result(run: Any, as_json: bool) -> None:
    if as_json:
        from evomerge.runs.status import status as told

        _print_json({**told(run), "folder": str(run.folder), "comparison": run.result})
        return
    from evomerge.runs.console import comparison_table

    console = _out()
    console.print(comparison_table(run.result))
    console.print(f"best recipe: {run.folder / 'best' / 'recipe.yaml'}", highlight=False, soft_wrap=True)
    console.print(f"export it: evomerge export {run.folder} --to DIR", highlight=False, soft_wrap=True)


def _tell_folder(folder: Path, as_json: bool) -> None:
    if as_json:
        _print_json({"folder": str(folder)})
    else:
        _out().print(f"wrote {folder}", highlight=False, soft_wrap=True)


def _watch(run: Any) -> None:
    import time

    from rich.live import Live

    from evomerge.runs.console import status_table
    from evomerge.runs.status import status as told

    with Live(status_table(told(run)), console=_out(), auto_refresh=False) as live:
        while run.is_held:
            time.sleep(1)
            live.update(status_table(told(run)), refresh=True)


def _duration(parse: Any, text: str) -> float:
    try:
        return float(parse(text))
    except ValueError as error:
        raise InputError(f"--timeout: {error}") from None


def _print_json(told: Any) -> None:
    print(json.dumps(told, indent=2, allow_nan=False))


if __name__ == "__main__":
    main()

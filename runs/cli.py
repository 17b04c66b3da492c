"""The command line: `evomerge VERB ...`. Each verb is a file in `verbs`, and imports what it needs when it runs."""

from __future__ import annotations

import logging
import os
import sys

import typer
from typer.exceptions import Abort, TyperException

from evomerge.errors import EvomergeError, InputError, InterruptedRunError
from evomerge.runs.verbs import VERBS
from evomerge.runs.verbs.options import Debug, LogFormat
from evomerge.secrets import hide

app = typer.Typer(
    name="evomerge",
    help="Evolutionary search for the best merge of language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _common(debug: Debug = False, log_format: LogFormat = "text") -> None:
    """Evolutionary search for the best merge of language models."""
    os.environ["EVOMERGE_LOG_FORMAT"] = log_format  # worker processes inherit it
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.basicConfig(level=logging.DEBUG if debug else logging.ERROR, stream=sys.stderr)


for _name, _verb in VERBS.items():
    app.command(name=_name)(_verb)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 wrong input, 130 interrupted, 1 anything else; errors take one line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    ordered = ["--debug"] * debug + _in_front([each for each in arguments if each != "--debug"], "--log-format")
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
    line = hide(f"{name}{' '.join(text.split()) or 'interrupted'}")
    if os.environ.get("EVOMERGE_LOG_FORMAT") == "json":
        from evomerge.runs.lines import JsonLines

        JsonLines(sys.stderr).write("error", text=line, code=code)
    else:
        print(f"evomerge: {line}", file=sys.stderr)
    return code


def _in_front(arguments: list[str], option: str) -> list[str]:
    """The arguments with an option that takes a value, wherever it stands, before the verb."""
    for place, argument in enumerate(arguments):
        size = 2 if argument == option else 1 if argument.startswith(f"{option}=") else 0
        if size:
            return [*arguments[place : place + size], *arguments[:place], *arguments[place + size :]]
    return arguments


if __name__ == "__main__":
    main()

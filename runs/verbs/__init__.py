"""The verbs, in the order in which `evomerge --help` lists them."""

from collections.abc import Callable

from evomerge.runs.verbs.doctor import doctor
from evomerge.runs.verbs.evaluate import evaluate
from evomerge.runs.verbs.export import export
from evomerge.runs.verbs.merge import merge
from evomerge.runs.verbs.methods import methods
from evomerge.runs.verbs.report import report
from evomerge.runs.verbs.resume import resume
from evomerge.runs.verbs.run import run
from evomerge.runs.verbs.schema import schema
from evomerge.runs.verbs.space import space
from evomerge.runs.verbs.status import status
from evomerge.runs.verbs.worker import worker

VERBS: dict[str, Callable[..., None]] = {
    "run": run,
    "resume": resume,
    "worker": worker,
    "status": status,
    "report": report,
    "export": export,
    "merge": merge,
    "eval": evaluate,
    "doctor": doctor,
    "space": space,
    "methods": methods,
    "schema": schema,
}

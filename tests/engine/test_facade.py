from __future__ import annotations

import subprocess
import sys

import pytest

import evomerge.engine


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join({{name.partition('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import evomerge.engine",
        "from evomerge.engine import Group, ModelRef, ParameterSpec, Recipe",
        "from evomerge.engine import METHODS, validate; METHODS.get('dare_ties').parameters",
        "from evomerge.engine.checkpoint import open_checkpoint",
    ],
)
def test_no_torch_where_none_is_needed(code):
    assert not {"torch", "transformers"} & loaded_by(code)


def test_every_public_name_is_there():
    assert all(getattr(evomerge.engine, name) is not None for name in evomerge.engine.__all__)
    assert set(evomerge.engine.__all__) == set(evomerge.engine._HOMES)
    with pytest.raises(AttributeError, match="has no attribute 'Mergre'"):
        _ = evomerge.engine.Mergre

"""The experiments on hyperparameters run, and go on from what is there."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = {"sweep_truth": 45, "layers": 28, "regularisers": 40, "sources": 34}
"""Points of one task, of every case."""


def run(name: str, output: Path, data: Path) -> str:
    """What an experiment says at the smallest scale, on one task."""
    call = [
        sys.executable,
        ROOT / "experiments" / f"{name}.py",
        "--data",
        data,
        "--tasks",
        "hymenoptera",
        "--output",
        output,
    ]
    return subprocess.run(list(map(str, call)), cwd=output.parent, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_every_point_is_predicted_and_run_once(name, shared, tmp_path):
    output = tmp_path / "out"
    said = run(name, output, shared / "data")
    lines = [
        line for file in (output / "smoke" / "predicted").glob("*.jsonl") for line in file.read_text().splitlines()
    ]
    assert len(lines) == ROWS[name] and "hymenoptera" in (output / "smoke" / "table.md").read_text()
    assert "real hymenoptera" in said and run(name, output, shared / "data").startswith("wrote")

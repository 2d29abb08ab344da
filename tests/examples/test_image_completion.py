"""The image experiment, end to end with tiny arguments."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "image_completion.py"


def test_it_compares_all_methods_at_the_same_cost(tmp_path: Path) -> None:
    tiny = ["--views", "half", "--count", "2", "--chains", "8", "--warmup", "4", "--samples", "1", "--leapfrog", "2"]
    tiny += ["--starts", "3", "--generators", "mnist_vae"]
    command = [sys.executable, str(SCRIPT), *tiny, "--output", str(tmp_path / "result")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "annealed HMC" in printed
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert [row["method"] for row in rows] == [
        "descent, 5 steps",
        "descent, one start",
        "descent, best of 8",
        "descent, all 8",
        "descent, best of 3",
        "annealed HMC",
    ]
    costs = {row["method"]: row["gradient_evaluations"] for row in rows}
    assert costs["descent, one start"] == costs["descent, all 8"] == costs["annealed HMC"] == 8 * 5 * 2
    assert all(0 < row["hidden_crps"] < 2 for row in rows)
    assert (tmp_path / "result.png").stat().st_size > 0

"""The example runs with tiny arguments, and its table holds what it says."""

import json

import numpy as np
import pytest


@pytest.mark.slow
def test_the_example_runs(script, tmp_path, capsys):
    options = script.Options(
        steps=4,
        batch=4,
        widths=(8,),
        masks=8,
        views=("half",),
        count=2,
        warmups=(4,),
        leapfrog=2,
        chains=8,
        samples=1,
        output=tmp_path / "out" / "start",
    )
    rows = script.main(options)
    assert [row["start"] for row in rows] == ["guide alone", "prior", "encoder"]
    assert "ancestors" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "start.json").read_text())
    np.testing.assert_equal(record["rows"], rows)  # so few chains may leave one population, and no fair score
    assert record["command"].startswith("python examples/encoder_start.py")

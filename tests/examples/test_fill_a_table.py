"""The example of filled tables runs end to end with tiny arguments; its closed forms and its standard errors are right."""

import json

import numpy as np
import pytest
from scipy import stats


def test_the_gaussian_is_conditioned(script):
    """Against the formulas with the precision matrix: given the rest, entry j has the variance 1 / P_jj."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3)) + [1.0, 2.0, 3.0]
    precision = np.linalg.inv(script.shrunk(rows, 0.1))
    holed = rows[:4].copy()
    holed[:, 1] = np.nan
    mean, sd = script.gaussian(rows, holed, 0.1)
    off = (rows[:4] - rows.mean(axis=0)) * [1, 0, 1]
    np.testing.assert_allclose(mean[:, 1], rows[:, 1].mean() - off @ precision[1] / precision[1, 1], rtol=1e-6)
    np.testing.assert_allclose(sd[:, 1], precision[1, 1] ** -0.5, rtol=1e-6)
    nothing_seen, alone = script.gaussian(rows, np.full((1, 3), np.nan), 0.0)
    np.testing.assert_allclose(nothing_seen[0], rows.mean(axis=0))
    np.testing.assert_allclose(alone[0], rows.std(axis=0, ddof=1), rtol=1e-3)


def test_the_discriminant_is_bayes_rule(script):
    """Two levels a distance apart: the log odds are linear in what is seen, and are the shares' where nothing is."""
    rng = np.random.default_rng(1)
    codes = (rng.random(4_000) < 0.25).astype(int)
    rows = rng.normal(size=(4_000, 2)) + 2.0 * codes[:, None] * [1, 0]
    asked = np.array([[1.5, np.nan], [np.nan, 3.0], [np.nan, np.nan]])
    found = script.discriminant(rows, codes, asked, 0.0)
    density = stats.norm.pdf(1.5, [0, 2]) * [0.75, 0.25]
    np.testing.assert_allclose(found[0], density / density.sum(), atol=0.02)
    np.testing.assert_allclose(found[1:, 1], 0.25, atol=0.03)


def test_the_standard_error_honours_rows(script):
    """Entries of a row that go together count as one."""
    rng = np.random.default_rng(2)
    independent = rng.normal(size=(2_000, 1))
    mean, error = script.mean_and_error(np.repeat(independent, 5, axis=1))
    assert mean == pytest.approx(independent.mean())
    assert error == pytest.approx(independent.std() / np.sqrt(2_000), rel=1e-6)
    assert script.mean_and_error(np.array([[1.0, np.nan], [3.0, 3.0]]))[0] == pytest.approx(7 / 3)


def test_what_is_hidden(script):
    hidden = script.hide(np.zeros((300, 4)), 0.9, np.random.default_rng(0))
    assert hidden.any(axis=1).all()
    assert not hidden.all(axis=1).any()


def test_who_wins_is_said(script):
    gain = np.array([[1.0, 1.2], [0.9, np.nan], [1.1, 1.0]])
    assert script.verdict("a", "b", "CRPS", gain).startswith("CRPS: 'a' beats 'b' by 1.0")
    assert script.verdict("a", "b", "CRPS", -gain).startswith("CRPS: 'b' beats 'a' by 1.0")
    assert "no clear winner" in script.verdict("a", "b", "CRPS", gain - 1.0)


def test_the_example_runs(script, tmp_path, capsys):
    options = script.Options(
        tables=("wine",),
        tested=1,
        latents=(2,),
        widths=(8,),
        steps=20,
        chains=8,
        temperatures=4,
        leapfrog=2,
        draws=2,
        output=tmp_path / "table",
    )
    record = script.main(options)["tables"]["wine"]
    said = capsys.readouterr().out
    assert all(method in said for method in script.METHODS)
    assert json.loads((tmp_path / "table.json").read_text())["tables"]["wine"] == json.loads(json.dumps(record))
    assert (tmp_path / "table.png").stat().st_size > 0
    assert (record["rows"], record["tested_rows"]) == (178, 36)
    for row in record["methods"].values():
        assert 0 < row["crps"]["mean"] < 1.5
        assert 0 <= row["accuracy"]["mean"] <= 1
    assert record["methods"]["Gaussian"]["crps"]["mean"] < record["methods"]["marginal"]["crps"]["mean"]

"""Squared errors times work: the ratios are what they say, and a tiny run goes through."""

import json

import numpy as np
import pytest


def test_a_sampler_of_twice_the_error_and_thrice_the_work_is_twelve_times_worse(benchmark):
    work = benchmark("peer_work")
    rng = np.random.default_rng(0)

    def item(error, gradients, seconds):
        runs = work.Runs()
        for _ in range(200):
            runs.add(error * rng.normal(), error, seconds, gradients, 30.0)
        return runs

    ours = [item(0.1, 90.0, 1.0) for _ in range(3)]
    theirs = [item(0.2, 290.0, 3.0) for _ in range(3)]
    assert theirs[0].work == pytest.approx(3 * ours[0].work)  # an evaluation without gradient is a third
    found = work.ratios(ours, theirs, bootstraps=400)
    assert found["distance x seconds"]["ratio"] == pytest.approx(12.0)
    evidence = found["evidence x gradients"]
    assert evidence["low"] < 12.0 < evidence["high"]
    assert 7.0 < evidence["low"] < evidence["ratio"] < evidence["high"] < 20.0


def test_both_sides_have_the_same_grid_but_for_what_is_ours(benchmark):
    work = benchmark("peer_work")
    options = work.Options()
    for case in options.cases:
        ours, theirs = (
            {(c.particles, c.moves, c.numbers._replace(mass=0.0)) for c in work.candidates(side, case, options)}
            for side in (work.OURS, work.BLACKJAX)
        )
        assert ours == theirs


@pytest.mark.slow
def test_a_tiny_run_goes_through(benchmark, tmp_path):
    work = benchmark("peer_work")
    work.main(work.Options(quick=True, cases=("five_gaussians",), output=tmp_path / "work.json"))
    rows = json.loads((tmp_path / "work.json").read_text())["rows"]
    assert {work.OURS, work.BLACKJAX, work.PLAIN, work.PRIOR} == {row["method"] for row in rows}
    assert set(rows[0]["ratios"]) == set(work.PRODUCTS)

"""The comparison with the peers: its tuning chooses as it says, its distances are right, and a tiny run goes through."""

import json
import sys

import numpy as np
import pytest


@pytest.fixture(scope="module")
def peers(benchmark):
    return benchmark("peers")


def test_the_winner_is_the_fastest_within_the_errors(peers, monkeypatch):
    """Named candidates with known seconds and errors; one that is slower than the best is not run a second time."""
    known = {"slow": (3.0, 0.01), "wrong": (0.1, 5.0), "right": (2.0, 0.01), "later": (2.5, 0.01), "close": (9.0, 0.15)}
    runs = []

    class Program:
        def __init__(self, name, numbers):
            self.name, self.peak_bytes = name, 0

        def __call__(self, seed, numbers=None):
            runs.append((self.name, seed))
            seconds, error = known[self.name]
            z, one = np.zeros((4, 1)), np.float32(1.0)
            return sys.modules["peer_samplers"].Outcome(z, np.zeros(4), np.float32(error), one, one), seconds

    monkeypatch.setattr(peers, "Program", Program)
    case = peers.Case("case", None, (0.1, 0.1), 0.0, "", lambda z, weight: 0.0)
    options = peers.Options(tuning_seconds=100.0, tuning_seeds=4)

    def side(*names):
        return [peers.Candidate(name, (name,), lambda name=name: name) for name in names]

    best = peers.tune(case, {"a": side("slow", "wrong", "right", "later"), "b": side("wrong", "close")}, options)
    assert best["a"].candidate.setting == "right"
    assert best["a"].reached
    assert best["a"].result.seconds == 2.0
    assert runs.count(("later", 100)) == 1
    assert ("later", 101) not in runs
    assert [seed for name, seed in runs if name == "wrong"] == [100, 101, 102] * 2  # hopeless after three, on both sides
    assert best["b"].candidate.setting == "close"  # nothing is within the errors, and it comes closest
    assert not best["b"].reached
    few = peers.tune(case, {"a": side("slow", "right")}, peers.Options(tuning_seconds=5.0, tuning_seeds=3))
    assert few["a"].candidate.setting == "slow"  # its runs have used the time up


def test_both_sides_are_tuned_on_the_same_settings(peers):
    settings = peers.grid(peers.Options())
    assert len(settings) == len(set(settings)) == 3 * 3 * 3 * 4 * 5
    first, last = settings[0], settings[-1]
    assert (first.particles, first.moves, first.numbers.leapfrog, first.numbers.ess) == (256, 1, 2, 0.3)
    assert (last.particles, last.moves, last.numbers.leapfrog, last.numbers.ess) == (4096, 8, 10, 0.9)
    assert settings == peers.grid(peers.Options())


@pytest.mark.slow
def test_a_tiny_run_goes_through(peers, tmp_path, capsys):
    also = ("fixed schedules", "Pyro HMC")
    options = peers.Options(quick=True, cases=("five_gaussians",), also=also, output=tmp_path / "peers.json")
    peers.main(options)
    record = json.loads((tmp_path / "peers.json").read_text())
    methods = {row["method"] for row in record["rows"]}
    assert {
        "annealed HMC, adaptive",
        "BlackJAX adaptive tempered SMC",
        "AIS as published",
        "Pyro HMC",
    } <= methods
    assert record["rows"][0]["ratio"]["median"] > 0
    for row in record["rows"]:
        assert row["seconds"] > 0
        assert 0 <= row["distance"] < 5  # x1 lies within 2.5 of zero
        assert row["gradients"] > 0
    said = capsys.readouterr().out
    assert "BlackJAX / ours" in said
    assert "| five_gaussians | annealed HMC, adaptive |" in said

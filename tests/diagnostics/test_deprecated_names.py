"""Former names warn, name the new one, and are the same object."""

import subprocess
import sys

import pytest

from cogen import diagnostics
from cogen.diagnostics.deprecated import RENAMED


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_former_name_warns_every_time_and_is_the_new_one(old, new):
    for _ in range(2):
        with pytest.warns(DeprecationWarning, match=rf"cogen\.diagnostics\.{old} is now cogen\.diagnostics\.{new}$") as said:
            found = getattr(diagnostics, old)
        assert found is getattr(diagnostics, new)
        assert said[0].filename == __file__
    assert old not in dir(diagnostics)


def test_the_former_names_are_those_that_were_public():
    assert set(RENAMED) == {
        *("complaints", "annealing", "completions", "trace_plot", "rank_plot", "energy_plot", "rank_ecdfs", "rank_histograms")
    }
    assert {"diagnose", "plot_annealing", "plot_completions", "plot_trace", "plot_rank", "plot_energy"} <= set(dir(diagnostics))


def test_an_import_of_a_former_name_warns_at_the_import():
    code = "from cogen.diagnostics import complaints; print(complaints.__name__)"
    answer = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "diagnose"
    assert "<string>:1: DeprecationWarning: cogen.diagnostics.complaints is now cogen.diagnostics.diagnose" in answer.stderr


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="grumbles"):
        diagnostics.grumbles  # noqa: B018

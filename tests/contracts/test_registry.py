"""Nothing public is without a contract."""

import functools
import inspect
from types import SimpleNamespace

import pytest
from numpyro.infer.mcmc import MCMCKernel
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel as PyroMCMCKernel
from registry import APPROXIMATE, DRIVEN, ELSEWHERE, PLACED

import cogen.inference as wing

KERNELS = {
    name
    for name in wing.__all__
    if inspect.isclass(kind := getattr(wing, name)) and issubclass(kind, MCMCKernel | PyroMCMCKernel)
}


def name_of(entry):
    """The class of a driven kernel."""
    if entry.make.__name__ == "guided":  # it would be fitted
        return "AnnealedHMC"
    kernel = entry.make(SimpleNamespace(step=0.1, model=None, log_evidence=[0.0]))
    return kernel.func.__name__ if isinstance(kernel, functools.partial) else type(kernel).__name__


def test_every_kernel_is_under_contract():
    assert len(KERNELS) > 8
    driven = {name_of(entry) for entry in DRIVEN.values()}
    assert KERNELS - driven == {*APPROXIMATE, *ELSEWHERE}
    assert {"NUTS", "HMC"} <= driven


@pytest.mark.parametrize("kernel", ["annealed", "mala"])
@pytest.mark.parametrize("library", ["", "torch, "])
def test_our_kernels_start_from_given_positions_below_one_too(library, kernel):
    assert min(PLACED[library + kernel].betas) < 1 == max(PLACED[library + kernel].betas)

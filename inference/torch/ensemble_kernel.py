"""The public kernel classes for Pyro models: recipes for `infer`, and kernels for Pyro's ``MCMC``.

Pyro's own kernels move one chain at a time; here the chain axis is inside the kernel, so that ``MCMC(num_chains=1)`` runs all
chains. The counterpart of `cogen.inference.adapters.ensemble_kernel`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

import torch
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor
from torch.distributions import Transform

from cogen.inference.adapters.recipe import Recipe
from cogen.inference.kernels.kernel import ExactDraws, Kernel, Own
from cogen.inference.seeds import id_halves
from cogen.inference.signatures import Model
from cogen.inference.torch.random_numbers import Random
from cogen.inference.torch.targets import PyroTarget


class PyroEnsembleKernel(Recipe, MCMCKernel):
    """A kernel over all chains of all items."""

    transforms: dict[str, Transform] = {}  # noqa: RUF012 (for Pyro's MCMC: draws are constrained already)
    parameters_doc = """
        :param model: a conditioned Pyro model or `ItemModel` (such as a ``CoGenerator``), or None for a recipe that `infer`
            binds to a model.
        :param num_chains: chains per item, for ``pyro.infer.MCMC`` only; `infer` has its own parameter."""

    def __init__(self, model: Model | None = None, *, num_chains: int | None = None, **settings: object) -> None:
        self.settings = type(self).settings_type(**settings)
        if num_chains is not None and num_chains < 1:
            raise ValueError(f"num_chains={num_chains}: it must be at least 1")
        self.model, self.num_chains = model, num_chains

    # --- the interface of infer --------------------------------------------------------------------------------

    def kernel(self, num_warmup: int, num_chains: int) -> Kernel:
        if self.num_chains not in (None, num_chains):
            raise ValueError(f"num_chains={num_chains}, but the kernel has num_chains={self.num_chains}: omit the kernel's")
        kernel = super().kernel(num_warmup, num_chains)
        _ = kernel.populations  # checks the number of chains
        return kernel

    def target(
        self,
        model: Model,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
        *,
        num_chains: int,
        own: Own | None = None,
    ) -> PyroTarget:
        """The annealing paths of a model's items, from ``initial`` if the settings have one."""
        names = (name for name in ("initial", "temper", "flat_prior") if hasattr(self.settings, name))
        options = {name: getattr(self.settings, name) for name in names}
        return PyroTarget(model, args, kwargs or {}, num_chains=num_chains, own=own, **options)

    # --- Pyro's kernel interface -------------------------------------------------------------------------------

    def setup(self, warmup_steps: int, *args: object, **kwargs: object) -> None:
        """Prepare a run from exact draws of q0; the random numbers follow torch's global seed.

        :raises ValueError: for settings that cannot run.
        """
        if self.model is None:
            raise ValueError(f"{self.name} has no model yet: give it one, or pass it to cogen.inference.infer")
        if self.num_chains is None:
            raise ValueError(f"num_chains is missing: give the kernel all chains, as in {self.name}(model, num_chains=64)")
        self._functions = self.kernel(warmup_steps, self.num_chains)
        self._target = self.target(self.model, args, kwargs, num_chains=self.num_chains)
        self._target.own = self.own(warmup_steps, self._target.ids)
        self._random = Random.of(int(torch.randint(2**62, (), device="cpu")), id_halves(self._target.ids))
        self.state = self._functions.init(self._target, self._random, ExactDraws(self.num_chains))
        self.info: NamedTuple | None = None

    @property
    def initial_params(self) -> dict[str, Tensor]:
        return self._sites()

    @initial_params.setter
    def initial_params(self, params: object) -> None:
        raise ValueError(f"{self.name} starts from exact draws: initial_params would invalidate its weights")

    def sample(self, params: object = None) -> dict[str, Tensor]:
        """Make one transition of all chains.

        :returns: the constrained values of the latent sites, (chain, [item,] *shape).
        """
        random = self._random.at(self.state.iteration)
        self.state, self.info = self._functions.step(self._target, random, self.state)
        return self._sites()

    def logging(self) -> OrderedDict[str, str]:
        path = {} if self.info is None else self._functions.path(self.state, self.info)
        shown = {"beta": "beta", "acceptance_rate": "acc. prob", "step_size": "step size", "elbo": "elbo"}
        return OrderedDict((label, f"{float(path[name].mean()):.3g}") for name, label in shown.items() if name in path)

    def diagnostics(self) -> dict[str, Tensor]:
        """The statistics of the last transition, arrays (chain, item)."""
        return {} if self.info is None else {n: value for n, value in self.info._asdict().items() if value is not None}

    def _sites(self) -> dict[str, Tensor]:
        alone = self._target.items is None
        return {name: value[:, 0] if alone else value for name, value in self.state.point.values.items()}

"""Our kernels for Pyro models under the names that people use: recipes for `infer`, and kernels of Pyro's ``MCMC``.

Pyro's own kernels move one chain at a time; here the chain axis is inside the kernel, so that ``MCMC(num_chains=1)`` runs all
of them. The sister of `cogen.inference.adapters.ensemble_kernel`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor

from cogen.inference.adapters.recipe import Recipe
from cogen.inference.kernels.kernel import ExactDraws, Kernel, Own
from cogen.inference.seeds import id_halves
from cogen.inference.torch.random_numbers import Random
from cogen.inference.torch.targets import PyroTarget


class PyroEnsembleKernel(Recipe, MCMCKernel):
    """A kernel over all chains of all items."""

    transforms: dict[str, Any] = {}  # noqa: RUF012 (for Pyro's MCMC: draws are constrained already)
    parameters_doc = """
        :param model: a conditioned Pyro model or `ItemModel` (such as a ``CoGenerator``), or None for a recipe that `infer`
            binds.
        :param num_chains: chains per item, for ``pyro.infer.MCMC``; `infer` gives its own."""

    def __init__(self, model: Callable | None = None, *, num_chains: int | None = None, **settings: Any) -> None:
        self.settings = self.settings_type(**settings)
        if num_chains is not None and num_chains < 1:
            raise ValueError(f"num_chains={num_chains}: at least one is needed")
        self.model, self.num_chains = model, num_chains

    # --- what infer asks for -----------------------------------------------------------------------------------

    def kernel(self, num_warmup: int, num_chains: int) -> Kernel:
        if self.num_chains not in (None, num_chains):
            raise ValueError(f"num_chains={num_chains}, and the kernel was made for {self.num_chains}: leave one of them out")
        kernel = super().kernel(num_warmup, num_chains)
        _ = kernel.populations  # a number of chains that cannot be divided is refused here
        return kernel

    def target(
        self,
        model: Callable,
        args: tuple = (),
        kwargs: dict | None = None,
        *,
        num_chains: int,
        own: Own | None = None,
    ) -> PyroTarget:
        """The annealing paths of a model's items, from ``initial`` where the settings have one."""
        names = (name for name in ("initial", "temper", "flat_prior") if hasattr(self.settings, name))
        options = {name: getattr(self.settings, name) for name in names}
        return PyroTarget(model, args, kwargs or {}, num_chains=num_chains, own=own, **options)

    # --- Pyro's contract ---------------------------------------------------------------------------------------

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Lay out a run: exact draws from q0, evaluated; random numbers follow torch's global seed. Raises ValueError for
        settings that cannot run."""
        if self.model is None:
            raise ValueError(f"{self.name} has no model yet: give it one, or pass it to cogen.inference.infer")
        if self.num_chains is None:
            raise ValueError(f"how many chains? {self.name}(model, num_chains=64) holds all of them")
        self._functions = self.kernel(warmup_steps, self.num_chains)
        self._target = self.target(self.model, args, kwargs, num_chains=self.num_chains)
        self._target.own = self.own(warmup_steps, self._target.ids)
        self._random = Random.of(int(torch.randint(2**62, (), device="cpu")), id_halves(self._target.ids))
        self.state = self._functions.init(self._target, self._random, ExactDraws(self.num_chains))
        self.info: Any = None

    @property
    def initial_params(self) -> dict[str, Tensor]:
        return self._sites()

    @initial_params.setter
    def initial_params(self, params: Any) -> None:
        raise ValueError(f"{self.name} starts from exact draws: initial_params would void its weights")

    def sample(self, params: Any = None) -> dict[str, Tensor]:
        """One transition of all chains. Returns the constrained latent sites, (chain, [item,] *shape)."""
        random = self._random.at(self.state.iteration)
        self.state, self.info = self._functions.step(self._target, random, self.state)
        return self._sites()

    def logging(self) -> OrderedDict[str, str]:
        path = {} if self.info is None else self._functions.path(self.state, self.info)
        shown = {"beta": "beta", "acceptance_rate": "acc. prob", "step_size": "step size", "elbo": "elbo"}
        return OrderedDict((said, f"{float(path[name].mean()):.3g}") for name, said in shown.items() if name in path)

    def diagnostics(self) -> dict[str, Any]:
        """What was reported of the last transition, (chain, item) each."""
        return {} if self.info is None else {n: value for n, value in self.info._asdict().items() if value is not None}

    def _sites(self) -> dict[str, Tensor]:
        alone = self._target.items is None
        return {name: value[:, 0] if alone else value for name, value in self.state.point.values.items()}

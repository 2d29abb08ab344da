"""Our kernels for Pyro models under the names that people use: recipes for `infer`, and kernels of Pyro's ``MCMC``.

Pyro's own kernels move one chain at a time; here the chain axis is inside the kernel, so that ``MCMC(num_chains=1)`` runs all
of them. The sister of `cogen.inference.adapters.ensemble_kernel`.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor

from cogen.inference.kernels.kernel import ExactDraws, Kernel, Own
from cogen.inference.seeds import id_halves
from cogen.inference.torch.random_numbers import Random
from cogen.inference.torch.targets import PyroTarget

_PARAMETERS = """:param model: a conditioned Pyro model or `ItemModel` (such as a ``CoGenerator``), or None for a recipe that
    `infer` binds.
:param num_chains: chains per item, for ``pyro.infer.MCMC``; `infer` gives its own."""


class PyroEnsembleKernel(MCMCKernel):
    """A kernel over all chains of all items. A subclass names its settings, a frozen dataclass, and its `Kernel`."""

    settings_type: ClassVar[type]
    kernel_type: ClassVar[type]
    transforms: dict[str, Any] = {}  # noqa: RUF012 (for Pyro's MCMC: draws are constrained already)
    library = "cogen"

    def __init_subclass__(cls, settings: type | None = None, kernel: type | None = None) -> None:
        super().__init_subclass__()
        if settings is None or kernel is None:
            return
        cls.settings_type, cls.kernel_type = settings, kernel
        own = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(settings).parameters.values()]
        model = inspect.Parameter("model", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None)
        chains = inspect.Parameter("num_chains", inspect.Parameter.KEYWORD_ONLY, default=None)
        cls.__signature__ = inspect.Signature([model, chains, *own])  # type: ignore[attr-defined]
        parts = [inspect.getdoc(each) for each in reversed(settings.__mro__) if dataclasses.is_dataclass(each)]
        cls.__doc__ = "\n\n".join([inspect.cleandoc(cls.__doc__ or ""), _PARAMETERS, *filter(None, parts)])

    def __init__(self, model: Callable | None = None, *, num_chains: int | None = None, **settings: Any) -> None:
        self.settings = self.settings_type(**settings)
        if num_chains is not None and num_chains < 1:
            raise ValueError(f"num_chains={num_chains}: at least one is needed")
        self.model, self.num_chains = model, num_chains

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def tunable(self) -> bool:
        """Whether a pilot finds something to freeze."""
        return hasattr(self.settings, "frozen")

    # --- what infer asks for -----------------------------------------------------------------------------------

    def kernel(self, num_warmup: int, num_chains: int) -> Kernel:
        """The pure functions of a run of so many warm-up transitions and chains. Raises ValueError for settings that cannot
        run."""
        if self.num_chains not in (None, num_chains):
            raise ValueError(f"num_chains={num_chains}, and the kernel was made for {self.num_chains}: leave one of them out")
        kernel = self.kernel_type(self.settings, num_warmup, num_chains)
        _ = kernel.populations  # a number of chains that cannot be divided is refused here
        return kernel

    def own(self, num_warmup: int, ids: np.ndarray) -> Own:
        """What the settings hold of these items. Raises ValueError where it is of others."""
        if not hasattr(self.settings, "own"):
            return Own()
        return self.settings.own(num_warmup).for_items(ids, getattr(self.settings, "recorded", None))

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

    def frozen(self, pilot: Any) -> Self:
        """A recipe that repeats what a pilot has adapted: a `Tuning`, or the results of a run."""
        frozen = copy.copy(self)
        frozen.settings = self.settings.frozen(pilot)
        return frozen

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

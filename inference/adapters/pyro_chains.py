"""Pyro's own kernels in a `Run`: one chain of one item at a time.

Pyro's HMC and NUTS are scalar (a batched potential raises an error), so items and chains run one after another, and a run of
many items takes long. The duration is estimated from a few gradients and announced before the start. `PyroAnnealedHMC` is
batched over chains and items.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyro
import torch
from pyro.infer.mcmc.util import initialize_model
from tqdm.auto import tqdm

from cogen.inference.items import ItemModel, Items
from cogen.inference.program import Started
from cogen.inference.records import Records
from cogen.inference.signatures import JSON, Model
from cogen.inference.targets.model_checks import check_supports
from cogen.inference.torch.guide_start import check_sites
from cogen.inference.torch.model_checks import ProperUnobserved


@dataclass
class _Chain:
    """One chain with its parameters and random state."""

    kernel: Any
    parameters: dict[str, torch.Tensor]
    random: torch.Tensor
    gradients: list[int]
    """A counter of the evaluations since the setup began."""
    counted: int = 0
    """The number of these already reported."""
    divergences: int = 0


class PyroProgram:
    """Runs the chains of one item with a kernel class of Pyro or a ``functools.partial`` of one."""

    library = "pyro"
    chunk_size = 10
    ladder_statistics: tuple[str, ...] = ()
    facts: ClassVar[dict[str, Any]] = {
        "num_populations": 0,
        "moves_per_temperature": 1,
        "adapted": 0,
        "evidence_kind": "",
    }

    def __init__(
        self,
        make: Callable[..., Any],
        model: Model,
        items: ItemModel | None,
        *,
        name: str,
        num_warmup: int,
        num_chains: int,
        seed: int,
    ) -> None:
        proper = ProperUnobserved()(model)
        self._target: Callable[..., Any] = (lambda data: items(data)) if items is not None else (lambda data: proper())
        self._make, self._items, self.name = make, items, name
        self._num_warmup, self._num_chains, self._seed = num_warmup, num_chains, seed

    def compile(self) -> None:
        """Do nothing: nothing is compiled."""

    def announce(self, items: Items, num_items: int, num_samples: int) -> None:
        """Announce the duration of the run, estimated from a few gradients."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            seconds = _seconds_per_gradient(self._target, items.data)
        total = (self._num_warmup + num_samples) * self._num_chains * num_items
        options = getattr(self._make, "keywords", {})
        length = options.get("trajectory_length", 10.0)
        steps = options.get("num_steps") or max(1, round(length / options.get("step_size", 1.0)))
        most = f"at {steps} gradients a transition" + (" (a NUTS tree may take up to 1,023)" if self.name == "NUTS" else "")
        most += "; adaptation changes this number"
        tqdm.write(
            f"Pyro's {self.name} runs {num_items} x {self._num_chains} chains one after another: {total:,} transitions at"
            f" {1e3 * seconds:.1f} ms a gradient, about {total * steps * seconds / 60:.1f} minutes {most}"
        )

    def start(self, items: Items) -> Started:
        high, low = (int(half) for half in items.id[0])
        given = None if items.start is None else self._coordinates(items)
        chains = []
        for index in range(self._num_chains):
            with torch.random.fork_rng(devices=[]):
                entropy = [self._seed, high << 32 | low, index]
                torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
                gradients = [0]
                kernel = self._make(self._counted(gradients))
                if given is not None:
                    kernel.initial_params = given[index]
                kernel.setup(self._num_warmup, items.data)
                chains.append(_Chain(kernel, kernel.initial_params, torch.get_rng_state(), gradients))
        return Started(chains, None, np.zeros(1, np.int64))

    def advance(self, chains: list[_Chain], items: Items, count: int, warming: bool) -> tuple[list[_Chain], Records, int, bool]:
        parts = [self._advance(chain, items, count) for chain in chains]

        def gather(key: str, name: str) -> np.ndarray:
            return np.stack([part[key][name] for part in parts], axis=1)[:, None]  # (transition, item, chain, ...)

        statistics = {name: gather("statistics", name) for name in parts[0]["statistics"]}
        sites = {name: gather("sites", name) for name in parts[0]["sites"]}
        if self._items is not None:  # the plate of one item
            sites = {n: v.squeeze(3) if v.ndim > 3 and v.shape[3] == 1 else v for n, v in sites.items()}
        steps = np.sum([part["gradients"] for part in parts])
        each = np.zeros((count, 1), np.int64)
        each[-1] = steps
        return chains, Records(sites, statistics, {}, each), count, False

    def warmed_up(self, chains: list[_Chain]) -> bool:
        return False

    def end_warmup(self, chains: list[_Chain]) -> list[_Chain]:
        """Do nothing: a warm-up of Pyro's kernels does not end before its limit."""
        return chains

    def to_arrays(self, chains: list[_Chain]) -> dict[str, np.ndarray]:
        raise self._no_checkpoint()

    def from_arrays(self, chains: list[_Chain], arrays: Mapping[str, np.ndarray]) -> list[_Chain]:
        raise self._no_checkpoint()

    def identity(self, items: Items) -> dict[str, JSON]:
        raise self._no_checkpoint()

    def _no_checkpoint(self) -> ValueError:
        return ValueError("checkpoint= requires PyroAnnealedHMC or a NumPyro kernel: Pyro's own kernels cannot be resumed")

    def state(self, parts: list[tuple[list[_Chain], int]]) -> Any:
        """The parameters of every chain of every item."""
        return [[chain.parameters for chain in chains] for chains, _ in parts]

    def _coordinates(self, items: Items) -> list[dict[str, torch.Tensor]]:
        """The item's starting values for Pyro's kernels, for every chain: unconstrained, in the plate of one item."""
        with torch.random.fork_rng(devices=[]):
            found, _, transforms, _ = initialize_model(self._target, model_args=(items.data,))
        shapes = {name: transforms[name].inv(value).shape for name, value in found.items()}
        chains = []
        for index in range(self._num_chains):
            values = {name: value[0, index] for name, value in items.start.items()}
            given = {n: torch.as_tensor(v if self._items is None else v[None]) for n, v in values.items()}
            check_sites("start", given, shapes)
            unconstrained = {name: transforms[name](value.to(found[name])) for name, value in given.items()}
            check_supports(values, unconstrained.values())
            chains.append(unconstrained)
        return chains

    def _counted(self, gradients: list[int]) -> Callable[..., Any]:
        def counted(data: Any) -> Any:
            gradients[0] += 1
            return self._target(data)

        return counted

    def _advance(self, chain: _Chain, items: Items, count: int) -> dict[str, Any]:
        kept: dict[str, list[Any]] = {name: [] for name in ("acceptance_rate", "lp", "step_size", "diverging")}
        draws = []
        with torch.random.fork_rng(devices=[]), pyro.validation_enabled(False):
            torch.set_rng_state(chain.random)
            for _ in range(count):
                chain.parameters = chain.kernel.sample(chain.parameters)
                draws.append(self._constrained(chain))
                potential = getattr(chain.kernel, "_potential_energy_last", None)
                kept["acceptance_rate"].append(float(getattr(chain.kernel, "_mean_accept_prob", np.nan)))
                kept["lp"].append(np.nan if potential is None else -float(potential))
                kept["step_size"].append(float(getattr(chain.kernel, "step_size", np.nan)))
                divergences = len(getattr(chain.kernel, "_divergences", ()))
                kept["diverging"].append(divergences > chain.divergences)
                chain.divergences = divergences
            chain.random = torch.get_rng_state()
        types, evaluations = {"diverging": bool}, chain.gradients[0] - chain.counted
        chain.counted = chain.gradients[0]
        return {
            "sites": {name: np.stack([draw[name] for draw in draws]) for name in draws[0]},
            "statistics": {name: np.array(values, types.get(name, np.float32)) for name, values in kept.items()},
            "gradients": evaluations,
        }

    def _constrained(self, chain: _Chain) -> dict[str, np.ndarray]:
        transforms = getattr(chain.kernel, "transforms", None) or {}
        names = getattr(chain.kernel, "save_params", sorted(chain.parameters))
        values = {n: transforms[n].inv(chain.parameters[n]) if n in transforms else chain.parameters[n] for n in names}
        return {name: value.detach().cpu().numpy() for name, value in values.items()}


def _seconds_per_gradient(target: Callable[..., Any], data: Any, repeats: int = 5) -> float:
    init, potential, _, _ = initialize_model(target, model_args=(data,))
    init = {name: value.detach().requires_grad_() for name, value in init.items()}
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        potential(init).backward()
        times.append(time.perf_counter() - start)
    return float(np.median(times))

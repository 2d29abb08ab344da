"""What annealed HMC is told, in JAX and in torch: kept and checked in one place."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from cogen.inference.annealing.schedules import Adaptive, Ladder, Schedule, inverse_temperatures
from cogen.inference.annealing.step_size import Recorded, StepSizeRule, check_recorded, step_size_rule


class AnnealingSettings:
    """The settings that `AnnealedHMC` and `PyroAnnealedHMC` share."""

    def _settle(
        self,
        *,
        schedule: Schedule | Adaptive,
        num_leapfrog: int,
        step_size: StepSizeRule | float,
        moves_per_temperature: int,
        resample_threshold: float,
        temper: Sequence[str] | None,
        flat_prior: bool,
        num_populations: int | None,
        inverse_mass: Any,
        jitter: float,
    ) -> None:
        """Keep the settings. Raises ValueError for values out of range."""
        for name, value in (("num_leapfrog", num_leapfrog), ("moves_per_temperature", moves_per_temperature)):
            if value < 1:
                raise ValueError(f"{name}={value}: at least one is needed")
        if not 0.0 <= resample_threshold <= 1.0:
            raise ValueError(f"resample_threshold={resample_threshold}: a fraction of the chains, from 0 (never) to 1")
        if not 0.0 <= jitter < 1.0:
            raise ValueError(f"jitter={jitter}: it lies in [0, 1)")
        if isinstance(temper, str):
            raise ValueError(f"temper={temper!r}: give a sequence of site names, as in temper=[{temper!r}]")
        self.schedule = schedule
        self.num_leapfrog = num_leapfrog
        self.step_size = step_size_rule(step_size)
        self.moves_per_temperature = moves_per_temperature
        self.resample_threshold = resample_threshold
        self.temper = None if temper is None else tuple(temper)
        self.flat_prior = flat_prior
        self.num_populations = num_populations
        self.inverse_mass: Any = None if inverse_mass is None else _positive(np.asarray(inverse_mass, np.float32))
        self.jitter = jitter
        self.evidence_kind = "" if flat_prior else "annealed"

    @property
    def adapts(self) -> bool:
        """Whether the warm-up looks at what it weighs, so that its evidence is not unbiased."""
        return self.step_size.adapts or isinstance(self.schedule, Adaptive)

    @property
    def ladder_statistics(self) -> tuple[str, ...]:
        """What of the path is kept whole, for `Ladder.of` and `Recorded.of`."""
        return ("beta", "step_size") if isinstance(self.schedule, Adaptive | Ladder) else ()

    def frozen(self, pilot: Any) -> Self:
        """This kernel with the step sizes (and, where its schedule is `Adaptive`, the ladders) of a pilot run."""
        copied = copy.copy(self)
        copied.step_size = Recorded.of(pilot)
        if isinstance(self.schedule, Adaptive):
            copied.schedule = Ladder.of(pilot)
        return copied

    def _check_warmup(self, num_warmup: int, said: str) -> None:
        """Raises ValueError for a warm-up that is no whole number of temperatures; ``said`` is how its caller calls it."""
        if num_warmup < 1 or num_warmup % self.moves_per_temperature:
            raise ValueError(
                f"{said}: the annealing is the warm-up, so it takes a positive multiple of"
                f" moves_per_temperature={self.moves_per_temperature} transitions to reach beta = 1"
            )

    def _check_mass(self, dim: int) -> None:
        """Raises ValueError for an inverse mass of other coordinates than the model's."""
        if self.inverse_mass is not None and self.inverse_mass.shape not in ((dim,), (dim, dim)):
            raise ValueError(f"inverse_mass has shape {self.inverse_mass.shape}, the model has {dim} unconstrained coordinates")

    def _inverse_temperatures(self, num_warmup: int, num_items: int) -> np.ndarray | None:
        """(T + 1,) or (item, T + 1) values, None where they are chosen as it runs. Raises ValueError for a record of other
        items, of step sizes too."""
        check_recorded(self.step_size, num_items)
        if isinstance(self.schedule, Adaptive):
            return None
        beta = inverse_temperatures(self.schedule, num_warmup // self.moves_per_temperature)
        if beta.ndim == 2 and len(beta) != num_items:
            raise ValueError(f"the ladders of {len(beta)} items were recorded, and this run has {num_items}")
        return beta


def _positive(inverse_mass: np.ndarray) -> np.ndarray:
    """The matrix. Raises ValueError unless it is one."""
    shape, values = inverse_mass.shape, np.array([np.nan])
    if len(shape) == 1:
        values = inverse_mass
    elif len(shape) == 2 and shape[0] == shape[1] and np.allclose(inverse_mass, inverse_mass.T):
        values = np.linalg.eigvalsh(inverse_mass.astype(float))
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(
            f"inverse_mass of shape {shape}: give positive numbers (dim,), or a symmetric positive definite matrix (dim, dim)"
        )
    return inverse_mass

"""Settings of annealed HMC, shared by JAX and torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from cogen.inference.annealing.learned_metric import ParticleCovariance
from cogen.inference.annealing.populations import population_count
from cogen.inference.annealing.schedules import Adaptive, Ladder, Schedule, Sigmoid, inverse_temperatures
from cogen.inference.annealing.step_size import ConstantGain, RecordedSteps, StepSizeRule, step_size_rule
from cogen.inference.annealing.tuning import Tuning
from cogen.inference.kernels.kernel import Kernel, Own


@dataclass(frozen=True, eq=False)
class AnnealingSettings:
    """Settings of annealed HMC.

    :param schedule: `Sigmoid`, `Linear`, `Geometric`, or any callable from T to T + 1 rising inverse temperatures.
        `Adaptive` chooses them during the run, and `Ladder` holds those of a pilot for each item; with these two
        ``num_warmup`` is a limit, and an item that has reached beta = 1 waits for the draws.
    :param num_leapfrog: gradient evaluations per transition, L >= 1.
    :param step_size: a rule (`ConstantGain`, `MovingAverage`, `RecordedSteps`) or a fixed positive number.
    :param moves_per_temperature: transitions at each temperature, M >= 1.
    :param resample_threshold: resample a population whose weight ESS, as a fraction, is below this value in [0, 1];
        0 never resamples. Above 0, a last resampling at beta = 1 over all chains makes the weights equal.
    :param weighted: False uses the annealing only as a warm-up: all chains have equal weights, as independent Markov chains
        with different starts have, and there is no evidence. For budgets whose weights would leave one chain, or a misspecified
        likelihood. Excludes resampling (``resample_threshold`` must be 0).
    :param initial: q0, a distribution of the model's library over the latent site (or a mapping over sites), or a guide start
        (`GuideStart`, `PyroGuideStart`); default the prior.
    :param temper: names of the observed sites (including ``factor`` sites) to temper; the others count fully at every
        beta, and the chains start with weights for them. Default: all.
    :param flat_prior: leave the prior out at beta = 1, as the paper does. Such a run has no evidence.
    :param num_populations: groups of chains that never exchange particles; default four.
    :param inverse_mass: None (identity), (dim,) a diagonal or (dim, dim) a dense inverse mass matrix, or, for NumPyro models,
        `ParticleCovariance` (for each population and temperature, the covariance of the other populations' particles).
    :param jitter: each chain's step is multiplied by a uniform draw from [1 - jitter, 1 + jitter], in [0, 1), at every
        transition, so that no trajectory length matches a period of the dynamics.
    :param bridge: estimate the evidence from both ends of every rise of beta (`cogen.inference.annealing.bridge`), with less
        variance if the rises are large, but not unbiased.
    :raises ValueError: for values out of these ranges.
    """

    schedule: Schedule | Adaptive = Sigmoid(-10.0, 4.0)
    num_leapfrog: int = 10
    step_size: StepSizeRule | float = ConstantGain()
    moves_per_temperature: int = 1
    resample_threshold: float = 0.5
    weighted: bool = True
    initial: Any = None
    temper: Sequence[str] | None = None
    flat_prior: bool = False
    num_populations: int | None = None
    inverse_mass: Any = None
    jitter: float = 0.2
    bridge: bool = False
    may_learn_metric: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("num_leapfrog", "moves_per_temperature"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least one is needed")
        if not 0.0 <= self.resample_threshold <= 1.0:
            raise ValueError(f"resample_threshold={self.resample_threshold}: a fraction of the chains, from 0 (never) to 1")
        if self.resample_threshold > 0 and not self.weighted:
            raise ValueError(
                f"weighted=False with resample_threshold={self.resample_threshold}: chains of equal weight are not resampled;"
                " give resample_threshold=0"
            )
        if not 0.0 <= self.jitter < 1.0:
            raise ValueError(f"jitter={self.jitter}: it must be in [0, 1)")
        if self.bridge and self.flat_prior:
            raise ValueError("a run with flat_prior=True has no evidence, so there is nothing to bridge")
        if isinstance(self.temper, str):
            raise ValueError(f"temper={self.temper!r}: give a sequence of site names, as in temper=[{self.temper!r}]")
        # Fields of a frozen dataclass are set through object.__setattr__.
        object.__setattr__(self, "step_size", step_size_rule(self.step_size))
        object.__setattr__(self, "temper", None if self.temper is None else tuple(self.temper))
        if self.learns_metric and not self.may_learn_metric:
            raise ValueError("inverse_mass=ParticleCovariance() requires a NumPyro model: give a matrix, or use AnnealedHMC")
        if self.inverse_mass is not None and not self.learns_metric:
            object.__setattr__(self, "inverse_mass", _positive(np.asarray(self.inverse_mass, np.float32)))

    @property
    def rule(self) -> StepSizeRule:
        """``step_size`` as a rule."""
        return self.step_size  # type: ignore[return-value]

    @property
    def learns_metric(self) -> bool:
        """Whether the inverse mass matrix is learned from the particles."""
        return isinstance(self.inverse_mass, ParticleCovariance)

    @property
    def adapts(self) -> bool:
        """Whether the warm-up adapts to the particles that it weights, so that its evidence is not unbiased."""
        return self.rule.adapts or isinstance(self.schedule, Adaptive) or self.learns_metric

    @property
    def tunable(self) -> bool:
        """Whether a pilot can adapt these settings."""
        return self.adapts

    @property
    def waits(self) -> bool:
        """Whether items reach beta = 1 at different times, and wait there."""
        return isinstance(self.schedule, Adaptive | Ladder)

    def frozen(self, pilot: Any) -> Self:
        """These settings with the step sizes (and, for an `Adaptive` schedule, the ladders) of a pilot.

        :param pilot: a `Tuning`, or the results of a run.
        :raises ValueError: for a metric learned from the particles.
        """
        if self.learns_metric:
            raise ValueError(
                "inverse_mass=ParticleCovariance() changes with beta and is not recorded by a pilot: to freeze a run, give a"
                " matrix, such as the covariance of the draws of an earlier run"
            )
        tuned = isinstance(pilot, Tuning)
        changed: dict[str, Any] = {"step_size": pilot.steps if tuned else RecordedSteps.of(pilot)}
        if isinstance(self.schedule, Adaptive):
            changed["schedule"] = pilot.ladder if tuned else Ladder.of(pilot)
        return replace(self, **changed)

    @property
    def recorded(self) -> np.ndarray | None:
        """The ids of the items with recorded step sizes or ladders, if known."""
        ids = (getattr(each, "ids", None) for each in (self.step_size, self.schedule))
        return next((each for each in ids if each is not None), None)

    def temperatures(self, num_warmup: int) -> np.ndarray | None:
        """The inverse temperatures, (T + 1,) or (item, T + 1); None for an adaptive schedule.

        :raises ValueError: unless the warm-up is a multiple of ``moves_per_temperature``.
        """
        if num_warmup < 1 or num_warmup % self.moves_per_temperature:
            raise ValueError(
                f"num_warmup={num_warmup} (--warmup; Pyro's warmup_steps): the annealing is the warm-up, so this must be a"
                f" positive multiple of moves_per_temperature={self.moves_per_temperature}"
            )
        if isinstance(self.schedule, Adaptive):
            return None
        return inverse_temperatures(self.schedule, num_warmup // self.moves_per_temperature)

    def own(self, num_warmup: int) -> Own:
        """The per-item values of the settings."""
        beta = self.temperatures(num_warmup)
        own = Own.of(self.rule, self.initial)
        return own if beta is None or beta.ndim == 1 else own._replace(ladder=beta)

    def check_dim(self, dim: int) -> None:
        """Check the shape of the inverse mass matrix.

        :raises ValueError: if it does not match the model's coordinates.
        """
        if self.inverse_mass is not None and not self.learns_metric and self.inverse_mass.shape not in ((dim,), (dim, dim)):
            raise ValueError(f"inverse_mass has shape {self.inverse_mass.shape}, the model has {dim} unconstrained coordinates")


class AnnealingKernel(Kernel):
    """Kernel attributes derived from the settings, shared by JAX and torch."""

    settings: AnnealingSettings

    gradients_to_start = 1

    @property
    def evidence_kind(self) -> str:
        if not self.settings.weighted:
            return ""
        return "" if self.settings.flat_prior else "bridged" if self.settings.bridge else "annealed"

    @property
    def weighted(self) -> bool:
        return self.settings.weighted

    def kept(self, path: dict[str, Any]) -> dict[str, Any]:
        """The recorded statistics of a path, without those of the weights for chains of equal weight."""
        of_weights = () if self.weighted else ("conditional_ess", "weight_ess", "ancestors", "log_evidence")
        return {name: value for name, value in path.items() if name not in of_weights}

    @property
    def adapts(self) -> bool:
        return self.settings.adapts

    @property
    def moves_per_temperature(self) -> int:
        return self.settings.moves_per_temperature

    @property
    def ladder_statistics(self) -> tuple[str, ...]:
        return ("beta", "step_size") if self.settings.waits else ()

    @cached_property
    def populations(self) -> int:
        return population_count(self.num_chains, self.settings.num_populations, self.settings.resample_threshold > 0)


def _positive(inverse_mass: np.ndarray) -> np.ndarray:
    """The inverse mass matrix, checked.

    :raises ValueError: unless it is positive definite.
    """
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

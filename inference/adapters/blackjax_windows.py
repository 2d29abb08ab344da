"""Stan's warm-up of one chain, from BlackJAX's components.

The log step size is adapted to a target acceptance by Nesterov's dual averaging. In windows of doubling length the variances of
the chain are estimated (Welford); at the end of each window they become the diagonal of the inverse mass matrix, and dual
averaging restarts from its average. The first and the last window adapt the step size only.

    Hoffman and Gelman (2014), The No-U-Turn Sampler, section 3.2 (dual averaging);
    Stan Development Team, Reference manual, section on automatic parameter tuning (windows).

``blackjax.window_adaptation`` does the same in one call; here it proceeds by transitions, so that `infer` can stop and resume.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


class Windows:
    """The adaptation of one chain over ``num_warmup`` transitions: the step size and, with ``mass``, the mass matrix."""

    def __init__(self, target_acceptance: float, mass: bool, num_warmup: int) -> None:
        from blackjax.adaptation.mass_matrix import mass_matrix_adaptation
        from blackjax.adaptation.step_size import dual_averaging_adaptation
        from blackjax.adaptation.window_adaptation import build_schedule

        self._start, self._follow, self._average = dual_averaging_adaptation(target_acceptance)
        self._mass = mass_matrix_adaptation() if mass else None
        self._num_warmup, self._schedule = num_warmup, build_schedule

    def init(self, step_size: Array, dim: int) -> tuple[Any, ...]:
        return self._start(step_size), self._mass[0](dim) if self._mass else ()

    def parameters(self, adaptation: tuple[Any, ...], warming: Array) -> dict[str, Array]:
        """The parameters of a step: the current step size in the warm-up, the average of the last window after it."""
        step, mass = adaptation
        found = {"step_size": jnp.where(warming, jnp.exp(step.log_step_size), self._average(step))}
        return {**found, "inverse_mass_matrix": mass.inverse_mass_matrix} if self._mass else found

    def update(self, adaptation: tuple[Any, ...], i: Array, position: Array, acceptance: Array) -> tuple[Any, ...]:
        """The adaptation after transition ``i``; unchanged after the warm-up."""
        step, mass = adaptation
        warming = i < self._num_warmup
        schedule = jnp.asarray(self._schedule(self._num_warmup))  # (transition, 2): whether it is slow, whether a window ends
        slow, ends = schedule[jnp.minimum(i, self._num_warmup - 1)].astype(bool)

        def where(condition: Array, new: Any, old: Any) -> Any:
            return jax.tree.map(lambda a, b: strongly_typed(jnp.where(condition, a, b), b.dtype), new, old)

        step = where(warming, self._follow(step, acceptance), step)
        if self._mass:
            mass = where(warming & slow, self._mass[1](mass, position), mass)
            mass = where(warming & ends, self._mass[2](mass), mass)
            step = where(warming & ends, self._start(self._average(step)), step)
        return step, mass


def strongly_typed(value: Any, dtype: Any) -> Array:
    """Convert to this type, not weakly typed, as compiled programs require. Keys are not changed."""
    value = jnp.asarray(value)
    return value if jnp.issubdtype(dtype, jax.dtypes.prng_key) else jax.lax.convert_element_type(value, dtype)

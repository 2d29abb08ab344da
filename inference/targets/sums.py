"""Sums of many float32 terms without rounding errors.

With 24,000 pixels at noise 0.05 one unit in the last place of a plain float32 log likelihood is 0.03 nat; an annealing run
adds hundreds of increments of that size, and an accept decision takes the difference of two of them. A `Sum` keeps the float32
rounding error, so that differences and accumulations are exact to float32's precision of the *result*.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


def real(value: Any) -> Array:
    """Numbers in the floating-point type of states: float64 if JAX's 64-bit mode is enabled, otherwise float32."""
    return jnp.asarray(value, jnp.result_type(float))


class Sum(NamedTuple):
    """A sum as an unevaluated pair: ``high`` is its rounded value, ``low`` the rounding error."""

    high: Array
    low: Array

    def __add__(self, other: Sum) -> Sum:  # type: ignore[override]
        high, error = _two_sum(self.high, other.high)
        return Sum(*_two_sum(high, error + self.low + other.low))

    def __sub__(self, other: Sum) -> Sum:
        return self + Sum(-other.high, -other.low)

    def times(self, factor: Array) -> Sum:
        """The sum scaled by a number in [0, 1], for increments: exact to float32 relative to the *product*."""
        return Sum(*_two_sum(factor * self.high, factor * self.low))

    @property
    def value(self) -> Array:
        return self.high + self.low


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """``a + b`` rounded, and its exact rounding error (Knuth, TAOCP 2, 4.2.2), zero where the sum is infinite."""
    total = a + b
    virtual = total - a
    return total, jnp.where(jnp.isfinite(total), (a - (total - virtual)) + (b - virtual), 0.0)


def compensated_sum(terms: Array) -> Sum:
    """The sum over the last axis: (..., n) -> (...), exact to about 1e-7 of the largest term for every n.

    Adding and subtracting a number above n times the largest term leaves each term's leading bits, whose float32 sum is
    exact in any order; the remainders are small and summed plainly (one extraction of AccSum; Rump, Ogita and Oishi 2008).
    """
    largest = jnp.max(jnp.abs(terms), axis=-1, keepdims=True, initial=0.0)
    anchor = 4.0 * (terms.shape[-1] + 2) * largest
    leading = (anchor + terms) - anchor
    high, low = leading.sum(axis=-1), (terms - leading).sum(axis=-1)
    finite = jnp.isfinite(anchor[..., 0])
    return Sum(jnp.where(finite, high, terms.sum(axis=-1)), jnp.where(finite, low, 0.0))

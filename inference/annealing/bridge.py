"""The evidence of a tempered run from both ends of every rise of beta: Bennett's acceptance ratio.

The weights of annealed importance sampling estimate a rise from beta to beta' from its lower end only: Z'/Z = E_beta[exp(r l)],
with the rise r = beta' - beta and the increments l (see `targets`). Particles moved at beta' estimate the same ratio. With w
and w' the normalised weights of the particles l before and l' after the moves, log Z'/Z is the c at which both ends agree,

    sum_i w_i s(r l_i - c) = sum_j w'_j s(c - r l'_j),        s(a) = 1 / (1 + exp(-a)),

the estimate of least variance from such draws when both ends have equal sample sizes. It costs no evaluation of the model, and
its error grows much more slowly with the rise. It is consistent in the number of particles, but not unbiased: its logarithm is
not a lower bound.

References:
    Bennett. Efficient estimation of free energy differences from Monte Carlo data. J. Comp. Phys. 1976 (equations 12a, 12b).
    Meng, Wong. Simulating ratios of normalizing constants via a simple identity. Statistica Sinica 1996 (section 4).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

Array = jax.Array

HALVINGS = 40


class Bridge(NamedTuple):
    """The lower end of the last rise, and the evidence of each slot's population up to it; all (chain,)."""

    increment: Array
    log_weight: Array
    rise: Array
    log_evidence: Array


def advance(
    bridge: Bridge, increment: Array, log_weight: Array, rise: Array, leaves: Array, arrives: Array, count: int
) -> Bridge:
    """Update the bridge with the moved particles of ``count`` populations.

    :param rise: the next rise of beta.
    :param leaves: whether the particles are the lower end of the next rise.
    :param arrives: whether the particles are the upper end of the last rise, which completes its ratio.
    """
    grouped = [a.reshape(count, -1) for a in (bridge.increment, bridge.log_weight, increment, log_weight, bridge.rise)]
    ratio = jax.vmap(lambda near, w, far, v, r: log_ratio(near, w, far, v, r[0]))(*grouped)
    ratio = jnp.repeat(ratio, increment.shape[0] // count, total_repeat_length=increment.shape[0])
    evidence = bridge.log_evidence + jnp.where(arrives, ratio, 0.0)
    here = Bridge(increment, log_weight, jnp.full_like(increment, rise), evidence)
    return jax.tree.map(lambda new, old: jnp.where(leaves, new, old), here, bridge._replace(log_evidence=evidence))


def log_ratio(near: Array, log_weight_near: Array, far: Array, log_weight_far: Array, rise: Array) -> Any:
    """log Z(beta + rise) / Z(beta) from weighted increments (n,) at beta (near) and beta + rise (far); -inf if all are dead."""
    (a, w), (b, v) = (
        _alive(rise * increment, weight) for increment, weight in ((near, log_weight_near), (far, log_weight_far))
    )
    share, far_share = (jnp.log(jnp.maximum(weight.sum(), jnp.finfo(weight.dtype).tiny)) for weight in (w, v))

    def halve(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        c = 0.5 * (low + high)
        rises = w @ jax.nn.sigmoid(a - c) > v @ jax.nn.sigmoid(c - b)
        return jnp.where(rises, c, low), jnp.where(rises, high, c)

    # the solution lies between these bounds
    bounds = jnp.minimum(a.min(), b.min()) + share, jnp.maximum(a.max(), b.max()) - far_share
    low, high = jax.lax.fori_loop(0, HALVINGS, halve, bounds)
    dead = (w.sum() == 0) | (v.sum() == 0)
    return jnp.where(dead, -jnp.inf, 0.5 * (low + high))


def _alive(increment: Array, log_weight: Array) -> tuple[Array, Array]:
    """Increments and weights, without particles of non-finite increment.

    These have density zero after the rise: they contribute nothing, and their weight is not redistributed.
    """
    weighted = jnp.isfinite(log_weight)
    counts = weighted & jnp.isfinite(increment)
    total = logsumexp(jnp.where(weighted, log_weight, -jnp.inf))
    weight = jnp.where(counts, jnp.exp(log_weight - total), 0.0)
    any_of_them = jnp.nan_to_num(jnp.nanmin(jnp.where(counts, increment, jnp.nan)))  # keeps the bounds finite
    return jnp.where(counts, increment, any_of_them), weight

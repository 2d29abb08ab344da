"""A few draws of every item, equally weighted and as far apart as the run allows.

Chains are taken by systematic resampling on their weights, in an order shuffled anew for every item, and a chain that is taken
n times gives n draws evenly spaced along it. Equal weights and no more picks than chains: every pick is another chain. A chain
stands twice with the same draw only where its weight asks for more draws than it has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from cogen.diagnostics.groups import DRAWS, group
from cogen.diagnostics.weights import chain_weights, check_positive, systematic_indices


def pick_draws(posterior: Any, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Positions (chain, draw) of ``count`` draws of every item, two arrays (count, item); a general model is one item.

    Raises ValueError for a count below one, and for more picks than the run has draws.
    """
    sizes = group(posterior, "posterior").sizes
    chains, draws = sizes["chain"], sizes["draw"]
    if not 1 <= count <= chains * draws:
        raise ValueError(f"{count} draws asked for; the run has {chains} chains x {draws} draws: ask for 1 to {chains * draws}")
    weight = chain_weights(posterior).transpose("chain", ...).values.reshape(chains, -1)
    check_positive(weight)
    chain = np.empty((count, weight.shape[1]), dtype=int)
    draw = np.empty_like(chain)
    for item, share in enumerate(weight.T):
        order = rng.permutation(chains)
        taken = order[systematic_indices(share[order], count, rng.random())]  # equal ones stand together
        _, first, times = np.unique(taken, return_index=True, return_counts=True)
        for start, n in zip(first, times, strict=True):
            draw[start : start + n, item] = ((np.arange(n) + rng.random()) * draws / n).astype(int)
        chain[:, item] = taken
    return chain, np.minimum(draw, draws - 1)


def take_draws(values: xr.DataArray, picks: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The picked draws of a variable (chain, draw, item, ...): an array (count, item, ...)."""
    chain, draw = picks
    return values.transpose(*DRAWS, "item", ...).values[chain, draw, np.arange(chain.shape[1])]

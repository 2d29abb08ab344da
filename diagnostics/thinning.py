"""Thinning: a few equally weighted draws of every item, from different chains where possible.

Chains are picked by systematic resampling on their weights, in an order shuffled for every item, and a chain that is picked n
times gives n evenly spaced draws. With equal weights and no more picks than chains, all picks are different chains. A draw is
repeated only if its chain is picked more often than it has draws.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from cogen.diagnostics.groups import DRAWS, group
from cogen.diagnostics.weights import chain_weights, check_positive, systematic_indices
from cogen.inference.signatures import ArvizObject


def pick_draws(posterior: ArvizObject, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Positions (chain, draw) of ``count`` draws of every item, two arrays (count, item); a general model counts as one item.

    :raises ValueError: for a count below one or above the number of draws, and for items without a chain of positive weight.
    """
    sizes = group(posterior, "posterior").sizes
    chains, draws = sizes["chain"], sizes["draw"]
    if not 1 <= count <= chains * draws:
        raise ValueError(f"{count} draws requested; the run has {chains} chains x {draws} draws: give 1 to {chains * draws}")
    weight = chain_weights(posterior).transpose("chain", ...).values.reshape(chains, -1)
    check_positive(weight)
    chain = np.empty((count, weight.shape[1]), dtype=int)
    draw = np.empty_like(chain)
    for item, share in enumerate(weight.T):
        order = rng.permutation(chains)
        taken = order[systematic_indices(share[order], count, rng.random())]  # repeated chains are consecutive
        _, first, times = np.unique(taken, return_index=True, return_counts=True)
        for start, n in zip(first, times, strict=True):
            draw[start : start + n, item] = ((np.arange(n) + rng.random()) * draws / n).astype(int)
        chain[:, item] = taken
    return chain, np.minimum(draw, draws - 1)


def take_draws(values: xr.DataArray, picks: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The picked draws of a variable (chain, draw, item, ...): an array (count, item, ...)."""
    chain, draw = picks
    return values.transpose(*DRAWS, "item", ...).values[chain, draw, np.arange(chain.shape[1])]

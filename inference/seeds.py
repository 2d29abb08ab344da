"""Seeds: integers in [0, 2^63), of which every bit counts.

JAX makes a key of the lower half of a seed unless 64 bits are enabled, and torch's generator reads the lower half alone.
"""

from __future__ import annotations

import operator
from typing import SupportsIndex

import jax
import numpy as np


def check_seed(seed: SupportsIndex) -> int:
    """The seed as a Python integer. Raises TypeError for what is no integer, ValueError for one out of range."""
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed={seed!r}: a seed is an integer in [0, 2^63)") from None
    if not 0 <= number < 2**63:
        raise ValueError(f"seed={number}: a seed is an integer in [0, 2^63)")
    return number


def run_key(seed: int) -> jax.Array:
    """JAX's key, with the upper half folded in."""
    key = jax.random.key(seed & 0xFFFFFFFF)
    return jax.random.fold_in(key, seed >> 32) if seed >> 32 else key


def id_halves(ids: np.ndarray) -> np.ndarray:
    """Integers in [0, 2^63) as their upper and lower 32 bits: (n,) -> (n, 2). Raises ValueError for others."""
    numbers = np.asarray(ids)
    if numbers.ndim != 1 or not (np.issubdtype(numbers.dtype, np.integer) and (numbers >= 0).all()):
        raise ValueError(f"ids of shape {numbers.shape} and type {numbers.dtype}: one integer in [0, 2^63) for each item")
    wide = numbers.astype(np.uint64)
    if (wide >> np.uint64(63)).any():
        raise ValueError(f"id {int(wide.max())}: an id is an integer in [0, 2^63)")
    return np.stack([wide >> np.uint64(32), wide & np.uint64(0xFFFFFFFF)], axis=1).astype(np.uint32)


def check_ids(ids: np.ndarray) -> np.ndarray:
    """The ids of items as an array. Raises ValueError for ids out of range, and for one that two items have."""
    id_halves(ids)
    if len(np.unique(ids)) != len(ids):
        raise ValueError("ids: two items have the same id, and would have the same random numbers")
    return np.asarray(ids)


def ids_of(halves: np.ndarray) -> np.ndarray:
    """The integers of which `id_halves` made these, (n, 2) -> (n,)."""
    wide = np.asarray(halves, np.uint64)
    return (wide[:, 0] << np.uint64(32) | wide[:, 1]).astype(np.int64)


def item_key(key: jax.Array, halves: jax.Array) -> jax.Array:
    """The key of an item: a function of the run's key and both halves of the id."""
    return jax.random.fold_in(jax.random.fold_in(key, halves[0]), halves[1])


def torch_seed(seed: int) -> int:
    """What to give ``torch.manual_seed``: 32 bits, the seed itself where it has no more."""
    return seed if seed < 2**32 else int(np.random.SeedSequence(seed).generate_state(1)[0])

"""Seeds: integers in [0, 2^63), all bits of which are used.

Without 64-bit mode JAX makes a key from the lower 32 bits of a seed, and torch's generator reads only the lower 32 bits.
"""

from __future__ import annotations

import operator
from typing import SupportsIndex

import jax
import numpy as np

from cogen.inference.signatures import ArrayLike


def check_seed(seed: SupportsIndex) -> int:
    """The seed as a Python integer.

    :raises TypeError: for a value that is not an integer.
    :raises ValueError: for an integer out of range.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed={seed!r}: a seed is an integer in [0, 2^63)") from None
    if not 0 <= number < 2**63:
        raise ValueError(f"seed={number}: a seed is an integer in [0, 2^63)")
    return number


def run_key(seed: int) -> jax.Array:
    """The JAX key of a seed, with its upper 32 bits folded in."""
    key = jax.random.key(seed & 0xFFFFFFFF)
    return jax.random.fold_in(key, seed >> 32) if seed >> 32 else key


def id_halves(ids: np.ndarray) -> np.ndarray:
    """Split integers in [0, 2^63) into their upper and lower 32 bits: (n,) -> (n, 2).

    :raises ValueError: for other values.
    """
    numbers = np.asarray(ids)
    if numbers.ndim != 1 or not (np.issubdtype(numbers.dtype, np.integer) and (numbers >= 0).all()):
        raise ValueError(f"ids of shape {numbers.shape} and type {numbers.dtype}: one integer in [0, 2^63) for each item")
    wide = numbers.astype(np.uint64)
    if (wide >> np.uint64(63)).any():
        raise ValueError(f"id {int(wide.max())}: an id is an integer in [0, 2^63)")
    return np.stack([wide >> np.uint64(32), wide & np.uint64(0xFFFFFFFF)], axis=1).astype(np.uint32)


def check_ids(ids: ArrayLike) -> np.ndarray:
    """The ids of items as an array.

    :raises ValueError: for ids out of range and duplicate ids.
    """
    found = np.asarray(ids)
    id_halves(found)
    if len(np.unique(found)) != len(found):
        raise ValueError("ids: two items have the same id, and would have the same random numbers")
    return found


def ids_of(halves: np.ndarray) -> np.ndarray:
    """The inverse of `id_halves`: (n, 2) -> (n,)."""
    wide = np.asarray(halves, np.uint64)
    return (wide[:, 0] << np.uint64(32) | wide[:, 1]).astype(np.int64)


def item_key(key: jax.Array, halves: jax.Array) -> jax.Array:
    """The key of an item: a function of the run's key and both halves of the id."""
    return jax.random.fold_in(jax.random.fold_in(key, halves[0]), halves[1])


def torch_seed(seed: int) -> int:
    """The argument of ``torch.manual_seed``: the seed itself if it has at most 32 bits, otherwise a 32-bit hash."""
    return seed if seed < 2**32 else int(np.random.SeedSequence(seed).generate_state(1)[0])

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


def torch_seed(seed: int) -> int:
    """What to give ``torch.manual_seed``: 32 bits, the seed itself where it has no more."""
    return seed if seed < 2**32 else int(np.random.SeedSequence(seed).generate_state(1)[0])

"""Rounds of doubling length in which a warm-up learns what a kernel then keeps.

A round starts afresh and learns from its own transitions only: the short first ones get rid of the start, the last one is
half of everything. The last quarter of the warm-up belongs to no round, so that the chains settle under what was learnt.
"""

from __future__ import annotations

import math

SHORTEST = 8
"""No round is shorter than so many transitions: a shorter warm-up has none."""


def round_ends(num_warmup: int) -> tuple[int, ...]:
    """After how many transitions each round ends.

    >>> round_ends(200)
    (10, 30, 70, 150)
    """
    length = 3 * num_warmup // 4
    count = int(math.log2(length / SHORTEST + 1))
    return tuple(length * (2**k - 1) // (2**count - 1) for k in range(1, count + 1))

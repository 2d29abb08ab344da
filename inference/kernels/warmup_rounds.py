"""Adaptation rounds of doubling length in the warm-up.

A round uses only its own transitions: the short first rounds discard the start, the last one is half of the adaptation. The
last quarter of the warm-up belongs to no round, so that the chains equilibrate under the adapted values.
"""

from __future__ import annotations

import math

SHORTEST = 8
"""The minimum number of transitions of a round; a warm-up without room for it has no rounds."""


def round_ends(num_warmup: int) -> tuple[int, ...]:
    """The number of transitions after which each round ends.

    >>> round_ends(200)
    (10, 30, 70, 150)
    """
    length = 3 * num_warmup // 4
    count = int(math.log2(length / SHORTEST + 1))
    return tuple(length * (2**k - 1) // (2**count - 1) for k in range(1, count + 1))

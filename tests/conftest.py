"""The tests compile far more than they compute: XLA is told not to polish what runs once."""

import jax

jax.config.update("jax_disable_most_optimizations", True)

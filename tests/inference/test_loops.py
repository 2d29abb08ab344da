"""Where a function is traced, and whether it convolves."""

import jax
import jax.numpy as jnp
from jax import lax

from cogen.inference.loops import compiled_loop, has_convolutions, in_compiled_loop


def convolve(x):
    return lax.conv_general_dilated(x, jnp.ones((1, 1, 3, 3)), (1, 1), "SAME")


X = jnp.ones((1, 1, 4, 4))


def test_a_convolution_is_found_at_any_depth():
    def deep(x):
        def body(_, v):
            return lax.cond(v.sum() > 0, jax.jit(convolve), lambda w: w, v)

        return lax.fori_loop(0, 2, body, x)

    assert has_convolutions(convolve, X)
    assert has_convolutions(deep, X)
    assert has_convolutions(jax.grad(lambda x: convolve(x).sum()), X)
    assert has_convolutions(jax.vmap(convolve), X[None])


def test_a_matrix_product_is_no_convolution():
    assert not has_convolutions(lambda x: jnp.dot(x[0, 0], x[0, 0]), X)


def test_the_mark_is_taken_off_again():
    assert not in_compiled_loop()
    with compiled_loop():
        assert in_compiled_loop()
        with compiled_loop():
            pass
        assert in_compiled_loop()
    assert not in_compiled_loop()

"""ATen operators as JAX functions, the table with which `cogen.models.jax_bridge.torch_to_jax` interprets a generator.

A key is the operator's name without ``aten.`` and without the overload; the function takes the operator's arguments in torch's
order. Where torch and JAX differ in the gradient at a kink (clamp, norm of zero), the function follows torch. Layers
(convolution, normalisation, pooling, attention) are in `cogen.models.jax_bridge.layers`. Operators that are not in the table
are first decomposed by torch into its core set, most of which is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cogen.models.jax_bridge.layers import LAYERS

# --- arithmetic -----------------------------------------------------------------------------------------------------


def add(x, y, alpha=1):
    return x + (y if alpha == 1 else alpha * y)


def subtract(x, y, alpha=1):
    return x - (y if alpha == 1 else alpha * y)


def divide(x, y, rounding_mode=None):
    quotient = jnp.true_divide(x, y)
    return {None: lambda a: a, "floor": jnp.floor, "trunc": jnp.trunc}[rounding_mode](quotient)


def power(x, exponent):
    whole = isinstance(exponent, float) and exponent.is_integer()
    return jnp.power(x, int(exponent) if whole else exponent)


def clamp(x, low=None, high=None):
    """Clamp with gradient one at the bounds, as in torch (that of jnp.clip is one half)."""
    x = x if low is None else jnp.where(x < low, low, x)
    return x if high is None else jnp.where(x > high, high, x)


ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": add,
    "sub": subtract,
    "rsub": lambda x, y, alpha=1: subtract(y, x, alpha),
    "mul": jnp.multiply,
    "div": divide,
    "pow": power,
    "square": jnp.square,
    "reciprocal": lambda x: 1 / x,
    "rsqrt": lax.rsqrt,
    "maximum": jnp.maximum,
    "minimum": jnp.minimum,
    "remainder": jnp.remainder,
    "fmod": jnp.fmod,
    **dict.fromkeys(("clamp", "clip"), clamp),
    "clamp_min": clamp,
    "clamp_max": lambda x, high: clamp(x, None, high),
    "lerp": lambda x, y, weight: x + weight * (y - x),
    "addcmul": lambda x, a, b, value=1: x + value * a * b,
    "addcdiv": lambda x, a, b, value=1: x + value * a / b,
    "eq": jnp.equal,
    "ne": jnp.not_equal,
    "lt": jnp.less,
    "le": jnp.less_equal,
    "gt": jnp.greater,
    "ge": jnp.greater_equal,
    "neg": jnp.negative,
    "sgn": jnp.sign,
    "asin": jnp.arcsin,
    "acos": jnp.arccos,
    "atan": jnp.arctan,
    "atan2": jnp.arctan2,
    "erf": jax.lax.erf,
    "erfinv": jax.lax.erf_inv,
    "where": jnp.where,
    "masked_fill": lambda x, mask, value: jnp.where(mask, value, x),
    "logical_and": jnp.logical_and,
    "logical_or": jnp.logical_or,
    "logical_not": jnp.logical_not,
    "bitwise_and": jnp.bitwise_and,
    "bitwise_or": jnp.bitwise_or,
    "bitwise_not": jnp.bitwise_not,
    **{name: getattr(jnp, name) for name in ("abs", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt")},
    **{name: getattr(jnp, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "sign")},
    **{name: getattr(jnp, name) for name in ("floor", "ceil", "round", "trunc", "isnan", "isinf")},
}

# --- activations ----------------------------------------------------------------------------------------------------


def elu(x, alpha=1.0, scale=1.0, input_scale=1.0):
    # The unused branch must stay finite, otherwise the gradient is NaN.
    return scale * jnp.where(x > 0, x, alpha * jnp.expm1(input_scale * jnp.minimum(x, 0)))


def selu(x):
    return elu(x, 1.6732632423543772, 1.0507009873554805)


def softplus(x, beta=1.0, threshold=20.0):
    return jnp.where(beta * x > threshold, x, jax.nn.softplus(jnp.minimum(beta * x, threshold)) / beta)


def prelu(x, weight):
    return jnp.where(x > 0, x, weight.reshape(1, -1, *[1] * (x.ndim - 2) if x.ndim > 1 else []) * x)


def hardsigmoid(x):
    return clamp(x + 3, 0.0, 6.0) / 6


def glu(x, dim=-1):
    a, b = jnp.split(x, 2, axis=dim)
    return a * jax.nn.sigmoid(b)


def threshold(x, bound, value):
    return jnp.where(x > bound, x, value)


ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "relu": jax.nn.relu,
    "relu6": lambda x: clamp(x, 0.0, 6.0),
    "leaky_relu": lambda x, slope=0.01: jnp.where(x > 0, x, slope * x),
    "elu": elu,
    "selu": selu,
    "celu": lambda x, alpha=1.0: elu(x, alpha, 1.0, 1 / alpha),
    "gelu": lambda x, approximate="none": jax.nn.gelu(x, approximate=approximate == "tanh"),
    "silu": jax.nn.silu,
    "mish": lambda x: x * jnp.tanh(jax.nn.softplus(x)),
    "softplus": softplus,
    "sigmoid": jax.nn.sigmoid,
    "log_sigmoid": jax.nn.log_sigmoid,
    "hardtanh": lambda x, low=-1.0, high=1.0: clamp(x, low, high),
    "hardsigmoid": hardsigmoid,
    "hardswish": lambda x: x * hardsigmoid(x),
    "softshrink": lambda x, width=0.5: jnp.where(x > width, x - width, jnp.where(x < -width, x + width, 0)),
    "hardshrink": lambda x, width=0.5: jnp.where(jnp.abs(x) > width, x, 0),
    "threshold": threshold,
    "prelu": prelu,
    "_prelu_kernel": lambda x, weight: jnp.where(x > 0, x, weight * x),
    "glu": glu,
    "softmax": lambda x, dim, dtype=None: jax.nn.softmax(x, axis=dim),
    "_softmax": lambda x, dim, half_to_float: jax.nn.softmax(x, axis=dim),
    "log_softmax": lambda x, dim, dtype=None: jax.nn.log_softmax(x, axis=dim),
    "_log_softmax": lambda x, dim, half_to_float: jax.nn.log_softmax(x, axis=dim),
}

# --- reductions -----------------------------------------------------------------------------------------------------


def _axes(dim):
    """torch's axes in NumPy's form: None and an empty list both mean all axes."""
    if dim is None or isinstance(dim, int):
        return dim
    return tuple(dim) or None


def _reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, dim=None, keepdim=False, dtype=None: function(x, axis=_axes(dim), keepdims=keepdim)


def variance(x, dim=None, unbiased=True, keepdim=False, correction=None):
    if isinstance(dim, bool):  # the overload var(x, unbiased)
        dim, unbiased = None, dim
    ddof = (1 if unbiased else 0) if correction is None else correction
    return jnp.var(x, axis=_axes(dim), ddof=ddof, keepdims=keepdim)


def deviation(x, *args, **kwargs):
    return jnp.sqrt(variance(x, *args, **kwargs))


def variance_and_mean(x, dim=None, unbiased=True, keepdim=False, correction=None):
    mean_axes = None if isinstance(dim, bool) else _axes(dim)
    return variance(x, dim, unbiased, keepdim, correction), jnp.mean(x, axis=mean_axes, keepdims=keepdim)


def vector_norm(x, order=2, dim=None, keepdim=False, dtype=None):
    if order != 2:
        axes = tuple(range(x.ndim)) if _axes(dim) is None else dim
        return jnp.linalg.vector_norm(x, axis=axes, keepdims=keepdim, ord=order)
    squares = jnp.sum(x * x, axis=_axes(dim), keepdims=keepdim)
    positive = squares > 0  # the norm of zero has gradient zero in torch, nan in JAX
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


def extreme(reduce: Callable[..., Any], locate: Callable[..., Any], pairwise: Callable[..., Any]) -> Callable[..., Any]:
    def largest(x, dim=None, keepdim=False):
        if dim is None:
            return reduce(x)
        if not isinstance(dim, int):  # the overload max(x, other)
            return pairwise(x, dim)
        return reduce(x, axis=dim, keepdims=keepdim), locate(x, axis=dim, keepdims=keepdim)

    return largest


def log_sum_exp(x, dim, keepdim=False):
    return jax.scipy.special.logsumexp(x, axis=_axes(dim), keepdims=keepdim)


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "sum": _reduction(jnp.sum),
    "mean": _reduction(jnp.mean),
    "prod": _reduction(jnp.prod),
    "amax": _reduction(jnp.max),
    "amin": _reduction(jnp.min),
    "any": _reduction(jnp.any),
    "all": _reduction(jnp.all),
    "max": extreme(jnp.max, jnp.argmax, jnp.maximum),
    "min": extreme(jnp.min, jnp.argmin, jnp.minimum),
    "argmax": lambda x, dim=None, keepdim=False: jnp.argmax(x, axis=dim, keepdims=keepdim),
    "argmin": lambda x, dim=None, keepdim=False: jnp.argmin(x, axis=dim, keepdims=keepdim),
    "var": variance,
    "std": deviation,
    "var_mean": variance_and_mean,
    "linalg_vector_norm": vector_norm,
    "logsumexp": log_sum_exp,
    "cumsum": lambda x, dim, dtype=None: jnp.cumsum(x, axis=dim),
}

# --- products -------------------------------------------------------------------------------------------------------


def product_plus(bias, a, b, beta=1, alpha=1):
    return beta * bias + alpha * jnp.matmul(a, b) if (alpha, beta) != (1, 1) else bias + jnp.matmul(a, b)


PRODUCTS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot"), jnp.matmul),
    "addmm": product_plus,
    "baddbmm": product_plus,
    "einsum": lambda equation, operands, path=None: jnp.einsum(equation, *operands),
}

# --- shapes ---------------------------------------------------------------------------------------------------------


def reshape(x, size):
    if not isinstance(size, list | tuple):
        raise ValueError(f"a view as another dtype ({size}) is not supported in JAX")
    return jnp.reshape(x, size)


def squeeze(x, dim=None):
    dims = range(x.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    return jnp.squeeze(x, axis=tuple(d for d in dims if x.shape[d] == 1))


def expand(x, size, implicit=False):
    known = (None,) * (len(size) - x.ndim) + x.shape
    return jnp.broadcast_to(x, [k if s == -1 else s for s, k in zip(size, known, strict=True)])


def cut(x, dim=0, start=None, end=None, step=1):
    index = [slice(None)] * x.ndim
    index[dim] = slice(start, end, step)
    return x[tuple(index)]


def unflatten(x, dim, sizes):
    dim = dim % x.ndim
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


def split(x, size, dim=0):
    """Split into pieces of one size, the last possibly shorter, or of the listed sizes."""
    if isinstance(size, int):
        size = [min(size, x.shape[dim] - at) for at in range(0, x.shape[dim], size)]
    return jnp.split(x, np.cumsum(size)[:-1], axis=dim)


def chunk(x, chunks, dim=0):
    return split(x, math.ceil(x.shape[dim] / chunks), dim)


def unbind(x, dim=0):
    return [lax.index_in_dim(x, i, dim, keepdims=False) for i in range(x.shape[dim])]


def pad(x, pads, mode="constant", value=None):
    pairs = [(pads[i], pads[i + 1]) for i in range(0, len(pads), 2)][::-1]  # torch lists the last axis first
    pairs = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    if mode == "constant":
        return lax.pad(x, jnp.asarray(value or 0, x.dtype), [(low, high, 0) for low, high in pairs])
    return jnp.pad(x, pairs, mode={"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode])


def index(x, indices):
    return x[tuple(slice(None) if i is None else i for i in indices)]


def index_put(x, indices, values, accumulate=False):
    at = x.at[tuple(slice(None) if i is None else i for i in indices)]
    return at.add(values) if accumulate else at.set(values)


def gather(x, dim, indices, sparse_grad=False):
    dim = dim % x.ndim
    window = tuple(slice(None) if d == dim else slice(size) for d, size in enumerate(indices.shape))
    return jnp.take_along_axis(x[window], indices, axis=dim)


def slice_scatter(x, source, dim=0, start=None, end=None, step=1):
    at = [slice(None)] * x.ndim
    at[dim] = slice(start, end, step)
    return x.at[tuple(at)].set(source)


def select_scatter(x, source, dim, position):
    at: list[Any] = [slice(None)] * x.ndim
    at[dim] = position
    return x.at[tuple(at)].set(source)


def pixel_shuffle(x, factor):
    *lead, channels, height, width = x.shape
    y = x.reshape(*lead, channels // factor**2, factor, factor, height, width)
    n = len(lead)
    y = y.transpose(*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return y.reshape(*lead, channels // factor**2, height * factor, width * factor)


def pixel_unshuffle(x, factor):
    *lead, channels, height, width = x.shape
    y = x.reshape(*lead, channels, height // factor, factor, width // factor, factor)
    n = len(lead)
    y = y.transpose(*range(n), n, n + 2, n + 4, n + 1, n + 3)
    return y.reshape(*lead, channels * factor**2, height // factor, width // factor)


def _same(x, *args, **kwargs):
    return x


def _filled(x, value, dtype=None):
    return jnp.full(x.shape, value, dtype or x.dtype)


SHAPES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "view_copy"), reshape),
    "permute": jnp.transpose,
    "transpose": jnp.swapaxes,
    "t": jnp.transpose,
    "squeeze": squeeze,
    "unflatten": unflatten,
    "unsqueeze": jnp.expand_dims,
    "expand": expand,
    "repeat": jnp.tile,
    "repeat_interleave": lambda x, repeats, dim=None, output_size=None: jnp.repeat(x, repeats, axis=dim),
    "flip": lambda x, dims: jnp.flip(x, axis=tuple(dims)),
    "roll": lambda x, shifts, dims=(): jnp.roll(x, tuple(shifts), axis=tuple(dims) or None),
    "cat": lambda tensors, dim=0: jnp.concatenate(tensors, axis=dim),
    "stack": lambda tensors, dim=0: jnp.stack(tensors, axis=dim),
    "split": split,
    "split_with_sizes": split,
    "chunk": chunk,
    "tensor_split": lambda x, where, dim=0: jnp.array_split(x, where, axis=dim),
    "unbind": unbind,
    "slice": cut,
    "select": lambda x, dim, position: lax.index_in_dim(x, position, dim, keepdims=False),
    "pad": pad,
    "constant_pad_nd": lambda x, pads, value=0: pad(x, pads, "constant", value),
    "index": index,
    "index_put": index_put,
    "embedding": lambda weight, indices, padding=-1, scale=False, sparse=False: jnp.take(weight, indices, axis=0),
    "index_select": lambda x, dim, indices: jnp.take(x, indices, axis=dim),
    "gather": gather,
    "slice_scatter": slice_scatter,
    "select_scatter": select_scatter,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "sym_size": lambda x, dim: x.shape[dim],
    "tril": jnp.tril,
    "triu": jnp.triu,
    **dict.fromkeys(("clone", "contiguous", "alias", "lift_fresh_copy"), _same),
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), _same),
    "detach": lax.stop_gradient,
    "_to_copy": lambda x, dtype=None: x if dtype is None else x.astype(dtype),
    "copy": lambda x, source: jnp.broadcast_to(source, x.shape).astype(x.dtype),
    "fill": _filled,
    "full_like": _filled,
    "zeros_like": partial(_filled, value=0),
    "ones_like": partial(_filled, value=1),
    "new_zeros": lambda x, size, dtype=None: jnp.zeros(size, dtype or x.dtype),
    "new_ones": lambda x, size, dtype=None: jnp.ones(size, dtype or x.dtype),
    "new_full": lambda x, size, value, dtype=None: jnp.full(size, value, dtype or x.dtype),
}

OPERATORS: dict[str, Callable[..., Any]] = {**ARITHMETIC, **ACTIVATIONS, **REDUCTIONS, **PRODUCTS, **SHAPES, **LAYERS}

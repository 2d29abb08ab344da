"""The layers of a generator in JAX, with PyTorch's arguments, layout (batch, channel, *space) and conventions.

Convolutions have two implementations. Outside loops they are those of XLA. Inside a compiled loop on the CPU, where XLA's fast
convolutions are not available (`cogen.inference.loops`), they are patches and one matrix product, so that the gradient is a
product too:

    y[n, o, i] = sum over offset k and channel c of w[o, c, k] x[n, c, stride i + dilation k - padding].

A transposed convolution of stride s is then an ordinary convolution with s^2 times the channels, one group for each phase of
the output grid, followed by interleaving ("Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
Convolutional Neural Network", Shi et al., 2016, section 2.2), which avoids products with inserted zeros.

Interpolation and uneven pooling are linear along each axis. Their matrices are computed by torch from the identity, so torch's
conventions (align_corners, rounding of sizes) hold by construction.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import Array, lax

from cogen.inference.loops import in_compiled_loop


def _each(value: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    """One value per spatial axis, from torch's arguments, where one number or a list of one applies to all axes."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dimensions if len(values) == 1 else values


def _loses_fast_convolutions() -> bool:
    return in_compiled_loop() and jax.default_backend() == "cpu"


def _add_bias(y: Array, bias: Array | None) -> Array:
    return y if bias is None else y + bias.reshape(-1, *[1] * (y.ndim - 2))


# --- convolutions ---------------------------------------------------------------------------------------------------


def convolution(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """aten.conv1d, conv2d, conv3d. weight  # (out, in / groups, *kernel)"""
    n = weight.ndim - 2
    if x.ndim == n + 1:
        return convolution(x[None], weight, bias, stride, padding, dilation, groups)[0]
    dilation, kernel = _each(dilation, n), weight.shape[2:]
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        pads = [(r // 2, r - r // 2) for r in reach]
    else:
        pads = [(p, p) for p in _each(0 if padding == "valid" else padding, n)]
    form = _by_patches if _loses_fast_convolutions() else _by_xla
    return _add_bias(form(x, weight, _each(stride, n), pads, dilation, groups), bias)


def transposed_convolution(x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """aten.conv_transpose1d, 2d, 3d. weight  # (in, out / groups, *kernel)"""
    n = weight.ndim - 2
    if x.ndim == n + 1:
        return transposed_convolution(x[None], weight, bias, stride, padding, output_padding, groups, dilation)[0]
    stride, padding, output_padding, dilation = (_each(a, n) for a in (stride, padding, output_padding, dilation))
    kernel, space = weight.shape[2:], x.shape[2:]
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    sizes = zip(space, stride, padding, reach, output_padding, strict=True)
    out = [(z - 1) * s - 2 * p + r + q + 1 for z, s, p, r, q in sizes]
    weight = weight.reshape(groups, -1, *weight.shape[1:])  # (group, in / groups, out / groups, *kernel)

    if all(z == 1 for z in space):  # a latent becoming an image: a dense layer
        y = jnp.einsum("ngc,gcok->ngok", x.reshape(x.shape[0], groups, -1), weight.reshape(*weight.shape[:3], -1))
        y = _pad_space(y.reshape(x.shape[0], -1, *kernel), [(0, 0, d - 1) for d in dilation])
        crop = [(-p, o + p - r - 1, 0) for p, o, r in zip(padding, out, reach, strict=True)]
        return _add_bias(_pad_space(y, crop), bias)
    if _loses_fast_convolutions() and all(d == 1 for d in dilation):
        y = _by_phases(x, weight, stride, groups)
        crop = [(-p, o + p - z, 0) for p, o, z in zip(padding, out, y.shape[2:], strict=True)]
        return _add_bias(_pad_space(y, crop), bias)

    flipped = jnp.flip(jnp.swapaxes(weight, 1, 2), axis=tuple(range(3, 3 + n)))
    flipped = flipped.reshape(-1, *flipped.shape[2:])  # (out, in / groups, *kernel)
    pads = [(r - p, r - p + q) for r, p, q in zip(reach, padding, output_padding, strict=True)]
    if _loses_fast_convolutions():
        spread = _pad_space(x, [(0, 0, s - 1) for s in stride])
        return _add_bias(_by_patches(spread, flipped, (1,) * n, pads, dilation, groups), bias)
    return _add_bias(_by_xla(x, flipped, (1,) * n, pads, dilation, groups, spread=stride), bias)


def any_convolution(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups):
    """aten.convolution, ordinary or transposed."""
    if transposed:
        return transposed_convolution(x, weight, bias, stride, padding, output_padding, groups, dilation)
    return convolution(x, weight, bias, stride, padding, dilation, groups)


def _by_xla(x, weight, stride, pads, dilation, groups, spread=None):
    space = "DHW"[3 - len(stride) :]
    layout = (f"NC{space}", f"OI{space}", f"NC{space}")
    return lax.conv_general_dilated(
        x, weight, stride, pads, spread, dilation, dimension_numbers=layout, feature_group_count=groups
    )


def _by_patches(x, weight, stride, pads, dilation, groups):
    x = _pad_space(x, [(low, high, 0) for low, high in pads])
    batch, channels, space, kernel = x.shape[0], x.shape[1], x.shape[2:], weight.shape[2:]
    patches = []
    for offset in itertools.product(*(range(k) for k in kernel)):
        start = [d * o for d, o in zip(dilation, offset, strict=True)]
        stop = [z - d * (k - 1 - o) for z, d, k, o in zip(space, dilation, kernel, offset, strict=True)]
        patches.append(lax.slice(x, (0, 0, *start), (batch, channels, *stop), (1, 1, *stride)))
    out = patches[0].shape[2:]
    patch = jnp.stack(patches, axis=1)  # (batch, offset, channel, *out)
    if groups == 1:
        kernels = weight.reshape(weight.shape[0], channels, -1)
        y = lax.dot_general(kernels, patch, (((1, 2), (2, 1)), ((), ())))  # (out channel, batch, *out)
    else:
        kernels = weight.reshape(groups, -1, channels // groups, len(patches))
        patch = patch.reshape(batch, len(patches), groups, channels // groups, *out)
        y = lax.dot_general(kernels, patch, (((2, 3), (3, 1)), ((0,), (2,)))).reshape(-1, batch, *out)
    return jnp.moveaxis(y, 1, 0)


def _by_phases(x, weight, stride, groups):
    """A transposed convolution, uncropped. weight  # (group, in / groups, out / groups, *kernel)"""
    n, kernel = len(stride), weight.shape[3:]
    taps = [math.ceil(k / s) for k, s in zip(kernel, stride, strict=True)]  # kernel size of one phase
    weight = _pad_space(weight, [(0, t * s - k, 0) for t, s, k in zip(taps, stride, kernel, strict=True)], leading=3)
    weight = weight.reshape(*weight.shape[:3], *itertools.chain(*zip(taps, stride, strict=True)))
    tap_axes, phase_axes = range(3, 3 + 2 * n, 2), range(4, 4 + 2 * n, 2)
    weight = jnp.flip(weight, axis=tuple(tap_axes)).transpose(0, 2, *phase_axes, 1, *tap_axes)
    weight = weight.reshape(-1, weight.shape[2 + n], *taps)  # (out x phases, in / groups, *taps)
    y = _by_patches(x, weight, (1,) * n, [(t - 1, t - 1) for t in taps], (1,) * n, groups)
    grid = y.shape[2:]
    y = y.reshape(x.shape[0], -1, *stride, *grid)
    y = y.transpose(0, 1, *itertools.chain(*((2 + n + i, 2 + i) for i in range(n))))
    return y.reshape(*y.shape[:2], *(g * s for g, s in zip(grid, stride, strict=True)))


def _pad_space(x: Array, pads: Sequence[tuple[int, int, int]], leading: int = 2) -> Array:
    """Pad every spatial axis by (low, high, zeros between); negative values crop."""
    if all(pad == (0, 0, 0) for pad in pads):
        return x
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0)] * leading + list(pads))


# --- normalisation --------------------------------------------------------------------------------------------------


def batch_norm(x, weight, bias, mean, variance, momentum, epsilon):
    """aten._native_batch_norm_legit_no_training, with the stored statistics; returns a triple like torch."""
    channel = (-1, *[1] * (x.ndim - 2))
    scale = lax.rsqrt(variance + epsilon) if weight is None else weight * lax.rsqrt(variance + epsilon)
    shift = -mean * scale if bias is None else bias - mean * scale
    return x * scale.reshape(channel) + shift.reshape(channel), None, None


def group_norm(x, groups, weight=None, bias=None, epsilon=1e-5, fast=True):
    y = x.reshape(x.shape[0], groups, -1)
    y = _standardise(y, (2,), epsilon).reshape(x.shape)
    return _add_bias(y if weight is None else y * weight.reshape(-1, *[1] * (x.ndim - 2)), bias)


def instance_norm(x, weight, bias, mean, variance, use_input, momentum, epsilon, fast):
    if not use_input:
        return batch_norm(x, weight, bias, mean, variance, momentum, epsilon)[0]
    return group_norm(x, x.shape[1], weight, bias, epsilon)


def layer_norm(x, shape, weight=None, bias=None, epsilon=1e-5, fast=True):
    y = _standardise(x, tuple(range(-len(shape), 0)), epsilon)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def rms_norm(x, shape, weight=None, epsilon=None):
    epsilon = float(jnp.finfo(x.dtype).eps) if epsilon is None else epsilon
    y = x * lax.rsqrt(jnp.mean(x * x, axis=tuple(range(-len(shape), 0)), keepdims=True) + epsilon)
    return y if weight is None else y * weight


def _standardise(x, axes, epsilon):
    centred = x - x.mean(axes, keepdims=True)
    return centred * lax.rsqrt(jnp.mean(centred * centred, axis=axes, keepdims=True) + epsilon)


# --- pooling and interpolation --------------------------------------------------------------------------------------


def average_pool(dimensions: int) -> Callable[..., Any]:
    def pool(x, kernel, stride=(), padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None):
        kernel, padding = _each(kernel, dimensions), _each(padding, dimensions)
        stride = _each(stride, dimensions) or kernel
        _no_ceil_mode(ceil_mode)
        space = x.shape[-dimensions:]
        tiles = stride == kernel and not any(padding) and all(z % k == 0 for z, k in zip(space, kernel, strict=True))
        if tiles and divisor_override is None:
            return _block_mean(x, [z // k for z, k in zip(space, kernel, strict=True)])
        total = _windows(x, 0.0, lax.add, kernel, stride, padding)
        if divisor_override is not None:
            return total / divisor_override
        if count_include_pad:
            return total / math.prod(kernel)
        return total / _windows(jnp.ones_like(x), 0.0, lax.add, kernel, stride, padding)

    return pool


def max_pool(dimensions: int) -> Callable[..., Any]:
    def pool(x, kernel, stride=(), padding=0, dilation=1, ceil_mode=False):
        kernel, padding = _each(kernel, dimensions), _each(padding, dimensions)
        stride, dilation = _each(stride, dimensions) or kernel, _each(dilation, dimensions)
        _no_ceil_mode(ceil_mode)
        return _windows(x, -jnp.inf, lax.max, kernel, stride, padding, dilation)

    return pool


def adaptive_average_pool(x, size):
    for axis, out in zip(range(-len(size), 0), size, strict=True):
        if out is not None and x.shape[axis] % out:
            x = _along(x, axis, _pooling_matrix(x.shape[axis], out))
    return _block_mean(x, [z if s is None else s for z, s in zip(x.shape[-len(size) :], size, strict=True)])


def nearest(name: str) -> Callable[..., Any]:
    def upsample(x, size, *scales):
        for axis, out, scale in _targets(x, size, scales):
            index = _nearest_index(name, x.shape[axis], out, scale)
            factor = out // x.shape[axis]
            if factor and np.array_equal(index, np.arange(out) // factor):
                x = jnp.repeat(x, factor, axis=axis)  # the gradient is a sum instead of a scatter
            else:
                x = jnp.take(x, index, axis=axis)
        return x

    return upsample


def interpolation(name: str) -> Callable[..., Any]:
    def upsample(x, size, align_corners, *scales):
        for axis, out, scale in _targets(x, size, scales):
            x = _along(x, axis, _interpolation_matrix(name, x.shape[axis], out, align_corners, scale))
        return x

    return upsample


def _targets(x, size, scales):
    """(axis, output size, scale or None) for each spatial axis, from either of torch's two signatures."""
    n = x.ndim - 2
    if len(scales) == 1 and not isinstance(scales[0], float | int):
        scales = scales[0] or ()
    scales = tuple(scales) or (None,) * n
    sizes = size if size is not None else [int(z * s) for z, s in zip(x.shape[2:], scales, strict=True)]
    return list(zip(range(2, 2 + n), sizes, scales, strict=True))


@functools.lru_cache(maxsize=64)
def _nearest_index(name, size, out, scale):
    grid = torch.arange(size, dtype=torch.float64).reshape(1, 1, 1, size)
    return getattr(torch.ops.aten, name)(grid, [1, out], None, scale).flatten().long().numpy()


@functools.lru_cache(maxsize=64)
def _interpolation_matrix(name, size, out, align_corners, scale):
    # Space is the last axis, because torch 2.13 resamples the height of images of width one wrongly with antialiasing.
    identity = torch.eye(size, dtype=torch.float64).reshape(1, size, 1, size)
    return getattr(torch.ops.aten, name)(identity, [1, out], align_corners, None, scale).reshape(size, out).numpy()


@functools.lru_cache(maxsize=64)
def _pooling_matrix(size, out):
    identity = torch.eye(size, dtype=torch.float64).reshape(1, size, size)
    return torch.nn.functional.adaptive_avg_pool1d(identity, out).reshape(size, out).numpy()


def _along(x, axis, matrix):
    """Apply a matrix (size, out) along one axis."""
    return jnp.moveaxis(jnp.tensordot(x, jnp.asarray(matrix, x.dtype), axes=(axis, 0)), -1, axis)


def _block_mean(x, size):
    space = x.shape[-len(size) :]
    blocks = itertools.chain(*((s, z // s) for z, s in zip(space, size, strict=True)))
    y = x.reshape(*x.shape[: -len(size)], *blocks)
    return y.mean(axis=tuple(range(-2 * len(size) + 1, 0, 2)))


def _windows(x, start, combine, kernel, stride, padding, dilation=None):
    lead = (1,) * (x.ndim - len(kernel))
    pads = [(0, 0)] * len(lead) + [(p, p) for p in padding]
    dilation = None if dilation is None else (*lead, *dilation)
    start = np.asarray(start, x.dtype)
    return lax.reduce_window(x, start, combine, (*lead, *kernel), (*lead, *stride), pads, window_dilation=dilation)


def _no_ceil_mode(ceil_mode):
    if ceil_mode:
        raise ValueError("pooling with ceil_mode=True is not supported in JAX: pad the image and use ceil_mode=False")


# --- attention ------------------------------------------------------------------------------------------------------


def attention(q, k, v, mask=None, dropout=0.0, is_causal=False, *, scale=None, enable_gqa=False):
    """aten.scaled_dot_product_attention. q  # (..., query, size); k, v  # (..., key, size)"""
    if enable_gqa:
        repeats = q.shape[-3] // k.shape[-3]
        k, v = (jnp.repeat(a, repeats, axis=-3) for a in (k, v))
    scores = jnp.einsum("...qd,...kd->...qk", q, k) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if is_causal:
        mask = np.tril(np.ones(scores.shape[-2:], bool))
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf) if mask.dtype == bool else scores + mask
    return jax.nn.softmax(scores, axis=-1) @ v


def linear(x, weight, bias=None):
    y = jnp.matmul(x, weight.T)
    return y if bias is None else y + bias


LAYERS: dict[str, Callable[..., Any]] = {
    "linear": linear,
    "convolution": any_convolution,
    **{f"conv{n}d": convolution for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": transposed_convolution for n in (1, 2, 3)},
    "_native_batch_norm_legit_no_training": batch_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    **{f"avg_pool{n}d": average_pool(n) for n in (1, 2, 3)},
    **{f"max_pool{n}d": max_pool(n) for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": adaptive_average_pool for n in (1, 2, 3)},
    **{f"upsample_nearest{n}d": nearest("upsample_nearest2d") for n in (1, 2, 3)},
    **{f"_upsample_nearest_exact{n}d": nearest("_upsample_nearest_exact2d") for n in (1, 2, 3)},
    **{name: interpolation("upsample_bilinear2d") for name in ("upsample_linear1d", "upsample_trilinear3d")},
    **{
        name: interpolation(name)
        for name in (
            "upsample_bilinear2d",
            "upsample_bicubic2d",
            "_upsample_bilinear2d_aa",
            "_upsample_bicubic2d_aa",
        )
    },
    "scaled_dot_product_attention": attention,
}

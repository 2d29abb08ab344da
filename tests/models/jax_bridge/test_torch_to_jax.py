"""The bridge from torch to JAX: every operator and several architectures against torch, in value and in gradient."""

from __future__ import annotations

import functools
import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cogen.inference.loops import compiled_loop
from cogen.models.jax_bridge import torch_to_jax
from cogen.models.jax_bridge.torch_to_jax import ConversionError, as_jax


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(autouse=True, scope="module")
def compiled_quickly():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


class Function(nn.Module):
    """A module made of a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def compare(module, function, shape, batch=5, tolerance=1e-5):
    """Value and vector-Jacobian product of the two, relative to their largest magnitude."""
    z = torch.randn(batch, *shape).requires_grad_()
    value = module.eval()(z)
    cotangent = torch.randn(value.shape)
    (gradient,) = torch.autograd.grad(value, z, cotangent)

    def both(z, cotangent):
        ours, pull = jax.vjp(function, z)
        return ours, pull(cotangent)[0]

    ours = jax.jit(both)(z.detach().numpy(), cotangent.numpy())
    for mine, theirs in zip(ours, (value, gradient), strict=True):
        theirs = theirs.detach().numpy()
        assert mine.shape == theirs.shape
        assert mine.dtype == jnp.float32
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


# --- one operator at a time -----------------------------------------------------------------------------------------


def randomised(norm):
    """With statistics and weights that a trained network would have."""
    for tensor in [*norm.parameters(), *norm.buffers()]:
        if tensor.is_floating_point():
            tensor.data = 0.5 + torch.rand_like(tensor)
    return norm


IMAGE = (4, 6, 6)
LAYERS = {
    "linear": (lambda: nn.Linear(5, 3), (5,)),
    "linear without bias, on sequences": (lambda: nn.Linear(5, 3, bias=False), (2, 5)),
    "convolution 1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (4, 9)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, padding=1), IMAGE),
    "convolution, uneven": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2)), IMAGE),
    "convolution, groups": (lambda: nn.Conv2d(4, 6, 3, stride=2, groups=2, padding=1), IMAGE),
    "convolution, depthwise, same": (lambda: nn.Conv2d(4, 4, (3, 5), groups=4, padding="same"), IMAGE),
    "convolution, reflecting": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), IMAGE),
    "convolution 3d": (lambda: nn.Conv3d(2, 3, 2, padding=1), (2, 3, 4, 3)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 4, stride=2, padding=1), (4, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1), IMAGE),
    "transposed, output padding": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), IMAGE),
    "transposed, beyond the kernel": (lambda: nn.ConvTranspose2d(4, 6, 2, stride=3, output_padding=2), IMAGE),
    "transposed, groups": (lambda: nn.ConvTranspose2d(4, 6, 5, stride=3, groups=2), IMAGE),
    "transposed, dilation": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, dilation=2, padding=1, groups=2), IMAGE),
    "transposed, uneven": (lambda: nn.ConvTranspose2d(4, 6, (3, 4), stride=(1, 2), padding=(2, 1)), IMAGE),
    "transposed, from a vector": (lambda: nn.ConvTranspose2d(4, 6, 4, groups=2), (4, 1, 1)),
    "transposed, from a vector, cropped": (
        lambda: nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1, output_padding=1, dilation=2),
        (4, 1, 1),
    ),
    "batch norm 1d": (lambda: randomised(nn.BatchNorm1d(5)), (5,)),
    "batch norm": (lambda: randomised(nn.BatchNorm2d(4)), IMAGE),
    "batch norm, not affine": (lambda: randomised(nn.BatchNorm2d(4, affine=False)), IMAGE),
    "layer norm": (lambda: randomised(nn.LayerNorm((6, 6))), IMAGE),
    "group norm": (lambda: randomised(nn.GroupNorm(2, 4)), IMAGE),
    "instance norm": (lambda: randomised(nn.InstanceNorm2d(4, affine=True)), IMAGE),
    "rms norm": (lambda: randomised(nn.RMSNorm(6)), IMAGE),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(5, 4)), (5,)),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)), (5,)),
    "average pool": (lambda: nn.AvgPool2d(2), IMAGE),
    "average pool, padded": (lambda: nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False), IMAGE),
    "average pool, overlapping": (lambda: nn.AvgPool2d((3, 2), stride=1, padding=(1, 0)), IMAGE),
    "adaptive pool": (lambda: nn.AdaptiveAvgPool2d((3, 2)), IMAGE),
    "adaptive pool, uneven": (lambda: nn.AdaptiveAvgPool2d((4, None)), IMAGE),
    "max pool": (lambda: nn.MaxPool2d(3, stride=2, padding=1), IMAGE),
    "prelu": (lambda: nn.PReLU(4), IMAGE),
    "multi-head attention": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (3, 8)),
}

INTERPOLATIONS = {
    "nearest, factor": {"scale_factor": 2, "mode": "nearest"},
    "nearest, size": {"size": (9, 4), "mode": "nearest"},
    "nearest-exact, size": {"size": (9, 4), "mode": "nearest-exact"},
    "bilinear, factor": {"scale_factor": 2, "mode": "bilinear"},
    "bilinear, corners": {"scale_factor": 2, "mode": "bilinear", "align_corners": True},
    "bilinear, broken factor": {"scale_factor": 1.3, "mode": "bilinear"},
    "bilinear, size": {"size": (9, 4), "mode": "bilinear"},
    "bilinear, antialias": {"size": (3, 4), "mode": "bilinear", "antialias": True},
    "bicubic, size": {"size": (9, 4), "mode": "bicubic"},
    "area": {"size": (3, 2), "mode": "area"},
}

ACTIVATIONS = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "leaky relu": lambda x: functional.leaky_relu(x, 0.2),
    "elu": lambda x: functional.elu(x, 0.7),
    "selu": functional.selu,
    "celu": lambda x: functional.celu(x, 0.7),
    "gelu": functional.gelu,
    "gelu, tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "mish": functional.mish,
    "softplus": lambda x: functional.softplus(10 * x, beta=2),
    "softsign": functional.softsign,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "log sigmoid": functional.logsigmoid,
    "hardtanh": functional.hardtanh,
    "hardswish": lambda x: functional.hardswish(3 * x),
    "hardsigmoid": lambda x: functional.hardsigmoid(3 * x),
    "softshrink": functional.softshrink,
    "hardshrink": functional.hardshrink,
    "tanhshrink": functional.tanhshrink,
    "threshold": lambda x: functional.threshold(x, 0.1, 2.0),
    "glu": lambda x: functional.glu(x, 1),
    "softmax": lambda x: functional.softmax(x, -1),
    "log softmax": lambda x: functional.log_softmax(x, 1),
    "clamp": lambda x: x.clamp(-0.5, 0.8),
    "clamp, at its bound": lambda x: x.relu().clamp(min=0),
}


def in_place(x):
    y = x * 2
    y[:, 0] = 1.0
    y[:, 1, ::2] += 3
    return (y.relu_() * 0.5).add_(x)


COLUMNS = torch.tensor([5, 0, 2])
SHAPES = {
    "view by the size of the batch": lambda x: x.view(x.size(0), -1).reshape(x.shape[0], 2, -1),
    "permute, transpose, flatten": lambda x: x.permute(0, 2, 3, 1).transpose(1, 2).flatten(1, 2).mT,
    "squeeze, unsqueeze, movedim": lambda x: x.unsqueeze(1).squeeze(1).unsqueeze(-1).squeeze((1, -1)).movedim(1, 2),
    "cat, stack, split, chunk": lambda x: torch.stack(
        [torch.cat(x.split([1, 3], 1)[::-1], 1), x.chunk(2, 1)[0].repeat(1, 2, 1, 1)]
    ).sum(0),
    "unbind": lambda x: torch.stack(x.unbind(2)[::2], 1),
    "slice, select": lambda x: x[:, 1:, ::2, 3] + x[:, :-1, 1::2, -1],
    "index": lambda x: x[:, :, [3, 0, 1], COLUMNS] + x[..., COLUMNS].sum(2),
    "boolean mask": lambda x: x[..., torch.arange(6) % 2 == 0],
    "index_select, gather": lambda x: (
        x.index_select(2, COLUMNS).repeat_interleave(2, 2) + x.gather(3, COLUMNS.repeat(x.shape[0], 4, 6, 2))
    ),
    "expand, repeat, flip, roll": lambda x: (
        x[:, :1].expand(-1, 4, -1, -1).flip(-1) * x.roll(2, 1) + x.repeat(1, 2, 1, 1)[:, 2:6]
    ),
    "pad, reflect": lambda x: functional.pad(x, (1, 2, 3, 0), mode="reflect"),
    "pad, replicate": lambda x: functional.pad(x, (1, 2, 3, 0), mode="replicate"),
    "pad, circular": lambda x: functional.pad(x, (1, 2, 3, 0), mode="circular"),
    "pad, crop": lambda x: functional.pad(x, (1, -2, 0, 3, 1, 0), value=0.5),
    "pixel shuffle": lambda x: functional.pixel_shuffle(x, 2),
    "pixel unshuffle": lambda x: functional.pixel_unshuffle(x, 3),
    "in place": in_place,
    "detach": lambda x: x * x.detach().exp(),
}

SPECIAL = {
    "sum, mean": lambda x: x.sum((2, 3)) + x.mean(dim=(-1, -2), keepdim=True).flatten(1),
    "var, std": lambda x: x.var((2, 3)) + x.std(3, unbiased=False).sum(-1) + torch.var(x, dim=(2, 3), correction=0),
    "amax, amin, max": lambda x: x.amax((2, 3)) + x.amin(-1).sum(-1) * x.max(dim=2).values.sum(-1),
    "logsumexp, cumsum, prod": lambda x: x.logsumexp((2, 3)) + x.cumsum(2).prod(3).sum(2),
    "pixel norm": lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-8),
    "normalize": lambda x: functional.normalize(x.relu(), dim=1),
    "norm of zero": lambda x: torch.linalg.vector_norm(x * torch.zeros(1), dim=1) + x.norm(p=1, dim=1),
    "matmul, baddbmm": lambda x: (
        torch.baddbmm(x[:, 0], x[:, 1], x[:, 2], beta=0.5, alpha=2) + torch.matmul(x[:, 0], torch.ones(6, 6))
    ),
    "addmm": lambda x: torch.addmm(torch.ones(3), x.flatten(1)[:, :2], torch.tensor([[1.0, 2, 3], [0, 1, 0]]), alpha=2),
    "einsum": lambda x: torch.einsum("bchw,bdhw->bcd", x, x * x),
    "attention, masked": lambda x: functional.scaled_dot_product_attention(
        x, x.flip(1), x, attn_mask=torch.ones(6, 6, dtype=torch.bool).tril()
    ),
    "attention, causal, scaled": lambda x: functional.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3),
    "arithmetic": lambda x: (
        torch.sub(2 - x / 3, x**2, alpha=0.5) * x**2.0 / (1 + x.abs()) + torch.rsqrt(x * x + 1) - 1 / (x * x + 1)
    ),
    "transcendental": lambda x: x.sin() + x.cos().exp() + x.tanh().atan() + (x * x + 1).log() + x.erf() + torch.expm1(x),
    "integers and halves": lambda x: x * (torch.arange(6) / 4) + torch.arange(6) * 2 + torch.tensor(3) * x,
    "where, masked_fill, maximum": lambda x: (
        torch.where(x > 0, x, x.exp()).masked_fill(x > 1, 3.0) + torch.maximum(x, -x * 0.3) + x.lerp(x * x, 0.3)
    ),
    "constants": lambda x: x + torch.zeros_like(x) + torch.full((6,), 2.0) + torch.linspace(0, 1, 6) + torch.eye(6),
    "to": lambda x: x.to(torch.float64).float() * x.new_ones(6) + (x > 0).float() * x,
    "dropout": lambda x: functional.dropout(x, 0.5, training=False),
}


class SideBySide(nn.Module):
    """Many modules, each on its own part of one vector: the export costs more than the modules, so they share it."""

    def __init__(self, parts):
        super().__init__()
        self.parts = nn.ModuleList([module for module, _ in parts.values()])
        self.shapes = [shape for _, shape in parts.values()]
        self.sizes = [math.prod(shape) for shape in self.shapes]

    def forward(self, x):
        inputs = [part.reshape(-1, *shape) for part, shape in zip(x.split(self.sizes, 1), self.shapes, strict=True)]
        return torch.cat([part(each).flatten(1) for part, each in zip(self.parts, inputs, strict=True)], 1)


GROUPS = {
    "layers": {name: (make, shape) for name, (make, shape) in LAYERS.items()},
    "interpolations": {
        name: (lambda kind=kind: Function(lambda x: functional.interpolate(x, **kind)), (2, 5, 6))
        for name, kind in INTERPOLATIONS.items()
    },
    **{
        title: {name: (lambda function=function: Function(function), IMAGE) for name, function in functions.items()}
        for title, functions in {"activations": ACTIVATIONS, "shapes": SHAPES, "special": SPECIAL}.items()
    },
}


@functools.cache
def group(title):
    """The modules of a group, side by side, and their JAX function."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        parts = {name: (make().eval(), shape) for name, (make, shape) in GROUPS[title].items()}
    module = SideBySide(parts)
    return parts, as_jax(module, (sum(module.sizes),), check=False)


def compare_each(parts, function, batch=5, tolerance=2e-5):
    inputs = [torch.randn(batch, *shape).requires_grad_() for _, shape in parts.values()]
    values = [module(x) for (module, _), x in zip(parts.values(), inputs, strict=True)]
    cotangents = [torch.randn(value.shape) for value in values]
    gradients = torch.autograd.grad(values, inputs, cotangents)

    @jax.jit
    def both(z, cotangent):
        ours, pull = jax.vjp(function, z)
        return ours, pull(cotangent)[0]

    z, cotangent = (torch.cat([a.detach().flatten(1) for a in arrays], 1).numpy() for arrays in (inputs, cotangents))
    for mine, theirs in zip(both(z, cotangent), (values, gradients), strict=True):
        assert mine.dtype == jnp.float32
        edges = np.cumsum([a[0].numel() for a in theirs])
        for name, ours, reference in zip(parts, np.split(mine, edges, 1), theirs, strict=False):
            reference = reference.detach().flatten(1).numpy()
            np.testing.assert_allclose(ours, reference, rtol=0, atol=tolerance * np.abs(reference).max(), err_msg=name)


@pytest.mark.parametrize("title", GROUPS)
def test_operators_one_by_one(title):
    compare_each(*group(title))


def test_convolutions_inside_a_compiled_loop():
    parts, function = group("layers")

    def looped(z):
        with compiled_loop():
            return function(z)

    size = sum(math.prod(shape) for _, shape in parts.values())
    assert "conv_general_dilated" in str(jax.make_jaxpr(function)(jnp.zeros((2, size))))
    assert "conv_general_dilated" not in str(jax.make_jaxpr(looped)(jnp.zeros((2, size))))
    compare_each(parts, looped)


# --- architectures --------------------------------------------------------------------------------------------------


class PixelNorm(nn.Module):
    def forward(self, x):
        return x / torch.sqrt(torch.mean(x**2, dim=1, keepdim=True) + 1e-8)


class EqualisedConvolution(nn.Module):
    def __init__(self, inputs, outputs, kernel):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.randn(outputs))
        self.scale = (2 / (inputs * kernel**2)) ** 0.5

    def forward(self, x):
        return functional.conv2d(x, self.weight * self.scale, self.bias, padding=self.weight.shape[-1] // 2)


class Progressive(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8 * 16)
        self.blocks = nn.ModuleList([EqualisedConvolution(8, 8, 3) for _ in range(2)])
        self.to_rgb = nn.ModuleList([EqualisedConvolution(8, 3, 1) for _ in range(2)])

    def forward(self, z):
        x = PixelNorm()(self.first(PixelNorm()(z)).view(z.size(0), 8, 4, 4))
        image = None
        for block, to_rgb in zip(self.blocks, self.to_rgb, strict=True):
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = PixelNorm()(functional.leaky_relu(block(x), 0.2, inplace=True))
            rgb = to_rgb(x)
            image = rgb if image is None else 0.3 * rgb + 0.7 * functional.interpolate(image, size=rgb.shape[-2:])
        return image


class Residual(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.main = nn.Sequential(
            randomised(nn.BatchNorm2d(inputs)),
            nn.ReLU(inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(inputs, outputs, 3, padding=1),
            randomised(nn.BatchNorm2d(outputs)),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        self.skip = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 1))

    def forward(self, x):
        return self.main(x * 1) + self.skip(x)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv = randomised(nn.GroupNorm(2, 8)), nn.Conv2d(8, 24, 1)

    def forward(self, x):
        batch, channels, height, width = x.shape
        q, k, v = self.qkv(self.norm(x)).view(batch, 3, 2, channels // 2, height * width).transpose(-1, -2).unbind(1)
        y = functional.scaled_dot_product_attention(q, k, v)
        return x + y.transpose(-1, -2).reshape(batch, channels, height, width)


ARCHITECTURES = {
    "mlp": lambda: nn.Sequential(
        nn.Linear(8, 16), nn.LeakyReLU(0.2), nn.Dropout(), nn.Linear(16, 12), nn.Unflatten(1, (1, 3, 4))
    ),
    "dcgan": lambda: nn.Sequential(
        nn.Unflatten(1, (8, 1, 1)),
        nn.ConvTranspose2d(8, 8, 4, bias=False),
        randomised(nn.BatchNorm2d(8)),
        nn.ReLU(True),
        nn.ConvTranspose2d(8, 4, 4, 2, 1, bias=False),
        randomised(nn.BatchNorm2d(4)),
        nn.ReLU(True),
        nn.ConvTranspose2d(4, 1, 4, 2, 1),
        nn.Tanh(),
    ),
    "progressive": Progressive,
    "resnet": lambda: nn.Sequential(
        nn.Linear(8, 64),
        nn.Unflatten(1, (4, 4, 4)),
        Residual(4, 4),
        Residual(4, 2),
        nn.Conv2d(2, 3, 3, padding=1),
        nn.Tanh(),
    ),
    "vae": lambda: nn.Sequential(
        nn.Linear(8, 32),
        nn.ELU(),
        nn.Unflatten(1, (2, 4, 4)),
        nn.ConvTranspose2d(2, 4, 3, 2, 1, 1),
        nn.ELU(),
        nn.Conv2d(4, 1, 3),
        nn.Sigmoid(),
    ),
    "attention": lambda: nn.Sequential(
        nn.Linear(8, 8 * 9),
        nn.Unflatten(1, (8, 3, 3)),
        Attention(),
        nn.SiLU(),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(8, 3, 3, padding=1),
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture(name):
    module = ARCHITECTURES[name]()
    function = as_jax(module, (8,), check=False)
    compare(module, function, (8,))

    z = torch.randn(2, 3, 8)
    with torch.no_grad():
        expected = np.stack([module(part).numpy() for part in z])
    scale = np.abs(expected).max()
    one, twice = jax.jit(lambda z: (function(z[0, :1]), jax.vmap(function)(z)))(z.numpy())
    np.testing.assert_allclose(one, expected[0, :1], atol=1e-5 * scale)
    np.testing.assert_allclose(twice, expected, atol=1e-5 * scale)


def test_dcgan_in_a_loop():
    module = ARCHITECTURES["dcgan"]().eval()
    function = as_jax(module, (8,))
    gradient = jax.grad(lambda z: jnp.sum(function(z) ** 2))

    @jax.jit
    def descend(z):
        with compiled_loop():
            return jax.lax.fori_loop(0, 3, lambda _, z: z - 0.01 * gradient(z), z)

    z = ours = torch.randn(2, 8)
    for _ in range(3):
        z = z.detach().requires_grad_()
        z = z - 0.01 * torch.autograd.grad(module(z).square().sum(), z)[0]
    np.testing.assert_allclose(descend(ours.numpy()), z.detach().numpy(), atol=1e-5)


# --- what stays as it was -------------------------------------------------------------------------------------------


def test_leaves_module_and_random_state_alone():
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.BatchNorm1d(3))
    module[0].eval()
    flags = [part.training for part in module.modules()]
    before = torch.random.get_rng_state()
    function = as_jax(module, (3,))
    assert torch.equal(before, torch.random.get_rng_state())
    assert flags == [part.training for part in module.modules()]

    z = np.ones((2, 3), np.float32)
    expected = np.array(function(z))
    with torch.no_grad():
        module[0].weight.zero_()
    np.testing.assert_array_equal(function(z), expected)  # the weights were copied


def test_double_and_half_modules_compute_in_single():
    for dtype in (torch.float64, torch.bfloat16):
        module = nn.Sequential(nn.Linear(3, 3), nn.Tanh()).to(dtype)
        assert as_jax(module, (3,))(np.ones((2, 3))).dtype == jnp.float32
        assert module[0].weight.dtype == dtype


def test_double_module_with_64_bits():
    with torch_to_jax._double():
        module = nn.Sequential(nn.Linear(3, 3), nn.Tanh()).double()
        z = torch.randn(4, 3, dtype=torch.float64)
        value = as_jax(module, (3,))(z.numpy())
        np.testing.assert_allclose(value, module(z).detach().numpy(), atol=1e-14)


# --- refusals -------------------------------------------------------------------------------------------------------


class Nested(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 3), Function(function))

    def forward(self, x):
        return self.body(x)


REFUSED = {
    "unknown operator": (
        lambda x: torch.special.bessel_j0(x),
        r"aten\.special_bessel_j0\.default in body\.1 \(Function\)",
    ),
    "unknown operator with a gradient": (torch.special.i0e, r"aten\.special_i0e\.default in body\.1"),
    "noise": (lambda x: x + torch.randn_like(x), r"aten\.randn_like\.default in body\.1 .*draws random numbers"),
    "constant noise": (lambda x: x + 0.1 * torch.randn(3), r"aten\.randn\.default .*part of the latent"),
    "dropout at all times": (lambda x: functional.dropout(x, 0.5, training=True), "draws random numbers"),
    "choice by value": (
        lambda x: x if x.sum() > 0 else -x,
        r"Python number .*Tensor.__bool__, test_torch_to_jax.py.*torch.where",
    ),
    "what export cannot": (lambda x: torch.from_numpy(x.detach().numpy()), "its gradient is zero"),
    "batch axis lost": (lambda x: x.squeeze(), r"batch of one into shape \(3,\)"),
    "several outputs": (lambda x: (x, x), "returns tuple"),
    "items mixed": (lambda x: x - x.mean(0), "mixes the items of a batch"),
    "wrong input": (lambda x: x @ torch.ones(4), r"does not run on an input of shape \(1, 3\)"),
    "pooling by ceil": (lambda x: functional.avg_pool1d(x, 2, ceil_mode=True), "ceil_mode"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name):
    function, message = REFUSED[name]
    with pytest.raises(ConversionError, match=message) as caught:
        as_jax(Nested(function), (3,))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_only_what_is_right_in_torch_is_sent_to_pyro(name):
    function, _ = REFUSED[name]
    with pytest.raises(ConversionError) as caught:
        as_jax(Nested(function), (3,))
    assert ("use the Pyro backend" in str(caught.value)) == (name in ("unknown operator with a gradient", "pooling by ceil"))


def test_a_failed_export_prints_no_graph(capfd, caplog):
    """torch prints the graph so far on stderr, and logs, before it raises."""

    class Cut(nn.Module):
        def forward(self, z):
            return z[:, : int((z > 0).sum()) + 1]

    with pytest.raises(ConversionError, match=r"torch.export cannot export Cut") as caught:
        as_jax(Cut(), (3,))
    assert "\n" not in str(caught.value)
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_check_finds_a_wrong_operator(monkeypatch):
    from cogen.models.jax_bridge.operators import OPERATORS

    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    monkeypatch.setitem(OPERATORS, "tanh", lambda x: 1.001 * jnp.tanh(x))
    with pytest.raises(ConversionError, match=r"1\.0e-03 in the value"):
        as_jax(module, (3,))
    monkeypatch.setitem(OPERATORS, "tanh", lambda x: jnp.tanh(jax.lax.stop_gradient(x)))
    with pytest.raises(ConversionError, match="in the gradient"):
        as_jax(module, (3,))


def test_refuses_an_input_of_another_shape():
    function = as_jax(nn.Linear(3, 2), (3,), check=False)
    with pytest.raises(ValueError, match=r"\(batch, 3\), not \(5, 4\)"):
        function(np.ones((5, 4)))

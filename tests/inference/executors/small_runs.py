"""Runs of seconds, made of nothing but torch and cogen, so that a worker finds every class."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from cogen.inference import Adaptive, AnnealedHMC
from cogen.models import CoGenerator, views

COUNTS: dict[str, Any] = {"num_warmup": 30, "num_samples": 3, "num_chains": 16, "seed": 3, "progress": False}
IN_BLOCKS: dict[str, Any] = COUNTS | {"items_at_once": 2, "pilot": 8}


def conditioned(items: int, value: float | None = None) -> CoGenerator:
    """Items of a dense generator with three latents; all that is seen of the last one is ``value``, if given."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 6))
    x = np.random.default_rng(0).normal(size=(items, 6)).astype(np.float32)
    if value is not None:
        x[-1] = value
    return CoGenerator(generator, latent_dim=3, views={"all": views.Identity(scale=0.3)}).condition(all=x)


def annealed() -> AnnealedHMC:
    """Items arrive at beta = 1 at different times."""
    return AnnealedHMC(num_leapfrog=2, schedule=Adaptive(0.9))


def assert_same(one: Any, other: Any) -> None:
    """Every variable of every group, bit for bit."""
    names = [group for group in one.groups() if group != "/"] if callable(one.groups) else [g for g in one.groups if g != "/"]
    for name in names:
        group = name.strip("/")
        assert set(one[group].data_vars) == set(other[group].data_vars)
        for variable, values in one[group].data_vars.items():
            assert values.dims == other[group][variable].dims
            np.testing.assert_array_equal(values.values, other[group][variable].values, err_msg=f"{group} {variable}")

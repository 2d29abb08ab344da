"""On a mesh of two devices every item has the draws of one device, but for rounding: the compiler fuses them differently.

Two devices on one CPU must be asked for before JAX starts, so that the runs are in a process of their own.
"""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from cogen.inference import DeviceMesh

PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
import warnings
warnings.simplefilter("error")
import jax
import numpy as np
import numpyro.infer
import torch
from torch import nn
from small_runs import COUNTS, IN_BLOCKS, annealed, conditioned
from cogen.inference import AnnealedHMC, DeviceMesh, Run, infer
from cogen.models import CoGenerator, views

def assert_alike(one, other):
    # A decision that rounding turns takes a chain elsewhere: few do.
    first, second = (run["posterior"]["z"].values for run in (one, other))
    assert first.shape == second.shape
    assert np.mean(np.abs(first - second) < 1e-3) > 0.9, np.abs(first - second).max()


assert len(jax.devices()) == 2
for kernel, options in ((annealed(), IN_BLOCKS), (numpyro.infer.NUTS, COUNTS | {{"items_at_once": 2}})):
    assert_alike(infer(conditioned(7), kernel, **options), infer(conditioned(7), kernel, executor=DeviceMesh(), **options))

torch.manual_seed(0)
layers = nn.Sequential(nn.Linear(3, 8), nn.Unflatten(1, (2, 2, 2)), nn.ConvTranspose2d(2, 2, 2, stride=2), nn.Tanh())
x = np.random.default_rng(0).normal(size=(5, 2, 4, 4)).astype(np.float32)
convolutional = CoGenerator(layers, latent_dim=3, views={{"all": views.Identity(scale=0.3)}}).condition(all=x)
options = COUNTS | {{"items_at_once": 2}}
run = Run(convolutional, AnnealedHMC(), **options)
assert run.program.by_host
assert_alike(run.draw(), infer(convolutional, AnnealedHMC(), executor=DeviceMesh(jax.devices(), items_per_job=8), **options))

sharded = Run(conditioned(7), annealed(), **options).on(jax.devices())
sharded.draw(1)
position = sharded.blocks[0].carried.state.position
assert position.sharding.shard_shape(position.shape)[0] == 2, position.sharding
print("alike")
"""


@pytest.mark.slow
def test_the_draws_are_those_of_one_device():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    program = PROGRAM.format(folder=str(Path(__file__).parent))
    process = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "alike"


def test_devices_are_named_once():
    device = jax.devices()[0]
    for devices in ([], [device, device]):
        with pytest.raises(ValueError, match="give each device once"):
            DeviceMesh(devices)

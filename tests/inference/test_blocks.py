"""Items run in blocks of one shape: an item's draws are the same, bit for bit, alone and among many."""

import functools
from typing import ClassVar

import blackjax
import numpy as np
import numpyro
import numpyro.distributions as dist
import numpyro.infer
import pyro.infer
import pytest
import torch
import xarray
from known import LinearCase
from torch import nn

from cogen.diagnostics import diagnose
from cogen.inference import Adaptive, AnnealedHMC, BlackJAX, Langevin, PyroAnnealedHMC, Run, blocks, infer
from cogen.models import CoGenerator, views


class Small(nn.Module):
    """A dense or a convolutional generator of 2 x 4 x 4 outputs from three latents."""

    def __init__(self, convolution: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        if convolution:
            layers = [nn.Linear(3, 8), nn.Unflatten(1, (2, 2, 2)), nn.ConvTranspose2d(2, 2, 2, stride=2), nn.Tanh()]
        else:
            layers = [nn.Linear(3, 37), nn.Tanh(), nn.Linear(37, 32), nn.Unflatten(1, (2, 4, 4))]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.layers(z)


def conditioned(convolution: bool, items: int, first: int = 0):
    generator = Small(convolution)
    model = CoGenerator(generator, latent_dim=3, views={"all": views.Identity(scale=0.3)})
    x = np.random.default_rng(0).normal(size=(20, 2, 4, 4)).astype(np.float32)
    return model.condition(all=x[first : first + items])


@pytest.mark.parametrize("convolution", [False, True], ids=["dense", "convolutional"])
def test_an_item_alone_and_among_nineteen_has_the_same_draws(convolution):
    options = {"num_warmup": 12, "num_samples": 2, "num_chains": 16, "seed": 0, "progress": False}
    kernel = AnnealedHMC(num_leapfrog=2, schedule=Adaptive(0.8))
    many = infer(conditioned(convolution, 19), kernel, **options)
    alone = infer(conditioned(convolution, 1), kernel, **options)
    assert (many["posterior"]["z"].values[:, :, :1] == alone["posterior"]["z"].values).all()
    for name, values in alone["sample_stats"].data_vars.items():
        assert (many["sample_stats"][name].values[..., :1] == values.values).all(), name
    arrived = int(np.argmax(alone["warmup_sample_stats"]["beta"].values[:, 0] >= 1)) + 1
    path = alone["warmup_sample_stats"]["log_evidence"].values[:arrived, 0]
    assert (many["warmup_sample_stats"]["log_evidence"].values[:arrived, 0] == path).all()


def test_a_numpyro_kernel_too():
    options = {"num_warmup": 5, "num_samples": 3, "num_chains": 4, "seed": 0, "progress": False}
    kernel = functools.partial(numpyro.infer.HMC, num_steps=3, trajectory_length=None)
    many = infer(conditioned(False, 19), kernel, items_at_once=8, **options)
    alone = infer(conditioned(False, 1), kernel, items_at_once=8, **options)
    assert (many["posterior"]["z"].values[:, :, :1] == alone["posterior"]["z"].values).all()


def test_blocks_are_counted_by_chains():
    assert blocks.items_per_block(1000) == 1
    assert blocks.items_per_block(64) * 64 == blocks.items_per_block(32) * 32 == 128
    assert blocks.items_per_block(1) == blocks.items_per_block(16) == 8  # a lone item pays for no more
    with pytest.raises(ValueError, match="at least one item"):
        infer(conditioned(False, 1), AnnealedHMC(), num_warmup=1, num_samples=1, num_chains=8, seed=0, items_at_once=0)


def test_filling_costs_no_gradients_and_gives_no_items():
    run = Run(conditioned(False, 5), Langevin(), num_warmup=4, num_chains=8, seed=0, progress=False, items_at_once=4)
    posterior = run.draw(3)
    assert posterior["posterior"].sizes["item"] == 5
    assert len(set(run.gradient_evaluations.tolist())) == 1
    assert run.last_state.position.shape == (5, 8, 3)
    more = run.draw(2)
    assert more["posterior"].sizes == {"chain": 8, "draw": 2, "item": 5, "latent": 3}
    whole = xarray.concat([posterior["posterior"], more["posterior"]], dim="draw")
    assert whole["draw"].values.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("library", ["numpyro", "pyro", "ours in torch", "blackjax"])
def test_every_kernel_goes_on_where_it_was(library):
    kernel = {
        "numpyro": functools.partial(numpyro.infer.HMC, num_steps=3, trajectory_length=None),
        "pyro": functools.partial(pyro.infer.HMC, num_steps=3, step_size=0.2),
        "ours in torch": PyroAnnealedHMC(num_leapfrog=2, resample_threshold=0.0),
        "blackjax": BlackJAX(blackjax.mala, step_size=0.1),
    }[library]
    counts = {"num_warmup": 4, "num_chains": 4, "seed": 0, "progress": False}
    at_once = Run(conditioned(False, 2), kernel, num_samples=5, **counts).draw()["posterior"]["z"]
    run = Run(conditioned(False, 2), kernel, **counts)
    parts = [run.draw(3)["posterior"]["z"], run.draw(2)["posterior"]["z"]]
    np.testing.assert_array_equal(xarray.concat(parts, dim="draw").values, at_once.values)
    assert run.last_state is not None


def test_paths_of_blocks_that_end_at_different_times_stand_side_by_side():
    case = LinearCase(3)
    run = infer(
        case.conditioned,
        AnnealedHMC(num_leapfrog=2, step_size=0.2, schedule=Adaptive(0.99)),
        num_warmup=400,
        num_samples=1,
        num_chains=16,
        seed=0,
        progress=False,
        items_at_once=1,
    )
    path = run["warmup_sample_stats"]
    assert path.sizes["draw"] <= 200
    assert (path["beta"].values[-1] == 1).all()
    assert (np.diff(path["beta"].values, axis=0) >= 0).all()
    assert (np.diff(path["transition"].values) > 0).all()


def test_gradients_that_are_no_numbers_are_counted_and_said():
    """Beyond |z| = 1 the first item's likelihood is the root of a negative number."""

    class Roots:
        dims: ClassVar = {"z": ("latent",), "x": ("latent",)}
        event_shape: ClassVar = (1,)
        attributes: ClassVar = {}
        item_data: ClassVar = {"y": {"value": np.array([1.0, 1e6])}}

        def condition(self, **data):
            return self

        def __call__(self, data=None):
            raise NotImplementedError

        def numpyro(self, data=None):
            limit = (self.item_data if data is None else data)["y"]["value"]
            with numpyro.plate("item", len(limit), dim=-1):
                z = numpyro.sample("z", dist.Normal(np.zeros(1), 1.0).to_event(1))
                numpyro.factor("y", (limit - z[..., 0] ** 2) ** 0.5 / 1e3)

        def decode(self, z):
            return z

        def simulate(self, x, sites, *, seed):
            return {}

        def result_groups(self):
            return {}

    with pytest.warns(UserWarning, match=r"non-finite gradient or log density and were rejected: item 0 \(\d+\)"):
        posterior = infer(
            Roots(), AnnealedHMC(step_size=0.5), num_warmup=20, num_samples=1, num_chains=64, seed=0, progress=False
        )
    counts = posterior["sample_stats"]["nonfinite"].values[:, -1].sum(axis=0)
    assert counts[0] > 0
    assert counts[1] == 0
    z = posterior["posterior"]["z"].values[..., 0, 0]
    assert (np.abs(z) <= 1).all()
    assert any("non-finite" in sentence and sentence.startswith("item 0") for sentence in diagnose(posterior))

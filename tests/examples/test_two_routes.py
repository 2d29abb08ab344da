"""The example runs with tiny networks; the seen pixels stay where they are."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from cogen.inference import ShortRun
from cogen.models import EnergyConfig, GeneratorConfig, load_solver, save_energy, save_generator
from cogen.models.networks.architectures import DenseGenerator
from cogen.models.networks.energies import DenseEnergy
from cogen.models.storage.energies import SOLVER

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture
def files(tmp_path):
    torch.manual_seed(0)
    shape = (1, 8, 8)
    arguments = {"latent_dim": 3, "event_shape": shape, "hidden": (4,)}
    config = GeneratorConfig("DenseGenerator", arguments, 3, shape, (-1.0, 1.0), 0.3)
    save_generator(tmp_path / "pair", DenseGenerator(**arguments), config)
    of_energy = {"event_shape": shape, "hidden": (4,)}
    run = ShortRun(2, 0.3, 0.005, clip=0.1, bounds=(-1.0, 1.0))
    energy = EnergyConfig("DenseEnergy", of_energy, shape, (-1.0, 1.0), run)
    save_energy(tmp_path / f"pair{SOLVER}", DenseEnergy(**of_energy), energy)
    run = ShortRun.langevin(2, 0.15, reference_scale=1.0)
    save_energy(tmp_path / "density", DenseEnergy(**of_energy), dataclasses.replace(energy, run=run))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8))
    return tmp_path


def test_the_example_runs(script, files, capsys):
    options = script.Options(
        pair=str(files / "pair"),
        density=str(files / "density"),
        sweeps=2,
        shipped=(),
        data=str(files / "x.npy"),
        count=3,
        chains=8,
        temperatures=2,
        leapfrog=1,
        rounds=(1, 2),
        shown=2,
        output=files / "out",
    )
    record = script.main(options)
    routes = [row["route"].partition(",")[0] for row in record["rows"]]
    assert routes == ["initializer"] * 3 + ["draws"] * 2 + ["energy"] * 2 + ["density"] * 2
    assert record["rows"][0]["crps_difference"] == 0
    assert json.loads((files / "out.json").read_text()) == record
    assert (files / "out.png").exists()
    assert "energy, 2 x 2 steps" in capsys.readouterr().out


def test_seen_pixels_stay(script, files):
    images = np.random.default_rng(1).uniform(-1, 1, (2, 1, 8, 8)).astype(np.float32)
    seen = torch.arange(8)[:, None].expand(8, 8) < 4
    x = script.refined(np.zeros((3, 1, 2, 1, 8, 8)), load_solver(files / "pair"), images, seen, 5, seed=0)
    assert x.shape == (3, 1, 2, 1, 8, 8)
    assert (x[..., :4, :] == images[:, :, :4]).all()
    assert (x[..., 4:, :] != 0).all()


def test_a_pair_without_a_solver_is_refused(script, files):
    (files / f"pair{SOLVER}.safetensors").unlink()
    with pytest.raises(SystemExit, match=r"two_routes: --pair .*: it needs a solver without classes"):
        script.main(script.Options(pair=str(files / "pair"), data=str(files / "x.npy"), count=2))


def test_tweedie_takes_the_noise_away(script, files, monkeypatch):
    """Of x with noise of 0.3 around zero, with the reference one: the energy of y ~ N(0, 0.3^2) gives zero back."""

    class Normal(torch.nn.Module):
        def forward(self, y):
            return -0.5 * y.square().flatten(1).sum(1) * (1 / script.NOISE**2 - 1)

    network = Normal()
    network.config = load_solver(files / "pair").config
    network.config = dataclasses.replace(network.config, run=ShortRun.langevin(2, 0.15, reference_scale=1.0))
    monkeypatch.setattr(script, "load_energy", lambda path: network)
    images = np.zeros((2, 1, 8, 8), np.float32)
    seen = (torch.arange(8)[:, None].expand(8, 8) < 4)[None]
    options = script.Options(density="x", chains=8, sweeps=20, leapfrog=5)
    noisy, clean = script.by_density(options, images, seen)
    assert 0.2 < noisy.x[..., 4:, :].std() < 0.4
    assert np.abs(clean.x).max() < 1e-5

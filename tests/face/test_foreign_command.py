"""`cogen complete` and `cogen inspect` with a generator somebody else trained: what they say; bad input in one line."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cogen.command_line import main
from cogen.foreign import image_line
from cogen.models import EnergyConfig, save_energy
from cogen.models.networks.energies import ENERGIES
from cogen.output import read_posterior

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SOURCE = """
import torch
from torch import nn


class Dcgan(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.main = nn.Sequential(nn.ConvTranspose2d(3, 1, 4), nn.Tanh())

    def forward(self, z):
        return self.main(z)


class Noisy(Dcgan):
    def forward(self, z):
        return self.main(z[:, :, None, None] + torch.randn(len(z), 3, 1, 1))


class Twins(Dcgan):
    def forward(self, z):
        return self.main(z), -self.main(z)


def mixing():
    return nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16, track_running_stats=False), nn.Unflatten(1, (1, 4, 4)))


def dense():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.Sigmoid(), nn.Unflatten(1, (1, 4, 4)))


def flat():
    return nn.Sequential(nn.Linear(3, 16), nn.Sigmoid())


def branching():
    return Branching()


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 16)

    def forward(self, z):
        h = self.linear(z)
        return (h if h.sum() > 0 else -h).reshape(-1, 1, 4, 4)


def without_parameters():
    return nn.Unflatten(1, (1, 4, 4))


def broken():
    return missing_name
"""

SIZE = ["--algorithm", "importance", "--chains", "8", "--samples", "2", "--images", "x.npy", "--output", "out"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, with a file of networks, images, and weights of several kinds."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(SOURCE)
    np.save("x.npy", np.random.default_rng(0).random((2, 4, 4), dtype=np.float32))
    dense = nn.Sequential(nn.Linear(3, 16), nn.Sigmoid(), nn.Unflatten(1, (1, 4, 4)))
    weights = dense.state_dict()
    save_file({f"g_ema.{name}": value for name, value in weights.items()}, "weights.safetensors")
    state_dict = {f"generator.{name}": value for name, value in weights.items()}
    torch.save({"state_dict": state_dict, "options": SimpleNamespace(rate=0.1)}, "weights.ckpt")
    return tmp_path


def refused(arguments, capsys) -> str:
    """What is said, in one line."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("cogen: ")
    assert len(error.splitlines()) == 1, error
    return error


# --- complete ------------------------------------------------------------------------------------------------------


def test_complete(folder, capsys):
    main(["complete", *SIZE, "--generator", "nets.py:Dcgan"])
    assert "nets.py:Dcgan: latent_dim 3: the input of its first ConvTranspose2d" in capsys.readouterr().out
    posterior = read_posterior(folder / "out" / "posterior.nc")
    assert posterior["posterior"]["z"].shape == (8, 2, 2, 3)


def test_an_exported_program(capsys):
    network = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Unflatten(1, (1, 4, 4))).eval()
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(network, (torch.randn(2, 3),), dynamic_shapes=dynamic), "program.pt2")
    assert "give --allow-pickle" in refused(["complete", *SIZE, "--generator", "program.pt2"], capsys)
    found = inspected(["program.pt2", "--allow-pickle"], capsys)
    assert "latent_dim 3: the input of the program" in found
    assert "yes, at 6 points" in found


BAD = {
    "nets.py:dens": "there is no 'dens' in nets.py, which defines Dcgan",
    "nets.py:broken": "NameError: name 'missing_name' is not defined (nets.py, line 58)",
    "nets.py:mixing": "causes are batch statistics",
    "nets.py:Noisy": "returns different values for the same z",
    "nets.py:Twins": "returns self.network(z[:, :, None, None])[0]",
    "nets.py:flat": "torch.nn.Sequential(network, torch.nn.Unflatten(1, (1, 4, 4)))",
    "nets.py:branching": "converts a tensor that depends on z to a Python number",
    "nets.py:without_parameters": "give --latent-dim",
    "gone.py:make": "there is no file gone.py",
    "weights.ckpt": "give --allow-pickle",
    "weights.safetensors": "give --module my_net.py:make",
    "hf://user/repository/more": "an address must have the form hf://user/repository",
}


@pytest.mark.parametrize("generator", BAD)
def test_bad_input_is_one_line_with_its_remedy(folder, generator, capsys):
    assert BAD[generator] in refused(["complete", *SIZE, "--generator", generator], capsys)
    assert not (folder / "out").exists()


def test_options_that_contradict_each_other(capsys):
    assert "omit the option" in refused(["complete", *SIZE, "--generator", "digits", "--latent-dim", "3"], capsys)
    found = refused(["complete", *SIZE, "--generator", "nets.py:dense", "--module", "nets.py:dense"], capsys)
    assert "--module (module= in Python) is for weights in a file" in found
    found = refused(["guide", "--generator", "weights.ckpt", "--module", "nets.py:dense"], capsys)
    assert "give --allow-pickle" in found
    assert "give --allow-pickle" in refused(["tune", "--generator", "weights.ckpt"], capsys)


@pytest.mark.parametrize(
    ("options", "said", "written"),
    [
        (["nets.py:dense"], "value_range [0, 1]: its last layer is Sigmoid", "nets-dense-guide"),
        (
            ["weights.ckpt", "--allow-pickle", "--module", "nets.py:dense"],
            "weights under state_dict.generator",
            "weights-guide",
        ),
    ],
)
def test_a_guide_lies_beside_the_file(folder, options, said, written, capsys):
    main(["guide", "--generator", *options, "--steps", "2", "--batch", "8", "--masks", "8"])
    assert f"{options[0]}: {said}" in capsys.readouterr().out
    assert (folder / f"{written}.safetensors").is_file()


# --- inspect -------------------------------------------------------------------------------------------------------


def inspected(arguments, capsys) -> str:
    main(["inspect", *arguments])
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["nets.py:Dcgan"],
            [
                "2 tensors, 49 numbers, float32\n  main.0.weight                                    3 x 1 x 4 x 4\n",
                "network: Dcgan, 49 parameters",
                "z of shape (batch, 3, 1, 1): wrapped as nn.Sequential(nn.Unflatten(1, (3, 1, 1)), network)",
                "z                      (batch, 3)",
                "x                      (batch, 1, 4, 4)",
                "range                  [-1, 1]",
                "yes, at 6 points",
                "ms for a batch of 16",
            ],
        ),
        (["nets.py:Noisy"], ["a function of z alone  no: the generator returns different values"]),
        (["nets.py:mixing"], ["a function of z alone  no: ", "batch statistics"]),
        (["nets.py:Twins"], ["cannot be used as it is", "        return self.network(z[:, :, None, None])[0]"]),
        (["nets.py:flat"], ["torch.nn.Sequential(network, torch.nn.Unflatten(1, (1, 4, 4)))"]),
        (["nets.py:without_parameters"], ["0 tensors", "cannot be inferred from Unflatten (it has no parameters)"]),
        (["nets.py:without_parameters", "--latent-dim", "16"], ["no trained parameters", "(batch, 16)"]),
        (["weights.safetensors"], ["g_ema.0.weight", "16 x 3", "give --module"]),
        (["weights.safetensors", "--module", "nets.py:dense"], ["weights under g_ema, which are averaged", "(batch, 3)"]),
        (["weights.safetensors", "--module", "nets.py:Dcgan"], ["cannot be used as it is", "does not fit Dcgan"]),
        (["weights.ckpt", "--allow-pickle"], ["state_dict.generator.0.weight"]),
        (["digits"], ["LatentFlowGenerator", "and 35 more; by the first part of their names: decoder (16), flow (58)"]),
    ],
)
def test_inspect(arguments, said, capsys):
    found = inspected(arguments, capsys)
    for part in said:
        assert part in found, found


def test_inspect_what_cannot_be_read(capsys):
    assert "there is no file gone.py" in refused(["inspect", "gone.py:make"], capsys)
    assert "give --allow-pickle" in refused(["inspect", "weights.ckpt"], capsys)
    arguments = {"event_shape": (1, 4, 4), "hidden": (4,)}
    config = EnergyConfig("DenseEnergy", arguments, (1, 4, 4), (-1, 1))
    save_energy("energy", ENERGIES["DenseEnergy"](**arguments), config)
    assert "energy is an energy, not a generator: use it with `cogen complete`" in refused(["inspect", "energy"], capsys)


@pytest.mark.parametrize(
    ("shape", "line"),
    [
        ((1, 4, 4), ""),
        ((4, 5), "(1, 4)"),
        ((49,), "(1, 7, 7)"),
        ((50,), "(channels, height, width)"),
    ],
)
def test_the_line_that_makes_images(shape, line):
    assert image_line(shape) == (line and f"torch.nn.Sequential(network, torch.nn.Unflatten(1, {line}))")
    if line and line[1].isdigit():
        network = nn.Sequential(nn.Linear(3, int(np.prod(shape))), nn.Unflatten(1, shape))
        assert eval(image_line(shape), {"torch": torch, "network": network})(torch.zeros(2, 3)).ndim == 4

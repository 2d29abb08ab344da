"""Energies on disk: what is read is what was written, and what is wrong is said with the file's name."""

import dataclasses
import json

import pytest
import torch

from cogen.inference import ShortRun
from cogen.models import BernoulliRBM, Classes, EnergyConfig, EnergyModel, GaussianRBM, load_energy, load_solver, save_energy
from cogen.models.networks.energies import ConvolutionalEnergy, DenseEnergy
from cogen.models.storage.energies import SOLVER
from cogen.models.storage.generators import SHIPPED

RUN = ShortRun(4, 0.3, 0.005, clip=0.1, bounds=(-1.0, 1.0))


def written(folder, **changed):
    torch.manual_seed(0)
    energy = DenseEnergy((2,), (4,), num_classes=3)
    arguments = {"event_shape": [2], "hidden": [4], "num_classes": 3}
    config = EnergyConfig("DenseEnergy", arguments, (2,), (-1.0, 1.0), RUN, name="bowl", contexts={"label": Classes(3)})
    save_energy(folder / "bowl", energy, dataclasses.replace(config, **changed))
    return energy


def test_an_energy_comes_back_with_its_steps(tmp_path):
    energy = written(tmp_path)
    again = load_energy(tmp_path / "bowl")
    y, label = torch.randn(5, 2), torch.arange(5) % 3
    torch.testing.assert_close(again(y, label), energy(y, label))
    assert again.config.run == RUN
    assert again.config.contexts == {"label": Classes(3)}
    assert not any(p.requires_grad for p in again.parameters())


def test_one_with_a_reference_is_a_model(tmp_path):
    written(tmp_path, run=ShortRun.langevin(4, 0.1, reference_scale=0.5))
    energy = load_energy(tmp_path / "bowl")
    config = energy.config
    scale = config.run.reference_scale
    model = EnergyModel(energy, reference_scale=scale, event_shape=config.event_shape, contexts=config.contexts)
    assert model.given(label=[0, 2]).num_items == 2


def test_the_solver_lies_beside_its_initializer(tmp_path):
    for suffix in (".safetensors", ".json"):
        (tmp_path / f"made{suffix}").write_bytes((SHIPPED / f"mnist{suffix}").read_bytes())
    assert load_solver(tmp_path / "made") is None
    arguments = {"event_shape": [1, 28, 28], "channels": [2, 2]}
    config = EnergyConfig("ConvolutionalEnergy", arguments, (1, 28, 28), (-1.0, 1.0), RUN)
    save_energy(tmp_path / f"made{SOLVER}", ConvolutionalEnergy(**arguments), config)
    assert load_solver(tmp_path / "made").config.architecture == "ConvolutionalEnergy"


@pytest.mark.parametrize("kind", [BernoulliRBM, GaussianRBM])
def test_a_machine_comes_back(tmp_path, kind):
    torch.manual_seed(0)
    arguments = {"event_shape": (1, 2, 3), "hidden": 4}
    rbm = kind(**arguments)
    rbm.initialise(torch.randint(2, (8, 1, 2, 3)).float())
    path = save_energy(tmp_path / "new" / "toy-0.5", rbm, EnergyConfig(kind.__name__, arguments, (1, 2, 3), (0, 1)))
    again = load_energy(path.with_suffix(""))
    v = torch.rand(5, 1, 2, 3)
    assert type(again) is kind
    assert torch.equal(again.free_energy(v), rbm.free_energy(v))
    assert torch.equal(again.base, rbm.base)
    assert again.config.run is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"figures": 3}, "figures is 3; it must be a mapping"),
        ({"architecture": "Other"}, "unknown architecture 'Other'; known are DenseEnergy, ConvolutionalEnergy, PairEnergy"),
        ({"arguments": {"event_shape": [3]}}, "does not fit event_shape"),
        ({"run": {"steps": 0, "rate": 1, "noise": 0}}, "steps=0, noise=0: steps must be at least 1"),
        ({"run": {"step": 1}}, "run: .*argument 'step'"),
        ({"run": "long"}, "run is 'long'; it must be the arguments of a ShortRun"),
        ({"value_range": [1, 0]}, r"value_range is \[1, 0\]; it must be two finite numbers, the lower first"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_said(tmp_path, changed, message):
    written(tmp_path)
    path = tmp_path / "bowl.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(ValueError, match=message) as raised:
        load_energy(tmp_path / "bowl")
    assert "bowl.json" in str(raised.value)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*bowl\.safetensors: an energy needs weights"):
        load_energy(tmp_path / "bowl")
    written(tmp_path)
    (tmp_path / "bowl.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"bowl\.safetensors is not a complete safetensors file"):
        load_energy(tmp_path / "bowl.safetensors")

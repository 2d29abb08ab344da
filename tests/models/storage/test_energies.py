"""Energies on disk: what was saved is what is loaded, and what does not fit is said with the file."""

import json

import pytest
import torch

from cogen.models import BernoulliRBM, EnergyConfig, GaussianRBM, load_energy, save_energy

ARGUMENTS = {"event_shape": (1, 2, 3), "hidden": 4}


@pytest.fixture(params=[BernoulliRBM, GaussianRBM])
def saved(request, tmp_path):
    torch.manual_seed(0)
    rbm = request.param(**ARGUMENTS)
    rbm.initialise(torch.randint(2, (8, 1, 2, 3)).float())
    config = EnergyConfig(request.param.__name__, ARGUMENTS, (1, 2, 3), (0, 1), name="toy", figures={"log_z": 1.5})
    return rbm, save_energy(tmp_path / "new" / "toy-0.5", rbm, config)


def test_what_was_saved_is_loaded(saved):
    rbm, path = saved
    again = load_energy(path.with_suffix(""))
    v = torch.rand(5, 1, 2, 3)
    assert type(again) is type(rbm)
    assert torch.equal(again.free_energy(v), rbm.free_energy(v))
    assert torch.equal(again.base, rbm.base)
    assert (again.config.event_shape, again.config.value_range) == ((1, 2, 3), (0.0, 1.0))
    assert again.config.figures == {"log_z": 1.5}
    assert not again.training
    assert not any(p.requires_grad for p in again.parameters())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "Boltzmann"}, "unknown architecture 'Boltzmann'; known are BernoulliRBM, GaussianRBM"),
        ({"event_shape": [1, 3, 3]}, r"does not fit event_shape \(1, 3, 3\) \(v has shape"),
        ({"arguments": {"event_shape": [1, 2, 3], "hidden": 5}}, r"weight has shape \(4, 6\), the module's is \(5, 6\)"),
        ({"arguments": {"hidden": 5}}, "cannot be built from its arguments"),
        ({"figures": 3}, "figures is 3; it must be a mapping"),
    ],
)
def test_a_configuration_that_is_wrong(saved, change, said):
    _, path = saved
    config = path.with_suffix(".json")
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(ValueError, match=said):
        load_energy(path)


def test_files_that_are_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file of weights at"):
        load_energy(tmp_path / "none")

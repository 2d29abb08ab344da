"""A model takes a frozen copy of a network: the caller's stays as it is, in a training loop too."""

import threading

import numpy as np
import pyro
import pytest
import torch
from numpyro import handlers
from torch import nn

from cogen.models import CoGenerator, EncoderGuide, views
from cogen.models.families.amortized import Amortized
from cogen.models.frozen import evaluation, frozen
from cogen.models.jax_bridge.torch_to_jax import as_jax
from cogen.models.networks.architectures import DenseEncoder
from cogen.models.networks.encoders import MaskedEncoder

VIEWS = {"all": views.Identity(scale=0.1)}


def decoder():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Tanh(), nn.Linear(8, 3))


def state(module):
    """Everything of a module that somebody else may rely on."""
    parts = [(part.training, len(part._forward_hooks), len(part._forward_pre_hooks)) for part in module.modules()]
    weights = [(name, weight.requires_grad, id(weight)) for name, weight in module.named_parameters()]
    return parts, weights, {name: value.clone() for name, value in module.state_dict().items()}


def same(before, after):
    return before[:2] == after[:2] and all(torch.equal(value, after[2][name]) for name, value in before[2].items())


def test_a_model_leaves_the_network_as_it_is():
    network = decoder()
    network[1].eval()
    network[4].bias.requires_grad_(False)
    network[0].register_forward_hook(lambda *_: None)
    before = state(network)
    model = CoGenerator(network, latent_dim=2, views=VIEWS)
    model.condition(all=np.zeros((2, 3)))()
    model.numpyro  # noqa: B018
    model.decode(np.zeros((2, 2)))
    assert same(before, state(network))
    assert not any(part.training for part in model.generator.modules())
    assert not any(weight.requires_grad for weight in model.generator.parameters())


def test_a_monitor_does_not_stop_a_training():
    network = decoder()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    models = []
    for _ in range(3):
        loss = network(torch.randn(16, 2)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        models.append(CoGenerator(network, latent_dim=2, views=VIEWS))
    assert network.training
    z = np.ones((4, 2), np.float32)
    assert not np.allclose(models[0].decode(z), models[2].decode(z))  # each is of its own step
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(models[2].decode(z)), network.eval()(torch.from_numpy(z)))


def test_a_name_and_a_configuration_come_through():
    network = decoder()
    network.config = type("Config", (), {"latent_dim": 2, "value_range": (-1.0, 1.0), "name": "mine"})()
    model = CoGenerator(network, views=VIEWS)
    assert (model.name, model.latent_dim, model.value_range) == ("mine", 2, (-1.0, 1.0))
    assert model.generator.config.name == "mine"
    assert CoGenerator(decoder(), latent_dim=2, views=VIEWS).name == "Sequential"


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_networks_that_hold_a_graph_are_copied():
    network = nn.utils.weight_norm(nn.Linear(2, 3))
    network.last = network(torch.ones(1, 2))
    x = CoGenerator(network, latent_dim=2, views=VIEWS).decode(np.ones((1, 2)))
    torch.testing.assert_close(torch.from_numpy(x), network.last.detach())
    assert network.last.grad_fn is not None


def test_what_cannot_be_copied_is_named():
    network = decoder()
    network.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"Sequential cannot be copied \(cannot pickle .*lock.*remove the attribute"):
        CoGenerator(network, latent_dim=2, views=VIEWS)


def test_evaluation_gives_every_part_its_mode_back():
    network = decoder()
    network[1].eval()
    with evaluation(network):
        assert not any(part.training for part in network.modules())
    assert [part.training for part in network] == [True, False, True, True, True]


def test_an_encoder_and_a_generator_keep_their_modes():
    generator, encoder = decoder(), nn.Sequential(DenseEncoder(2, (3,)))
    seen = CoGenerator(generator, latent_dim=2, views=VIEWS).condition(all=np.zeros((2, 3)))
    before = state(generator), state(encoder)
    EncoderGuide(encoder, seen)
    family = Amortized(generator, MaskedEncoder(DenseEncoder(2, (6,))), 2, views=[views.Mask(torch.ones(1, 3) > 0, scale=0.1)])
    family.train()
    assert same(before[0], state(generator))
    assert same(before[1], state(encoder))
    assert not any(weight.requires_grad for weight in family.generator.parameters())


# --- exported and scripted modules ---------------------------------------------------------------------------------


def exported(batch=torch.export.Dim.DYNAMIC):
    example = torch.zeros(3 if batch is None else 2, 2)
    return torch.export.export(decoder().eval(), (example,), dynamic_shapes=({0: batch},)).module()


def scripted():
    return torch.jit.script(decoder())


def traced():
    return torch.jit.trace(decoder().eval(), torch.zeros(2, 2))


def script_in_a_module():
    return nn.Sequential(scripted(), nn.Tanh())


def export_in_a_module():
    return nn.Sequential(exported(), nn.Tanh())


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("make", [exported, scripted, traced, export_in_a_module])
def test_exported_and_scripted_modules_run_in_both_libraries(make):
    network, z = make(), np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    network.config = type("Config", (), {"latent_dim": 2, "name": "program"})()
    model = CoGenerator(network, views=VIEWS)
    assert (model.name, model.generator.config.name) == ("program", "program")
    expected = decoder().eval()(torch.from_numpy(z)).detach()
    expected = expected.tanh() if make is export_in_a_module else expected
    torch.testing.assert_close(torch.from_numpy(model.decode(z)), expected)
    seen = model.condition(all=np.zeros((4, 3)))
    torch.testing.assert_close(pyro.condition(seen, data={"z": torch.from_numpy(z)})(), expected)
    twin = handlers.substitute(seen.numpyro, data={"z": z})()
    np.testing.assert_allclose(twin, expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_network_in_training_keeps_its_mode():
    network = scripted()
    CoGenerator(network, latent_dim=2, views=VIEWS)
    assert network.training
    assert all(weight.requires_grad for weight in network.parameters())


def test_an_export_of_one_batch_size_is_named():
    for use in (
        lambda: CoGenerator(exported(None), latent_dim=2, views=VIEWS),
        lambda: as_jax(exported(None), (2,)),
    ):
        with pytest.raises(ValueError, match=r"exported for one batch size .*dynamic_shapes"):
            use()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_script_that_cannot_be_translated_runs_in_torch_only():
    model = CoGenerator(script_in_a_module(), latent_dim=2, views=VIEWS).condition(all=np.zeros((1, 3)))
    assert model().shape == (1, 3)
    with pytest.raises(ValueError, match="Pyro backend") as caught:
        handlers.trace(handlers.seed(model.numpyro, 0)).get_trace()
    assert "\n" not in str(caught.value)


def test_frozen_keeps_what_a_module_computes():
    network = decoder()
    z = torch.randn(5, 2)
    copied = frozen(network)
    torch.testing.assert_close(copied(z), network.eval()(z))

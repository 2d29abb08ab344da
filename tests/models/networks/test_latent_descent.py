"""Learned descents: Eq. 4 with and without rho, what a condition and a latent must be, and the same in torch and in JAX."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from cogen.diagnostics import diagnose
from cogen.inference import LearnedDescent, PyroLearnedDescent, infer
from cogen.models import Array, CoGenerator, LatentDescent, Predictor, SphericalGenerator, views
from cogen.models.networks.latent_descent import latent_descent, on_sphere, spherical_generator
from cogen.models.networks.translation import EncoderDecoder

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SHAPES = {"event_shape": (1, 8, 8), "condition_shape": (2, 8, 8), "latent_dim": 3, "width": 2, "skips": True}


class Features(nn.Module):
    def forward(self, condition):
        return [condition]


class Network(nn.Module):
    """x is the latent and the condition side by side."""

    def __init__(self):
        super().__init__()
        self.down = Features()

    def decode(self, z, features, condition):
        return torch.cat([z, features[-1]], dim=1)


class Towards(Predictor):
    """r is the condition, rho a constant."""

    def __init__(self, rho):
        super().__init__(2, 2, (2,))
        self.rho = rho
        with torch.no_grad():
            self.of_features.weight.copy_(torch.eye(2))
            self.of_features.bias.zero_()

    def forward(self, z, projected):
        return projected, torch.full_like(z[:, :1], self.rho)


def test_a_step_is_equation_4():
    z, target = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    h = target
    with_rho = LatentDescent(Features(), Towards(0.5), num_steps=1)
    expected = on_sphere(z + 0.5 * (target - z) / 2**0.5)
    torch.testing.assert_close(with_rho.step(z, h), expected)
    torch.testing.assert_close(LatentDescent(Features(), Towards(0.5), 1, momentum=False).step(z, h), target)


def test_a_descent_turns_u_and_keeps_its_length():
    descent = LatentDescent(Features(), Towards(0.1), num_steps=60)
    u, condition = torch.tensor([[3.0, 0.0], [-0.5, 0.1]]), torch.tensor([[0.0, 1.0], [0.0, -1.0]])
    torch.testing.assert_close(descent(u, condition).norm(dim=1), u.norm(dim=1))
    assert (on_sphere(descent(u, condition)) - condition).norm(dim=1).max() < 0.15
    path = descent.path(u, condition)
    assert path.shape == (61, 2, 2)
    torch.testing.assert_close(path[0], on_sphere(u))
    torch.testing.assert_close(path[-1], on_sphere(descent(u, condition)))


def test_the_length_of_u_does_not_matter_to_the_generator():
    torch.manual_seed(0)
    generator, condition = spherical_generator(**SHAPES).eval(), torch.randn(4, 2, 8, 8)
    u = torch.randn(4, 3)
    torch.testing.assert_close(generator(u, condition), generator(7 * u, condition))
    assert (generator(u, condition) - generator(-u, condition)).abs().max() > 1e-4


def test_what_is_no_descent():
    with pytest.raises(ValueError, match="num_steps=0: it must be at least 1"):
        LatentDescent(Features(), Towards(0.5), num_steps=0)
    with pytest.raises(ValueError, match="at least one hidden layer"):
        Predictor(2, 2, ())


@pytest.fixture
def seen():
    model = CoGenerator(
        SphericalGenerator(Network()),
        latent_dim=2,
        views={"y": views.Identity(scale=1.0)},
        contexts={"condition": Array((2,))},
    )
    directions = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], np.float32)
    return model.given(condition=directions).condition(y=np.zeros((3, 4)))


@pytest.mark.parametrize("kernel", [LearnedDescent, PyroLearnedDescent])
def test_end_points_of_every_item(kernel, seen):
    """They lie where the condition says, their lengths are the prior's, and each draw begins anew."""
    descent = LatentDescent(Features(), Towards(0.3), num_steps=40)
    counts = {"num_warmup": 0, "num_samples": 5, "num_chains": 200, "seed": 0, "progress": False}
    posterior = infer(seen, kernel(descent), **counts)
    z = posterior["posterior"]["z"].values
    assert z.shape == (200, 5, 3, 2)
    length = np.linalg.norm(z, axis=-1)
    directions = seen.item_data["context"]["condition"]
    apart = np.abs(z / length[..., None] - directions).max(-1)
    # Steps of 0.3 go past the end; from the opposite point the way leads through the middle, and takes longer.
    assert (apart < 0.35).mean() > 0.98
    deviation = (np.square(length).mean((0, 1)) - 2) / np.sqrt(4 / 1_000)  # a chi-square's variance is twice its mean
    assert np.abs(deviation).max() < 4.5
    assert np.abs(np.corrcoef(length[:, 0, 0], length[:, 1, 0])[0, 1]) < 0.3
    assert posterior["posterior"].attrs["kernel"] == kernel.__name__
    assert int(np.sum(posterior["posterior"].attrs["gradient_evaluations"])) == 0
    said = diagnose(posterior)
    assert said[0].startswith("the draws are end points of learned descents. They depend on the condition")
    assert not any("R-hat" in sentence for sentence in said)
    x = seen.decode(z[:, 0].reshape(-1, 2)).reshape(200, 3, 4)
    lp = -0.5 * (np.square(z[:, 0]).sum(-1) + np.square(x).sum(-1)) - 3 * np.log(2 * np.pi)
    np.testing.assert_allclose(posterior["sample_stats"]["lp"].values[:, 0], lp, atol=1e-4)


def test_torch_and_jax_walk_the_same_way():
    torch.manual_seed(0)
    descent = latent_descent(**SHAPES, hidden=(5, 5), num_steps=3).eval()
    u, condition = torch.randn(2, 3), torch.randn(2, 2, 8, 8)
    data = {"context": {"condition": condition.numpy()}}
    made = descent.numpyro({"z": u.numpy()}, data)["z"]
    with torch.no_grad():
        np.testing.assert_allclose(np.asarray(made), descent(u, condition).numpy(), rtol=1e-4, atol=1e-5)
    made = descent.pyro({"z": torch.stack([u, -u])}, data)["z"]
    with torch.no_grad():
        torch.testing.assert_close(made[1], descent(-u, condition))


@pytest.mark.parametrize("kernel", [LearnedDescent, PyroLearnedDescent])
def test_what_no_descent_can_do(kernel, seen):
    descent = LatentDescent(Features(), Towards(0.3))
    counts = {"num_samples": 1, "num_chains": 2, "seed": 0, "progress": False}
    with pytest.raises(ValueError, match=f"num_warmup=5: {kernel.__name__} has no warm-up: give num_warmup=0"):
        infer(seen, kernel(descent), num_warmup=5, **counts)
    with pytest.raises(ValueError, match="from the prior: omit start="):
        infer(seen, kernel(descent), num_warmup=0, start={"z": np.zeros((2, 3, 2))}, **counts)
    with pytest.raises(TypeError, match="the predictor is 3: give a function, or a trained LatentDescent"):
        kernel(3)
    with pytest.raises(ValueError, match=r"the predictor returned the sites \{'u': .*\}, the model has \{'z': "):
        infer(seen, kernel(lambda values, data: {"u": values["z"]}), num_warmup=0, **counts)
    descent.predictor.latent_dim = 5
    with pytest.raises(ValueError, match="the descent has 5 latents, but the model has 2"):
        infer(seen, kernel(descent), num_warmup=0, **counts)
    plain = CoGenerator(nn.Linear(2, 4), latent_dim=2, views={"y": views.Identity(scale=1.0)}).condition(y=np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"needs a condition, but none is given: use model.given\(condition=...\)"):
        infer(plain, kernel(descent), num_warmup=0, **counts)


def test_conditions_of_another_size_are_said():
    descent = latent_descent(**SHAPES)
    with pytest.raises(ValueError, match=r"conditions of shape \(2, 16, 16\) have 32 features, but the predictor expects 8"):
        descent(torch.randn(2, 3), torch.randn(2, 2, 16, 16))


def test_a_descent_is_pickled_without_its_compiled_functions():
    torch.manual_seed(0)
    descent = latent_descent(**SHAPES, num_steps=2).eval()
    u, condition = torch.randn(2, 3), torch.randn(2, 2, 8, 8)
    data = {"context": {"condition": condition.numpy()}}
    made = descent.numpyro({"z": u.numpy()}, data)["z"]
    again = pickle.loads(pickle.dumps(descent))
    np.testing.assert_array_equal(again.numpyro({"z": u.numpy()}, data)["z"], made)


def test_any_function_leads_the_sites_of_any_model():
    import numpyro
    import numpyro.distributions as dist

    def model(y):
        a = numpyro.sample("a", dist.Normal(0, 1))
        scale = numpyro.sample("scale", dist.LogNormal(0, 1))
        numpyro.sample("y", dist.Normal(a, scale), obs=y)

    def predictor(values, y):
        assert set(values) == {"a", "scale"}
        return {"a": 0 * values["a"] + y, "scale": values["scale"]}

    kernel = LearnedDescent(predictor, model)
    mcmc = numpyro.infer.MCMC(kernel, num_warmup=0, num_samples=4, num_chains=3, chain_method="vectorized", progress_bar=False)
    import jax

    mcmc.run(jax.random.key(0), 2.5)
    samples = mcmc.get_samples(group_by_chain=True)
    np.testing.assert_allclose(samples["a"], 2.5)
    assert samples["scale"].min() > 0


def test_the_smallest_features_are_counted():
    for sides in ((8, 8), (16, 8), (28, 28)):
        network = EncoderDecoder((1, *sides), (2, *sides), 3, width=2)
        assert network.down(torch.zeros(1, 2, *sides))[-1].numel() == network.features

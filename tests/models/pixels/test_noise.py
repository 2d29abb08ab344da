"""Pixels that end at black and at white: the density is one, both libraries have it, and training finds it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy.integrate import quad, trapezoid

from cogen.diagnostics import score_completions
from cogen.models import CoGenerator, views
from cogen.models.families.glf import LatentFlowGenerator
from cogen.models.pixels.censored import Censored, pixel_noise_of
from cogen.models.pixels.censored_jax import CensoredLogistic
from cogen.models.pixels.noise import HIGH, LOW, NEAR, PixelNoise, saturated, unsaturated

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture
def noise():
    """A scale that is wide at gray and small at white."""
    made = PixelNoise().requires_grad_(False)
    made.curve[0] = torch.tensor([-0.2, 0.3, 0.2, -0.9])
    return made


@pytest.fixture
def generator(noise):
    torch.manual_seed(0)
    arguments = {"latent_dim": 4, "event_shape": (1, 8, 8), "channels": 8, "blocks": 2, "bounded": False}
    made = LatentFlowGenerator("MixerGenerator", arguments, noise=True)
    with torch.no_grad():
        made.decoder.pixels.weight.mul_(4)
    made.noise = noise
    return made.eval()


@pytest.mark.parametrize("a", [-3.0, -1.0, -0.4, 0.7, 1.5])
def test_the_density_between_the_ends_and_the_probabilities_at_them_add_up_to_one(noise, a):
    x = saturated(torch.tensor(a))

    def density(y):
        return float(noise.log_prob(torch.tensor(y, dtype=torch.float64), x).exp())

    between, _ = quad(density, LOW + NEAR, HIGH - NEAR, limit=200, points=[min(max(a, LOW + NEAR), HIGH - NEAR)])
    assert density(LOW) + between + density(HIGH) == pytest.approx(1.0, abs=1e-4)


def test_both_libraries_have_one_density_and_draw_from_it(noise):
    """Draws: shares of black and of white and the mean between, each within four standard errors, of 100,000 a library."""
    a = torch.tensor([-2.0, -0.9, 0.3, 1.1])
    x = saturated(a)
    y = torch.linspace(-1, 1, 41)[:, None]
    in_torch = noise.log_prob(y, x).numpy()
    twin = CensoredLogistic(jnp.asarray(x.numpy()), noise.curve.numpy(), 0.3)
    np.testing.assert_allclose(twin.log_prob(y.numpy()), 0.3 * in_torch, rtol=1e-4, atol=1e-4)

    likelihood = Censored(noise)
    count = 100_000
    draws = {
        "torch": likelihood.pyro(x, None).sample((count,)).numpy(),
        "jax": np.asarray(likelihood.numpyro(jnp.asarray(x.numpy()), None).sample(jax.random.key(0), (count,))),
        "numpy": likelihood.noisy(np.broadcast_to(x.numpy(), (count, 4)), np.random.default_rng(0)),
    }
    grid = np.linspace(LOW + NEAR, HIGH - NEAR, 20_001)
    for k in range(4):
        at = noise.log_prob(torch.tensor(grid, dtype=torch.float64), x[k]).exp().numpy()
        black, white = (float(noise.log_prob(torch.tensor(end), x[k]).exp()) for end in (LOW, HIGH))
        mean = trapezoid(grid * at, grid)
        for name, drawn in draws.items():
            for value, expected in (((drawn[:, k] == LOW), black), ((drawn[:, k] == HIGH), white)):
                error = np.sqrt(max(expected * (1 - expected), 1e-9) / count)
                assert abs(value.mean() - expected) < 4 * error + 1e-4, name
            inside = np.where(np.abs(drawn[:, k]) < 1, drawn[:, k], 0.0)
            assert abs(inside.mean() - mean) < 4 * inside.std() / np.sqrt(count) + 1e-4, name


def test_saturation_is_undone_and_less_than_a_tenth_of_a_gray_level():
    a = torch.linspace(-30, 30, 6_001, requires_grad=True)
    x = saturated(a)
    again = unsaturated(x, torch)
    assert ((again - a).abs() < 2e-3 * (1 + a.abs())).all()
    assert x.abs().max() < 1 + 0.1 * 2 / 255
    assert (x.diff() >= 0).all()
    (slope,) = torch.autograd.grad(again.sum(), a)  # there and back again
    assert ((slope - 1).abs() > 5e-3).float().mean() < 1e-3  # next to an end x cannot be told from it
    outside = np.array([-30.0, -2.0, 0.3, 5.0])
    np.testing.assert_allclose(unsaturated(saturated(torch.tensor(outside)).numpy(), np), outside, rtol=1e-6)


def test_the_two_models_have_one_density_and_its_exponent(generator):
    """The log joint in Pyro and in NumPyro, and the power of the likelihood alone."""
    import numpyro
    import pyro

    mask = views.half((1, 8, 8), "top")
    with torch.no_grad():
        pixels = generator(torch.randn(3, 4))
    joints = {}
    z = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    for exponent in (1.0, 0.25):
        view = views.Mask(mask, likelihood=pixel_noise_of(generator, exponent))
        model = CoGenerator(generator, latent_dim=4, views={"seen": view})
        seen = model.condition(seen=model.simulate(pixels.numpy(), {}, seed=1)["seen"])
        trace = pyro.poutine.trace(pyro.condition(seen, data={"z": torch.from_numpy(z)})).get_trace()
        in_torch = float(trace.log_prob_sum())
        in_jax, _ = numpyro.infer.util.log_density(seen.numpyro, (), {}, {"z": jnp.asarray(z)})
        assert float(in_jax) == pytest.approx(in_torch, rel=1e-4)
        joints[exponent] = in_torch
        assert seen.attributes.get("likelihood_exponents") == (None if exponent == 1 else "seen: 0.25")
    prior = float(torch.distributions.Normal(0.0, 1.0).log_prob(torch.from_numpy(z)).sum())
    assert joints[0.25] - prior == pytest.approx(0.25 * (joints[1.0] - prior), rel=1e-4)


def test_training_finds_the_scale_of_the_noise():
    """By maximum likelihood, given pixels and the a that they were drawn from."""
    truth = PixelNoise().requires_grad_(False)
    truth.curve[0] = torch.tensor([0.4, 0.0, 0.0, -0.6])
    torch.manual_seed(0)
    x = saturated(3 * torch.rand(20_000) - 1.5)
    y = truth.sample(x)
    fitted = PixelNoise()
    optimizer = torch.optim.Adam(fitted.parameters(), 0.03)
    for _ in range(400):
        optimizer.zero_grad()
        (-fitted.log_prob(y, x).mean()).backward()
        optimizer.step()
    assert fitted.log_prob(y, x).mean() > truth.log_prob(y, x).mean() - 1e-3
    assert PixelNoise().log_prob(y, x).mean() < truth.log_prob(y, x).mean() - 0.02  # the start would not do


def test_the_predictive_of_a_known_pixel_noise_is_calibrated_and_another_is_not(noise):
    """The KS test of the joint PIT and the coverage of pixels, of 200 simulated items; twice the scale fails."""
    random = np.random.default_rng(1)
    likelihood = Censored(noise)
    truth = likelihood.noisy(saturated(torch.tensor(random.normal(0, 1.2, size=(200, 12)))).numpy(), random)
    draws = saturated(torch.tensor(random.normal(0, 1.2, size=(40, 1, 200, 12)))).numpy()
    right = score_completions(draws, truth, value_range=(-1, 1), noise=likelihood)
    # 2,400 pixels: the standard errors of the two shares are 0.010 and 0.006
    assert abs(right.coverage_50.mean() - 0.5) < 0.04
    assert abs(right.coverage_90.mean() - 0.9) < 0.025
    wide = PixelNoise().requires_grad_(False)
    wide.curve.copy_(noise.curve)
    wide.curve[3] += 0.5
    wrong = score_completions(draws, truth, value_range=(-1, 1), noise=Censored(wide))
    assert float(wrong.pit_dispersion.mean()) < float(right.pit_dispersion.mean()) - 0.1


def test_squared_residuals_have_the_expectation_that_the_noise_predicts(noise):
    """Of data with this noise, their ratio of sums is one within four standard errors; of negatives it is far above."""
    x = saturated(torch.linspace(-1.5, 1.5, 40_000, dtype=torch.float64)).numpy()
    likelihood = Censored(noise)
    y = likelihood.noisy(x, np.random.default_rng(1))
    square, expected = likelihood.squares(y, x, None)
    error = (square - expected).std() / np.sqrt(len(x))
    assert abs((square - expected).mean()) < 4 * error + 0.02 * expected.mean()  # sixteen quantiles stand for the noise
    negative, _ = likelihood.squares(-y, x, None)
    assert negative.sum() > 4 * expected.sum()


def test_what_is_refused(generator):
    with pytest.raises(ValueError, match=r"exponent=0\.0: the exponent of a power likelihood must be in \(0, 1\]"):
        Censored(generator.noise, 0.0)
    view = views.Mask(views.half((1, 8, 8), "top"), likelihood=pixel_noise_of(generator))
    model = CoGenerator(generator, latent_dim=4, views={"seen": view})
    with pytest.raises(ValueError, match=r"view 'seen': pixels must be in \[-1, 1\], and there is a 1\.5"):
        model.condition(seen=np.full((1, 1, 8, 8), 1.5))
    generator.config = SimpleNamespace(latent_dim=4, value_range=(-1.0, 1.0))
    with pytest.warns(UserWarning, match=r"rescale data in \[0, 1\] by -1 \+ 2 \* data"):
        CoGenerator(generator, views={"seen": view}).condition(seen=np.linspace(0, 1, 64).reshape(1, 1, 8, 8))
    with pytest.raises(
        ValueError, match="noise=True requires an unbounded decoder: give DcganGenerator the argument bounded=False"
    ):
        LatentFlowGenerator("DcganGenerator", {"latent_dim": 4, "event_shape": (1, 8, 8)}, noise=True)
    with pytest.raises(ValueError, match="noise are given: give one of them"):
        score_completions(np.zeros((2, 1, 1, 4)), np.zeros((1, 4)), value_range=(-1, 1), noise_scale=0.1, noise=view.likelihood)
    assert pixel_noise_of(torch.nn.Linear(2, 2)) is None

"""Noise models: the same densities in Pyro and in NumPyro."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions
import pyro.distributions
import pytest
import torch
from scipy import special, stats

from cogen.inference import AnnealedHMC, infer
from cogen.models import CoGenerator, views
from cogen.models.likelihoods import Bernoulli, Categorical, Laplace, Normal, Poisson, StudentT, to_numpyro

PLACE = np.random.default_rng(0).uniform(0, 1, size=(3, 4)).astype(np.float32)
VALUE = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("likelihood", "value"),
    [
        (Normal(0.3), VALUE),
        (Laplace(0.3), VALUE),
        (Bernoulli(), (VALUE > 0).astype(np.float32)),
        (Bernoulli((-1, 1)), (VALUE > 0) * 1.0),
        (StudentT(0.3, df=2.5), VALUE),
        (Poisson(), np.abs(np.rint(5 * VALUE))),
        (Categorical(4), np.array([0.0, 3.0, 1.0])),
    ],
)
def test_both_libraries_agree(likelihood, value):
    ours = likelihood.pyro(torch.as_tensor(PLACE), likelihood.scale).log_prob(torch.as_tensor(value, dtype=torch.float32))
    theirs = likelihood.numpyro(jnp.asarray(PLACE), likelihood.scale).log_prob(jnp.asarray(value, jnp.float32))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def log_densities(likelihood, place, value):
    """In Pyro and in NumPyro."""
    value = np.asarray(value, np.float32)
    pyros = likelihood.pyro(torch.tensor(place), likelihood.scale).log_prob(torch.tensor(value))
    return pyros.numpy(), np.asarray(likelihood.numpyro(jnp.asarray(place), likelihood.scale).log_prob(jnp.asarray(value)))


def test_log_densities_in_closed_form():
    place = np.array([-3.0, 0.2, 2.0], np.float32)
    for found in log_densities(StudentT(0.5, df=3.0), place, [-1.0, 0.1, 9.0]):
        np.testing.assert_allclose(found, stats.t.logpdf([-1.0, 0.1, 9.0], 3.0, place, 0.5), rtol=1e-5)
    for found in log_densities(Poisson(), place, [0.0, 2.0, 7.0]):
        np.testing.assert_allclose(found, stats.poisson.logpmf([0, 2, 7], np.logaddexp(0.0, place)), rtol=1e-5)
    for found in log_densities(Categorical(3), np.stack([place, -place]), [2.0, 0.0]):
        expected = np.take_along_axis(special.log_softmax([place, -place], axis=-1), np.array([[2], [0]]), -1)[:, 0]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_rate_too_small_for_a_float_has_a_finite_density_and_gradient():
    place, value = torch.tensor([-300.0, -300.0, -15.0], requires_grad=True), torch.tensor([0.0, 2.0, 1.0])
    found = Poisson().pyro(place, None).log_prob(value)
    np.testing.assert_allclose(found.detach(), [0.0, -600.0 - np.log(2), -15.0], rtol=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), place)
    np.testing.assert_allclose(gradient, value, atol=1e-6)
    ours = jax.grad(lambda x: Poisson().numpyro(x, None).log_prob(value.numpy()).sum())(jnp.array([-300.0, -300.0, -15.0]))
    np.testing.assert_allclose(ours, value, atol=1e-6)


def test_the_posterior_of_levels_counts_and_heavy_tails_is_that_of_quadrature():
    generator = torch.nn.Linear(1, 3)
    with torch.no_grad():
        generator.weight.copy_(torch.tensor([[1.0], [-1.0], [2.0]]))
        generator.bias.copy_(torch.tensor([0.0, 0.5, 1.0]))
    seen_by = {"level": Categorical(3), "counts": Poisson(), "row": StudentT(0.5, df=3.0)}
    model = CoGenerator(generator, latent_dim=1, views={name: views.Identity(likelihood=y) for name, y in seen_by.items()})
    assert model.shapes == {"level": (), "counts": (3,), "row": (3,)}
    data = {"level": np.array(2), "counts": np.array([1, 0, 4]), "row": np.array([0.3, 9.0, 2.0])}
    run = infer(
        model.condition(**{name: y[None] for name, y in data.items()}),
        AnnealedHMC(num_leapfrog=5),
        num_warmup=60,
        num_samples=10,
        num_chains=256,
        seed=0,
        progress=False,
        keep_x=True,
    )
    z = torch.linspace(-5.0, 5.0, 2001)[:, None]
    with torch.no_grad():
        x, log_density = generator(z), -0.5 * z[:, 0] ** 2
    for name, noise in seen_by.items():
        fits = noise.pyro(x, noise.scale).log_prob(torch.tensor(data[name], dtype=torch.float32))
        log_density = log_density + fits.reshape(len(z), -1).sum(1)
    weight, z = log_density.softmax(0).numpy(), z[:, 0].numpy()
    mean = float((weight * z).sum())
    sd = float(np.sqrt((weight * (z - mean) ** 2).sum()))
    drawn = run["posterior"]["z"].values
    assert drawn.mean() == pytest.approx(mean, abs=0.15 * sd)
    assert drawn.std() == pytest.approx(sd, rel=0.15)
    levels, counts = (run["posterior_predictive"][name].values for name in ("level", "counts"))
    assert set(np.unique(levels)) <= {0, 1, 2}
    assert (counts >= 0).all()
    np.testing.assert_array_equal(counts, np.rint(counts))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: StudentT(0.1, df=0.0), "df=0.0: the degrees of freedom must be positive"),
        (lambda: Categorical(1), "num_levels=1: at least two levels are required"),
        (
            lambda: CoGenerator(torch.nn.Linear(1, 3), latent_dim=1, views={"y": views.Identity(likelihood=Categorical(4))}),
            r"view 'y': Categorical\(num_levels=4\) requires 4 logits on the last axis of A\(x\), \(3,\)",
        ),
    ],
)
def test_likelihoods_that_cannot_be(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_data_of_levels_and_counts_are_whole_numbers_in_range():
    assert Poisson().check(np.array([0.0, 3.0])) is None
    assert "found -1" in Poisson().check(np.array([-1.0]))
    assert "found 0.5" in Poisson().check(np.array([0.5]))
    assert Categorical(3).check(np.array([0.0, 2.0])) is None
    assert "integers 0 to 2, found 3" in Categorical(3).check(np.array([3.0]))


def test_bernoulli_maps_the_value_range_to_probabilities():
    assert Bernoulli((-1, 1)).pyro(torch.tensor([-1.0, 0.0, 1.0]), None).probs.tolist() == pytest.approx([0, 0.5, 1], abs=1e-5)
    assert torch.isfinite(Bernoulli().pyro(torch.tensor([0.0, 1.0]), None).log_prob(torch.tensor([1.0, 0.0]))).all()


def test_bernoulli_data_are_zero_or_one():
    assert Bernoulli().check(np.array([0.0, 1.0])) is None
    assert "0.5" in Bernoulli().check(np.array([0.0, 0.5]))
    assert Normal(1.0).check(np.array([0.5])) is None


@pytest.mark.parametrize("kind", [Normal, Laplace])
@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan"), torch.tensor([0.1, -0.1])])
def test_scales_are_positive(kind, scale):
    with pytest.raises(ValueError, match=f"{kind.family}: noise scale .* positive"):
        kind(scale)


def test_a_distribution_over_the_scale_is_over_one_number():
    with pytest.raises(
        ValueError, match=r"has shape \(3,\), but one number is drawn per item: give a distribution over one number"
    ):
        Normal(pyro.distributions.HalfNormal(torch.ones(3)))


@pytest.mark.parametrize(
    "prior",
    [
        torch.distributions.Normal(torch.tensor([0.0, 1.0]), 2.0),
        torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), 1.0), 1),
        torch.distributions.Uniform(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 2.0])),
        torch.distributions.Laplace(torch.zeros(2), 1.0),
        torch.distributions.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 2.0]])),
        torch.distributions.Gamma(torch.tensor([2.0, 3.0]), 1.5),
        torch.distributions.Beta(torch.tensor([2.0, 3.0]), 1.5),
        torch.distributions.LogNormal(torch.zeros(2), 0.5),
        torch.distributions.HalfNormal(torch.ones(2)),
        torch.distributions.StudentT(torch.full((2,), 4.0)),
        torch.distributions.Exponential(torch.ones(2)),
        pyro.distributions.Normal(torch.zeros(2), 1.0).to_event(1),
    ],
    ids=lambda d: type(d).__name__,
)
def test_priors_are_converted(prior):
    value = np.array([0.4, 0.6], np.float32)
    expected = prior.log_prob(torch.as_tensor(value)).numpy()
    np.testing.assert_allclose(to_numpyro(prior).log_prob(jnp.asarray(value)), expected, rtol=1e-4)


def test_a_prior_without_a_counterpart_is_refused():
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(2)), torch.distributions.Normal(torch.zeros(2), 1.0)
    )
    with pytest.raises(ValueError, match="no equivalent of the distribution MixtureSameFamily"):
        to_numpyro(mixture)


def test_a_plain_torch_distribution_cannot_be_a_site():
    with pytest.raises(TypeError, match=r"pyro\.distributions\.HalfNormal"):
        Normal(torch.distributions.HalfNormal(1.0))


@pytest.mark.parametrize(
    "prior",
    [
        pyro.distributions.Normal(0.0, 1.0),
        pyro.distributions.Uniform(-0.1, 1.0),
        pyro.distributions.StudentT(3.0),
        pyro.distributions.Poisson(1.0),
        pyro.distributions.Delta(torch.tensor(0.1)),
    ],
    ids=lambda d: type(d).__name__,
)
def test_a_prior_of_the_scale_is_over_positive_numbers(prior):
    with pytest.raises(
        ValueError, match=rf"Normal: the prior of the noise scale is {type(prior).__name__} .*HalfNormal, LogNormal"
    ):
        Normal(prior)


@pytest.mark.parametrize(
    "prior",
    [
        pyro.distributions.HalfNormal(1.0),
        pyro.distributions.HalfCauchy(1.0),
        pyro.distributions.LogNormal(-2.0, 0.5),
        pyro.distributions.Gamma(2.0, 1.0),
        pyro.distributions.InverseGamma(2.0, 1.0),
        pyro.distributions.Exponential(1.0),
        pyro.distributions.Uniform(0.0, 1.0),
        pyro.distributions.Beta(2.0, 2.0),
        pyro.distributions.TransformedDistribution(
            pyro.distributions.Normal(0.0, 1.0), [pyro.distributions.transforms.ExpTransform()]
        ),
    ],
    ids=lambda d: type(d).__name__,
)
def test_priors_over_positive_numbers_are_taken(prior):
    assert Laplace(prior).scale is prior


def test_a_prior_of_another_library_is_named():
    with pytest.raises(TypeError, match=r"Normal: this HalfNormal is a distribution of numpyro; use pyro\.distributions"):
        Normal(numpyro.distributions.HalfNormal(1.0))
    with pytest.raises(TypeError, match=r"to_numpyro: this Gamma is a distribution of numpyro"):
        to_numpyro(numpyro.distributions.Gamma(1.0))
    with pytest.raises(TypeError, match=r"to_numpyro: 0\.3 is not a distribution"):
        to_numpyro(0.3)


@pytest.mark.parametrize("scale", ["small", [[1.0], [1.0, 2.0]], pyro.distributions.HalfNormal])
def test_what_is_no_scale_is_named(scale):
    with pytest.raises(TypeError, match="Laplace: a noise scale is a positive number, a tensor of positive numbers"):
        Laplace(scale)


def test_scales_in_an_array_are_those_in_a_tensor():
    array = np.linspace(0.1, 0.3, 4)
    for scale in (array, torch.as_tensor(array), jnp.asarray(array), list(array)):
        found = Normal(scale).scale
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, array, rtol=1e-6)
    weight = torch.tensor([0.1, 0.2], requires_grad=True)
    assert not Normal(weight).scale.requires_grad
    assert Normal(np.float32(0.5)).scale == 0.5
    assert Normal(torch.tensor(0.5)).scale == 0.5

"""Noise models: the same densities in Pyro and in NumPyro."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions
import pyro.distributions
import pytest
import torch

from cogen.models.likelihoods import Bernoulli, Laplace, Normal, to_numpyro

PLACE = np.random.default_rng(0).uniform(0, 1, size=(3, 4)).astype(np.float32)
VALUE = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("likelihood", "value"),
    [
        (Normal(0.3), VALUE),
        (Laplace(0.3), VALUE),
        (Bernoulli(), (VALUE > 0).astype(np.float32)),
        (Bernoulli((-1, 1)), (VALUE > 0) * 1.0),
    ],
)
def test_both_libraries_agree(likelihood, value):
    ours = likelihood.pyro(torch.as_tensor(PLACE), likelihood.scale).log_prob(torch.as_tensor(value, dtype=torch.float32))
    theirs = likelihood.numpyro(jnp.asarray(PLACE), likelihood.scale).log_prob(jnp.asarray(value, jnp.float32))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


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
    with pytest.raises(ValueError, match="one number"):
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
    with pytest.raises(ValueError, match="MixtureSameFamily has no counterpart"):
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
    with pytest.raises(TypeError, match=r"Normal: this HalfNormal is numpyro's; give the one of pyro\.distributions"):
        Normal(numpyro.distributions.HalfNormal(1.0))
    with pytest.raises(TypeError, match=r"to_numpyro: this Gamma is numpyro's"):
        to_numpyro(numpyro.distributions.Gamma(1.0))
    with pytest.raises(TypeError, match=r"to_numpyro: 0\.3 is not a distribution"):
        to_numpyro(0.3)


@pytest.mark.parametrize("scale", ["small", [[1.0], [1.0, 2.0]], pyro.distributions.HalfNormal])
def test_what_is_no_scale_is_named(scale):
    with pytest.raises(TypeError, match="Laplace: a noise scale is a positive number, a tensor of them"):
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

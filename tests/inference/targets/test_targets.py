"""A PPL model as an annealing path: its ends are the densities they claim to be."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer.util import log_density, potential_energy

from cogen.inference.targets.numpyro_target import numpyro_target
from cogen.inference.targets.target import evaluate, gradient_at

DATA = jnp.asarray([0.3, -1.0, 2.0])


def rich(y):
    """Constrained sites, a plate, a scale, a mask and a factor."""
    spread = numpyro.sample("spread", dist.HalfNormal(2.0))
    share = numpyro.sample("share", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("n", 3):
        level = numpyro.sample("level", dist.Normal(share, spread))
        with handlers.scale(scale=2.0):
            numpyro.sample("y", dist.Normal(level, 1.0).mask(jnp.asarray([True, False, True])), obs=y)
    numpyro.factor("penalty", -0.1 * spread**2)


def gauss(y=1.0):
    z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(z.sum(), 0.5), obs=y)


def total(target, u):
    return float(target.reference(u).sum() + target.increment(u).sum())


def test_the_end_of_the_path_is_the_joint_density():
    target = numpyro_target(rich, (DATA,))
    assert target.dim == 1 + 2 + 3
    for key in jax.random.split(jax.random.key(0), 3):
        u = target.draw(key)
        assert total(target, u) == pytest.approx(-float(potential_energy(rich, (DATA,), {}, target.sites(u))), rel=1e-5)


def test_the_tilt_of_the_prior_is_the_likelihood():
    target = numpyro_target(gauss)
    u = jnp.asarray([0.4, -0.3])
    joint, _ = log_density(gauss, (), {}, {"z": u})
    prior = dist.Normal(0, 1).log_prob(u).sum()
    assert float(target.reference(u).sum()) == pytest.approx(float(prior), rel=1e-5)
    assert float(target.increment(u).sum()) == pytest.approx(float(joint - prior), rel=1e-5)


@pytest.mark.parametrize("initial", [dist.Normal(3.0, 0.5), dist.Normal(jnp.full(2, 3.0), 0.5).to_event(1)])
def test_another_start(initial):
    target = numpyro_target(gauss, initial=initial)
    u = jnp.asarray([0.4, -0.3])
    assert float(target.reference(u).sum()) == pytest.approx(float(dist.Normal(3, 0.5).log_prob(u).sum()), rel=1e-5)
    assert total(target, u) == pytest.approx(float(log_density(gauss, (), {}, {"z": u})[0]), rel=1e-5)
    draws = np.asarray(jax.vmap(target.draw)(jax.random.split(jax.random.key(0), 4000)))
    np.testing.assert_allclose(draws.mean(axis=0), 3.0, atol=0.04)
    np.testing.assert_allclose(draws.std(axis=0), 0.5, atol=0.03)


def test_a_start_for_each_of_several_sites():
    initial = {
        "spread": dist.LogNormal(0.0, 0.1),
        "share": dist.Dirichlet(jnp.full(3, 9.0)),
        "level": dist.Normal(0.0, 1.0),
    }
    target = numpyro_target(rich, (DATA,), initial=initial)
    u = target.draw(jax.random.key(1))
    assert total(target, u) == pytest.approx(total(numpyro_target(rich, (DATA,)), u), rel=1e-4)


@pytest.mark.parametrize("initial", [None, dist.Normal(3.0, 0.5)])
def test_a_flat_prior_ends_at_the_likelihood(initial):
    target = numpyro_target(gauss, initial=initial, flat_prior=True)
    u = jnp.asarray([0.4, -0.3])
    assert total(target, u) == pytest.approx(float(dist.Normal(u.sum(), 0.5).log_prob(1.0)), rel=1e-4)


def test_draws_are_exact_draws_of_the_prior():
    target = numpyro_target(rich, (DATA,))
    u = jax.jit(jax.vmap(target.draw))(jax.random.split(jax.random.key(2), 4000))
    spread = np.exp(np.asarray(jax.vmap(target.sites)(u)["spread"]))
    assert spread.mean() == pytest.approx(2 * np.sqrt(2 / np.pi), rel=0.05)


def test_gradients():
    target = numpyro_target(rich, (DATA,))
    u, beta = target.draw(jax.random.key(3)), jnp.float32(0.3)
    point = evaluate(target, u)
    np.testing.assert_allclose(point.gradient(beta), gradient_at(target, u, beta), rtol=1e-4, atol=1e-4)
    assert float(point.log_density(beta)) == pytest.approx(
        float(target.reference(u).sum() + 0.3 * target.increment(u).sum()), rel=1e-4
    )


def test_a_gain_is_taken_before_the_rounding():
    def many():
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(z, 0.05).expand([24_000]).to_event(1), obs=jnp.ones(24_000))

    target = numpyro_target(many)
    a, b = np.float32(0.5), np.float32(0.50001)
    gain = evaluate(target, jnp.asarray([b])).log_density_gain(evaluate(target, jnp.asarray([a])), jnp.float32(1.0))
    exact = sum(24_000 * -0.5 * ((1 - float(u)) / 0.05) ** 2 * s - 0.5 * float(u) ** 2 * s for u, s in ((b, 1), (a, -1)))
    assert float(gain) == pytest.approx(exact, abs=0.02)


# --- what is refused -----------------------------------------------------------------------------------------------


def no_latent():
    numpyro.sample("y", dist.Normal(0.0, 1.0), obs=1.0)


def no_observation():
    numpyro.sample("z", dist.Normal(0.0, 1.0))


def discrete():
    k = numpyro.sample("k", dist.Bernoulli(0.5))
    numpyro.sample("y", dist.Normal(k, 1.0), obs=1.0)


@pytest.mark.parametrize(
    ("model", "said"),
    [(no_latent, "no latent site"), (no_observation, "no observed site"), (discrete, "only latent site, 'k', is discrete")],
)
def test_models_that_cannot_be_annealed(model, said):
    with pytest.raises(ValueError, match=said):
        numpyro_target(model)


@pytest.mark.parametrize(
    ("model", "initial", "said"),
    [
        (lambda: rich(DATA), dist.Normal(0, 1), "give a mapping"),
        (gauss, {"w": dist.Normal(0, 1)}, "initial has the sites"),
        (gauss, dist.Normal(jnp.zeros(3), 1), "initial for site 'z'"),
        (gauss, dist.Normal(jnp.zeros((5, 2)), 1), "initial for site 'z'"),
    ],
)
def test_starts_that_do_not_fit(model, initial, said):
    with pytest.raises(ValueError, match=said):
        numpyro_target(model, initial=initial)

"""A conditioned CoGenerator is found inside the handlers that condition it."""

import functools

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pyro
import pyro.infer
import pyro.infer.autoguide
import pyro.optim
import pytest
import torch
from known import LinearGenerator
from numpyro import handlers
from numpyro.infer import MCMC

from cogen.diagnostics import diagnose
from cogen.inference import AnnealedHMC, PyroAnnealedHMC, infer, items_apart, temper
from cogen.inference.items import ItemModel, find_items
from cogen.models import CoGenerator, views

A, B = np.full((3, 4), 0.5, np.float32), np.full((3, 4), -1.0, np.float32)


@pytest.fixture(scope="module")
def model():
    both = {"a": views.Identity(scale=0.1), "b": views.Identity(scale=0.2)}
    return CoGenerator(LinearGenerator(2, 4), latent_dim=2, views=both)


def data_of(found):
    return {name: entry["value"] for name, entry in found.item_data.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda m: m.condition(a=A, b=B),
        lambda m: m.condition(a=A).condition(b=B),
        lambda m: pyro.condition(m, data={"a": torch.as_tensor(A), "b": torch.as_tensor(B)}),
        lambda m: pyro.condition(pyro.condition(m, data={"a": A}), data={"b": B}),
        lambda m: pyro.condition(pyro.condition(m, data={"a": A, "b": A}), data={"b": B}),
        lambda m: handlers.condition(m, data={"a": A, "b": B}),
        lambda m: handlers.condition(m.numpyro, data={"a": A, "b": B}),
        lambda m: handlers.condition(handlers.condition(m.numpyro, data={"a": A}), data={"b": B}),
        lambda m: m.condition(a=A, b=B).numpyro,
        lambda m: pyro.condition(m.condition(a=A), data={"b": B}),
    ],
)
def test_conditioning_is_found(model, wrap):
    found = find_items(wrap(model))
    assert isinstance(found, ItemModel)
    data = data_of(found)
    assert set(data) == {"a", "b"}
    np.testing.assert_array_equal(data["a"], A)
    np.testing.assert_array_equal(data["b"], B)
    assert not model.item_data  # the original is as it was


def plain():
    numpyro.sample("z", dist.Normal(0, 1))


@pytest.mark.parametrize("other", [plain, handlers.condition(plain, data={"z": 1.0}), handlers.seed(plain, 0)])
def test_any_other_model_is_one_item(other):
    assert find_items(other) is None


def test_an_unknown_view_is_refused_inside_a_handler_too(model):
    with pytest.raises(ValueError, match="no view 'c'"):
        find_items(pyro.condition(model, data={"c": torch.as_tensor(A)}))


@pytest.mark.parametrize("wrap", [functools.partial, lambda m: functools.partial(functools.partial(m.numpyro))])
def test_a_partial_without_arguments_is_opened(model, wrap):
    seen = model.condition(a=A)
    assert find_items(wrap(seen)) is seen


WRAPPERS = {
    "temper": lambda m: temper(m, 0.5),
    "temper, NumPyro's twin": lambda m: temper(m.numpyro, 0.5),
    "NumPyro's scale": lambda m: handlers.scale(m.numpyro, 0.5),
    "Pyro's scale": lambda m: pyro.poutine.scale(m, 0.5),
    "Pyro's do": lambda m: pyro.do(m, data={"a": torch.as_tensor(A)}),
    "a lambda": lambda m: lambda: m(),
    "a lambda, NumPyro's twin": lambda m: lambda: m.numpyro(),
    "a partial with arguments": lambda m: functools.partial(m, num_items=3),
}


@pytest.mark.parametrize("kernel", [AnnealedHMC, PyroAnnealedHMC, numpyro.infer.NUTS, pyro.infer.NUTS])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_items_inside_a_wrapper_are_refused(model, wrapper, kernel):
    """They would be one posterior of 3 x 2 dimensions. A twin for the other library is refused as that, where it runs first."""
    wrapped = WRAPPERS[wrapper](model.condition(a=A))
    ours = kernel in (AnnealedHMC, PyroAnnealedHMC)
    quick = {"num_warmup": 4, "num_samples": 2, "num_chains": 8, "seed": 0, "progress": False}
    with pytest.raises((ValueError, TypeError), match=r"^3 items would share one posterior|this is a NumPyro model"):
        infer(wrapped, kernel() if ours else kernel, **quick)


@pytest.mark.parametrize("kernel", [AnnealedHMC, PyroAnnealedHMC])
def test_items_conditioned_outside_of_a_wrapper_are_refused(model, kernel):
    tempered = temper(model, 0.5, sites=["a"]) if kernel is PyroAnnealedHMC else temper(model.numpyro, 0.5)
    condition = pyro.condition if kernel is PyroAnnealedHMC else handlers.condition
    seen = condition(tempered, data={"a": torch.as_tensor(A) if kernel is PyroAnnealedHMC else A})
    with pytest.raises(ValueError, match="conditioned on 3 items, but the model has 1"):
        infer(seen, kernel(), num_warmup=4, num_samples=2, num_chains=8, seed=0, progress=False)


def test_items_in_numpyro_s_own_mcmc_are_refused(model):
    kernel = AnnealedHMC(model.condition(a=A).numpyro)
    mcmc = MCMC(kernel, num_warmup=4, num_samples=2, num_chains=8, chain_method="vectorized", progress_bar=False)
    with pytest.raises(ValueError, match=r"^3 items would share one posterior"):
        mcmc.run(jax.random.key(0))


def test_items_in_another_sampler_are_refused(model):
    seen = model.condition(a=A)
    mcmc = MCMC(numpyro.infer.NUTS(seen.numpyro), num_warmup=4, num_samples=2, progress_bar=False)
    with pytest.raises(ValueError, match=r"^3 items would share one posterior"):
        mcmc.run(jax.random.key(0))
    chains = pyro.infer.MCMC(pyro.infer.NUTS(seen), num_samples=2, warmup_steps=2, disable_progbar=True)
    with pytest.raises(ValueError, match=r"^3 items would share one posterior"):
        chains.run()
    svi = pyro.infer.SVI(seen, pyro.infer.autoguide.AutoNormal(seen), pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO())
    with pytest.raises(ValueError, match="summed on purpose"):
        svi.step()
    with items_apart():
        assert np.isfinite(svi.step())
    assert pyro.poutine.trace(model).get_trace(num_items=3).nodes["z"]["value"].shape == (3, 2)  # nothing is observed


# --- ids -----------------------------------------------------------------------------------------------------------------


def draws_of(model, ids, library, **data):
    kernel = AnnealedHMC(num_leapfrog=2) if library == "numpyro" else PyroAnnealedHMC(num_leapfrog=2)
    counts = {"num_warmup": 10, "num_samples": 2, "num_chains": 8, "seed": 2**40 + 1, "progress": False, "items_at_once": 2}
    seen = model.condition(**data)
    return infer(seen if ids is None else seen.with_ids(ids), kernel, **counts)


@pytest.mark.parametrize("library", ["numpyro", "pyro"])
def test_a_subset_with_its_ids_gives_the_draws_of_the_whole(model, library):
    ids = np.array([7, 2**62 + 5, 11])
    whole, part = draws_of(model, ids, library, a=A), draws_of(model, ids[1:], library, a=A[1:])
    for group, name in (("posterior", "z"), ("sample_stats", "log_weight"), ("predictions", "x_mean")):
        full = whole[group][name]
        np.testing.assert_array_equal(full.isel(item=slice(1, None)).values, part[group][name].values)
    other = draws_of(model, None, library, a=A)
    assert (other["posterior"]["z"].values != whole["posterior"]["z"].values).all()
    first = draws_of(model, [0, 1, 2], library, a=A)
    np.testing.assert_array_equal(first["posterior"]["z"].values, other["posterior"]["z"].values)


def test_both_halves_of_an_id_count(model):
    low, high = (draws_of(model, [5 + offset, 6, 7], "numpyro", a=A)["posterior"]["z"].values for offset in (0, 2**33))
    assert (low[:, :, 0] != high[:, :, 0]).all()
    np.testing.assert_array_equal(low[:, :, 1:], high[:, :, 1:])


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([1, 2], "numbers of items"),
        ([1, 2, 2], "same id"),
        ([1, 2, -3], "in .0, 2.63."),
        ([1.0, 2.0, 3.0], "one integer"),
        (np.array([1, 2, 2**63], np.uint64), "in .0, 2.63."),
    ],
)
def test_ids_that_cannot_be(model, ids, said):
    with pytest.raises(ValueError, match=said):
        model.condition(a=A).with_ids(ids)


def test_how_far_the_seen_part_lies_from_the_draws():
    """x = z, seen with noise 0.1: near data within a noise scale, data of another unit far beyond, and complained of."""
    generator = torch.nn.Linear(2, 4, bias=False)
    torch.nn.init.constant_(generator.weight, 0.5)
    seen = CoGenerator(generator, latent_dim=2, views={"a": views.Identity(scale=0.1)})
    data = np.stack([np.full(4, 0.3), [0.3, 1.3, 0.3, 1.3]]).astype(np.float32)
    run = infer(seen.condition(a=data), AnnealedHMC(), num_warmup=100, num_samples=4, num_chains=32, seed=0, progress=False)
    near, far = run["sample_stats"]["a_misfit"].values.mean(axis=(0, 1))
    assert near < 1
    assert far == pytest.approx(5, abs=0.3)  # 0.5 away at the best, in units of 0.1
    said = [sentence for sentence in diagnose(run) if "noise scales" in sentence]
    assert len(said) == 1
    assert said[0].startswith("item 1: the RMS residual of the seen part of view 'a' is 5.")

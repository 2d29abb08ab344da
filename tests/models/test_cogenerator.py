"""`CoGenerator`: one model in two libraries, conditioned item by item, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions
import numpyro.infer.util
import pyro
import pyro.distributions
import pyro.infer
import pytest
import torch
from numpyro import handlers
from torch import nn

from cogen.models import CoGenerator, views
from cogen.models.storage.generators import GeneratorConfig

ITEMS, SHAPE = 3, (3, 4, 4)
RNG = np.random.default_rng(0)
MASK = views.half(SHAPE, "top")
PER_ITEM = views.random(SHAPE, 0.5, seed=0, items=ITEMS)


class Tiny(nn.Module):
    def __init__(self, shape=SHAPE, latent=2):
        super().__init__()
        torch.manual_seed(0)
        self.shape, self.linear = shape, nn.Linear(latent, int(np.prod(shape)))

    def forward(self, z):
        return torch.sigmoid(self.linear(z)).reshape(-1, *self.shape)


def make(view, shape=SHAPE, **options):
    return CoGenerator(Tiny(shape), latent_dim=2, views={"seen": view}, **options)


def with_prior(prior):
    return make(views.Identity(scale=0.1), prior=prior)


def data(shape, items=ITEMS):
    return RNG.uniform(0, 1, size=(items, *shape)).astype(np.float32)


def log_joints(model, z, **sites):
    """The log joint of conditioned items in Pyro and in NumPyro."""
    values = {"z": z, **sites}
    conditioned = pyro.condition(lambda: model(), data={name: torch.as_tensor(v) for name, v in values.items()})
    ours = float(pyro.poutine.trace(conditioned).get_trace().log_prob_sum())
    theirs, _ = numpyro.infer.util.log_density(model.numpyro, (), {}, {name: jnp.asarray(v) for name, v in values.items()})
    return ours, float(theirs)


CASES = {
    "identity": (views.Identity(scale=0.1), SHAPE, SHAPE),
    "laplace": (views.Identity(likelihood=views.Laplace(0.2)), SHAPE, SHAPE),
    "scale per pixel": (views.Identity(scale=torch.linspace(0.1, 0.3, 48).reshape(SHAPE)), SHAPE, SHAPE),
    "mask": (views.Mask(MASK, scale=0.1), SHAPE, SHAPE),
    "mask, laplace": (views.Mask(MASK, likelihood=views.Laplace(0.1)), SHAPE, SHAPE),
    "masks": (views.Mask(PER_ITEM, scale=0.1), SHAPE, SHAPE),
    "thumbnail": (views.Thumbnail(2, scale=0.1), SHAPE, (3, 2, 2)),
    "grayscale": (views.Grayscale(scale=0.1), SHAPE, (1, 4, 4)),
    "columns": (views.Columns(["c", "a"], of=["a", "b", "c"], scale=0.1), (3,), (2,)),
    "linear": (views.Linear(RNG.normal(size=(5, 48)), scale=0.1), SHAPE, (5,)),
    "composition": (views.Compose(views.Grayscale(), views.Thumbnail(2), scale=0.1), SHAPE, (1, 2, 2)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_log_joints_of_both_libraries_agree(name):
    view, event, shape = CASES[name]
    model = make(view, event).condition(seen=data(shape))
    for _ in range(2):
        ours, theirs = log_joints(model, RNG.normal(size=(ITEMS, 2)).astype(np.float32))
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_the_log_joints_agree_for_binary_data():
    model = make(views.Mask(MASK, likelihood=views.Bernoulli())).condition(seen=(data(SHAPE) > 0.5) * 1.0)
    ours, theirs = log_joints(model, RNG.normal(size=(ITEMS, 2)).astype(np.float32))
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_a_distribution_over_the_scale_is_a_site_of_both():
    model = make(views.Mask(MASK, scale=pyro.distributions.LogNormal(-2.0, 0.5))).condition(seen=data(SHAPE))
    trace = pyro.poutine.trace(model).get_trace()
    assert trace.nodes["seen_scale"]["value"].shape == (ITEMS,)
    twin = handlers.trace(handlers.seed(model.numpyro, 0)).get_trace()
    assert twin["seen_scale"]["value"].shape == (ITEMS,)
    scale = np.array([0.1, 0.2, 0.3], np.float32)
    ours, theirs = log_joints(model, RNG.normal(size=(ITEMS, 2)).astype(np.float32), seen_scale=scale)
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize(
    "prior",
    [
        pyro.distributions.Normal(torch.tensor([0.5, -0.5]), 2.0).to_event(1),
        pyro.distributions.Uniform(torch.full((2,), -3.0), torch.full((2,), 3.0)).to_event(1),
        pyro.distributions.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 2.0]])),
    ],
    ids=["normal", "uniform", "multivariate"],
)
def test_another_prior(prior):
    model = with_prior(prior).condition(seen=data(SHAPE))
    ours, theirs = log_joints(model, RNG.uniform(-1, 1, size=(ITEMS, 2)).astype(np.float32))
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_sites_and_shapes():
    model = CoGenerator(
        Tiny(), latent_dim=2, views={"half": views.Mask(MASK, scale=0.1), "small": views.Thumbnail(2, scale=0.1)}
    )
    trace = pyro.poutine.trace(model).get_trace(num_items=4)
    shapes = {name: tuple(trace.nodes[name]["value"].shape) for name in ("z", "x", "half", "small")}
    assert shapes == {"z": (4, 2), "x": (4, *SHAPE), "half": (4, *SHAPE), "small": (4, 3, 2, 2)}
    twin = handlers.trace(handlers.seed(model.numpyro, 0)).get_trace(num_items=4)
    assert {name: tuple(twin[name]["value"].shape) for name in shapes} == shapes
    conditioned = model.condition(small=data((3, 2, 2)))
    trace = pyro.poutine.trace(conditioned).get_trace()
    assert "half" not in trace.nodes
    assert trace.nodes["small"]["is_observed"]
    assert trace.nodes["z"]["value"].shape == (ITEMS, 2)
    assert (conditioned.num_items, model.num_items) == (ITEMS, 0)


def test_hidden_pixels_may_be_anything():
    values = data(SHAPE)
    z = RNG.normal(size=(ITEMS, 2)).astype(np.float32)
    spoiled = np.where(MASK, values, np.nan)
    whole, holes = (log_joints(make(views.Mask(MASK, scale=0.1)).condition(seen=v), z) for v in (values, spoiled))
    assert whole == pytest.approx(holes)
    groups = make(views.Mask(MASK, scale=0.1)).condition(seen=spoiled).result_groups()
    np.testing.assert_array_equal(np.isnan(groups["observed_data"]["seen"][1]), ~np.broadcast_to(MASK, values.shape))


def test_a_mask_that_hides_all_of_an_item_warns():
    masks = PER_ITEM.copy()
    masks[1] = False
    with pytest.warns(UserWarning, match=r"hides everything of items \[1\]"):
        make(views.Mask(masks, scale=0.1)).condition(seen=data(SHAPE))


def test_decode_and_simulate():
    model = make(views.Mask(MASK, scale=0.05))
    z = RNG.normal(size=(200, 2)).astype(np.float32)
    x = model.decode(z)
    assert x.shape == (200, *SHAPE)
    drawn = model.simulate(x, {}, seed=1)["seen"]
    assert (drawn - x).std() == pytest.approx(0.05, rel=0.05)
    np.testing.assert_array_equal(drawn, model.simulate(x, {}, seed=1)["seen"])
    state = torch.random.get_rng_state()
    model.simulate(x, {}, seed=2)
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_latent_size_and_the_value_range_are_read_off_the_config():
    generator = Tiny()
    generator.config = GeneratorConfig(
        architecture="Tiny", arguments={}, latent_dim=2, event_shape=SHAPE, value_range=(0.0, 1.0), noise_scale=0.1, name="tiny"
    )
    model = CoGenerator(generator, views={"seen": views.Identity(scale=0.1)})
    assert model.latent_dim == 2
    assert model.attributes["value_range"] == [0.0, 1.0]
    assert model.event_shape == SHAPE
    assert not any(p.requires_grad for p in model.generator.parameters())


def test_a_jax_generator():
    weight = jnp.asarray(RNG.normal(size=(2, 4)), jnp.float32)
    model = CoGenerator(lambda z: jax.nn.tanh(z @ weight), latent_dim=2, views={"seen": views.Identity(scale=0.1)})
    conditioned = model.condition(seen=data((4,)))
    z = jnp.asarray(RNG.normal(size=(ITEMS, 2)), jnp.float32)
    joint, _ = numpyro.infer.util.log_density(conditioned.numpyro, (), {}, {"z": z})
    assert np.isfinite(float(joint))
    np.testing.assert_allclose(model.decode(np.asarray(z)), np.tanh(np.asarray(z @ weight)), rtol=1e-4, atol=1e-6)
    with pytest.raises(TypeError, match="JAX function"):
        conditioned()


# --- refusals ------------------------------------------------------------------------------------------------------


def test_several_items_under_a_handler_alone_are_refused_by_plain_pyro():
    model = pyro.condition(make(views.Identity(scale=0.1)), data={"seen": torch.as_tensor(data(SHAPE))})
    mcmc = pyro.infer.MCMC(pyro.infer.NUTS(model), num_samples=2, warmup_steps=2, disable_progbar=True)
    with pytest.raises(ValueError, match="instead of a handler"):
        mcmc.run()


def test_several_items_under_a_handler_alone_are_refused_by_plain_numpyro():
    model = handlers.condition(make(views.Identity(scale=0.1)).numpyro, data={"seen": jnp.asarray(data(SHAPE))})
    with pytest.raises(ValueError, match="instead of a handler"):
        handlers.trace(handlers.seed(model, 0)).get_trace()


AROUND = {
    "partial": (functools.partial, functools.partial),
    "lambda": (lambda model: lambda: model(), lambda model: lambda: model()),
    "scale": (lambda model: pyro.poutine.scale(model, 0.5), lambda model: handlers.scale(model, 0.5)),
    "block": (lambda model: pyro.poutine.block(model, hide=["x"]), lambda model: handlers.block(model, hide=["x"])),
}


@pytest.mark.parametrize("around", AROUND)
def test_several_items_are_refused_under_any_handler_outside_infer(around):
    of_pyro, of_numpyro = AROUND[around]
    model = make(views.Identity(scale=0.1))
    values = data(SHAPE)
    seen = of_pyro(pyro.condition(of_pyro(model), data={"seen": torch.as_tensor(values)}))
    with pytest.raises(ValueError, match="conditioned on 3 items, but the model has 1"):
        pyro.poutine.trace(seen).get_trace()
    twin = of_numpyro(handlers.condition(of_numpyro(model.numpyro), data={"seen": jnp.asarray(values)}))
    with pytest.raises(ValueError, match="conditioned on 3 items, but the model has 1"):
        handlers.trace(handlers.seed(twin, 0)).get_trace()


@pytest.mark.parametrize(
    ("make_it", "said"),
    [
        (lambda: CoGenerator(Tiny(), views={"seen": views.Identity(scale=0.1)}), "latent_dim"),
        (lambda: CoGenerator(Tiny(), latent_dim=0, views={"seen": views.Identity(scale=0.1)}), "latent_dim=0"),
        (lambda: CoGenerator(Tiny(), latent_dim=5, views={"seen": views.Identity(scale=0.1)}), "does not take z"),
        (lambda: CoGenerator(Tiny(), latent_dim=2, views={}), "at least one view"),
        (lambda: CoGenerator(Tiny(), latent_dim=2, views={"z": views.Identity(scale=0.1)}), "'z'"),
        (lambda: make(views.Identity()), "no noise model"),
        (lambda: make(views.Mask(np.zeros((3, 4, 5), bool), scale=0.1)), r"mask has shape \(3, 4, 5\)"),
        (lambda: make(views.Mask(np.ones(SHAPE, bool), scale=0.1)), "shows everything"),
        (lambda: make(views.Thumbnail(3, scale=0.1)), "view 'seen': .*does not divide"),
        (lambda: with_prior(pyro.distributions.Normal(torch.zeros(3), 1).to_event(1)), "prior has shape"),
        (lambda: with_prior(pyro.distributions.Normal(torch.zeros(2), 1)), "to_event"),
        (lambda: with_prior(pyro.distributions.Bernoulli(torch.full((2,), 0.5)).to_event(1)), "the prior is discrete"),
        (
            lambda: make(views.Identity(scale=torch.full((4, 5), 0.1))),
            r"'seen': the noise scale has shape \(4, 5\), .*\(3, 4, 4\)",
        ),
        (lambda: make(views.Mask(MASK, likelihood=views.Laplace(torch.full((2, *SHAPE), 0.1)))), "the noise scale has shape"),
        (lambda: make(views.Thumbnail(2, scale=torch.full(SHAPE, 0.1))), r"the noise scale .* view of an item \(3, 2, 2\)"),
    ],
)
def test_models_that_cannot_be(make_it, said):
    with pytest.raises(ValueError, match=said):
        make_it()


@pytest.mark.parametrize(
    ("prior", "said"),
    [
        (torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2)), "is a torch distribution"),
        (
            numpyro.distributions.Normal(jnp.zeros(2), 1.0).to_event(1),
            r"this Independent is a distribution of numpyro; use pyro.distributions",
        ),
        (0.5, "prior: 0.5 is not a distribution"),
    ],
)
def test_a_prior_that_is_not_pyro_s_is_refused(prior, said):
    with pytest.raises(TypeError, match=said):
        with_prior(prior)


@pytest.mark.parametrize("shape", [SHAPE, (4, 4), (3, 1, 1), (1,)])
def test_a_scale_that_broadcasts_to_the_view_is_the_same_in_both_libraries(shape):
    model = make(views.Identity(scale=np.full(shape, 0.2))).condition(seen=data(SHAPE))
    z = RNG.normal(size=(ITEMS, 2)).astype(np.float32)
    ours, theirs = log_joints(model, z)
    assert ours == pytest.approx(theirs, rel=1e-4)
    plain, _ = log_joints(make(views.Identity(scale=0.2)).condition(seen=model.item_data["seen"]["value"]), z)
    assert ours == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize(
    ("generator", "said"),
    [("mnist", "the generator is 'mnist': give an instance of a torch module"), (Tiny, "is <class .*Tiny.*>: give")],
)
def test_what_is_no_generator_is_named(generator, said):
    with pytest.raises(TypeError, match=said):
        CoGenerator(generator, latent_dim=2, views={"seen": views.Identity(scale=0.1)})


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ({"a": nn.Identity()}, r"view 'a' is a <class 'torch.*Identity'>: give an instance of cogen.models.views.View"),
        ({"b": views.Identity(scale=0.1), "a": lambda x: x}, "view 'a' is a <class 'function'>"),
        ({"a": views.Identity}, "view 'a' is a <class 'type'>"),
        ([views.Identity(scale=0.1)], "views is a list: give a mapping of names"),
    ],
)
def test_what_is_no_view_is_named(shown, said):
    with pytest.raises(TypeError, match=said):
        CoGenerator(Tiny(), latent_dim=2, views=shown)


def test_the_name_of_a_scale_is_taken_where_it_is_sampled():
    def model(scale):
        shown = {"a": views.Identity(scale=scale), "a_scale": views.Identity(scale=0.1)}
        return CoGenerator(Tiny(), latent_dim=2, views=shown)

    assert {"a", "a_scale"} <= set(handlers.trace(handlers.seed(model(0.1).numpyro, 0)).get_trace())
    with pytest.raises(ValueError, match="view 'a_scale': this name is reserved by the model: rename the view"):
        model(pyro.distributions.HalfNormal(1.0))


def test_probabilities_of_another_range_than_the_generator_s_are_refused():
    generator = Tiny()
    generator.config = GeneratorConfig("Tiny", {}, 2, SHAPE, (-1.0, 1.0), 0.1)
    with pytest.raises(ValueError, match=r"'seen': Bernoulli .*\[0, 1\] .*\[-1, 1\]: give Bernoulli\(value_range=\(-1, 1\)\)"):
        CoGenerator(generator, views={"seen": views.Identity(likelihood=views.Bernoulli())})
    CoGenerator(generator, views={"seen": views.Identity(likelihood=views.Bernoulli((-1.0, 1.0)))})


def holed():
    values = data(SHAPE)
    values[1, 0, 0, 2] = np.nan
    return values


@pytest.mark.parametrize(
    ("view", "values", "said"),
    [
        (views.Identity(scale=0.1), {"hidden": data(SHAPE)}, "no view 'hidden'; this model has seen"),
        (views.Identity(scale=0.1), {"seen": data((3, 4, 5))}, r"have shape \(3, 3, 4, 5\), expected \(item, 3, 4, 4\)"),
        (views.Identity(scale=0.1), {"seen": data(SHAPE)[0]}, "the item axis comes first"),
        (views.Identity(scale=0.1), {"seen": data(SHAPE, 0)}, "no items"),
        (views.Identity(scale=0.1), {"seen": holed()}, r"item 1 is nan at \(0, 0, 2\), a seen entry"),
        (views.Mask(MASK, scale=0.1), {"seen": holed()}, "must be finite"),
        (views.Identity(scale=0.1), {"seen": np.full((1, *SHAPE), np.inf)}, "must be finite"),
        (views.Identity(likelihood=views.Bernoulli()), {"seen": data(SHAPE)}, "0 or 1"),
        (views.Mask(PER_ITEM, scale=0.1), {"seen": data(SHAPE, 2)}, "3 masks for 2 items"),
    ],
)
def test_data_that_do_not_fit(view, values, said):
    with pytest.raises(ValueError, match=said):
        make(view).condition(**values)


def test_views_must_agree_on_the_items():
    model = CoGenerator(Tiny(), latent_dim=2, views={"a": views.Identity(scale=0.1), "b": views.Identity(scale=0.1)})
    with pytest.raises(ValueError, match="have different numbers of items"):
        model.condition(a=data(SHAPE, 2), b=data(SHAPE, 3))

"""Contexts travel with their items through kernels, guides and results."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pyro
import pyro.distributions
import pyro.infer
import pytest
import torch
from scipy import stats
from torch import nn

from cogen.diagnostics import draw_weights, log_evidence, predictive_checks, simulate, weighted_mean
from cogen.inference import AnnealedHMC, GradientDescent, GuideStart, PyroAnnealedHMC, PyroGuideStart, infer
from cogen.models import Array, Classes, CoGenerator, EncoderGuide, GeneratorConfig, load_generator, save_generator, views
from cogen.models.networks.architectures import ConditionalGenerator, Conditioned, DenseEncoder
from cogen.models.networks.encoders import MaskedEncoder
from cogen.models.noise import fit_scale

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SHAPE, CLASSES = (1, 2, 2), 3
RNG = np.random.default_rng(0)
QUICK = {"num_warmup": 12, "num_samples": 2, "num_chains": 8, "seed": 3, "progress": False}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A conditional generator on disk."""
    torch.manual_seed(1)
    inner = {"latent_dim": 2 + CLASSES, "event_shape": SHAPE, "hidden": (8,)}
    arguments = {"architecture": "DenseGenerator", "num_classes": CLASSES, "arguments": inner}
    config = GeneratorConfig("ConditionalGenerator", arguments, 2, SHAPE, (-1, 1), 0.2, name="classes")
    return save_generator(tmp_path_factory.mktemp("stored") / "classes", ConditionalGenerator(**arguments), config)


def model_of(generator, **options):
    return CoGenerator(generator, views={"seen": views.Mask(views.half(SHAPE, "top"), scale=0.3)}, **options)


@pytest.mark.parametrize("kernel", [AnnealedHMC(), PyroAnnealedHMC()], ids=["ours", "Pyro's"])
def test_items_of_different_classes_are_the_single_label_generators(stored, kernel):
    """Sixteen items in one run, and the sixteen in a run for each class: an item's draws are those of its class."""
    labels, y = np.arange(16) % CLASSES, RNG.uniform(-0.5, 0.5, size=(16, *SHAPE)).astype(np.float32)
    together = infer(model_of(load_generator(stored)).condition(seen=y).given(label=labels), kernel, keep_x=True, **QUICK)
    np.testing.assert_array_equal(together["constant_data"]["label"].values, labels)
    for label in range(CLASSES):
        alone = infer(model_of(load_generator(stored, label=label)).condition(seen=y), kernel, keep_x=True, **QUICK)
        assert "label" not in alone["constant_data"]
        mine = labels == label
        for group, name in (("posterior", "z"), ("posterior", "x"), ("predictions", "x_mean"), ("sample_stats", "seen_misfit")):
            ours, theirs = (run[group][name].isel(item=mine).values for run in (together, alone))
            np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-3, err_msg=f"{name} of class {label}")


def test_an_item_is_the_same_in_blocks_of_another_number_of_items(stored):
    labels, y = np.array([2, 0, 1]), RNG.uniform(-0.5, 0.5, size=(3, *SHAPE)).astype(np.float32)
    model = model_of(load_generator(stored))
    options = {**QUICK, "items_at_once": 2}
    three = infer(model.condition(seen=y).given(label=labels), AnnealedHMC(), **options)
    two = infer(model.condition(seen=y[:2]).given(label=labels[:2]), AnnealedHMC(), **options)
    np.testing.assert_array_equal(three["posterior"]["z"].values[:, :, :2], two["posterior"]["z"].values)


@pytest.mark.parametrize("kernel", [pyro.infer.NUTS, GradientDescent()], ids=["Pyro's NUTS", "descent"])
def test_other_kernels_take_contexts(stored, kernel):
    y = RNG.uniform(-0.5, 0.5, size=(2, *SHAPE)).astype(np.float32)
    run = infer(model_of(load_generator(stored)).condition(seen=y).given(label=[0, 2]), kernel, **QUICK)
    assert run["posterior"]["z"].shape == (8, 2, 2, 2)
    assert np.isfinite(run["predictions"]["x_mean"].values).all()


def test_what_needs_a_context_says_so_before_a_run(stored):
    model = model_of(load_generator(stored)).condition(seen=np.zeros((2, *SHAPE)))
    for kernel in (AnnealedHMC(), PyroAnnealedHMC(), pyro.infer.NUTS, numpyro.infer.NUTS):
        with pytest.raises(ValueError, match=r"context 'label' \(3 classes\) is not given: use model.given\(label=...\)"):
            infer(model, kernel, **QUICK)
    for kernel in (AnnealedHMC(), PyroAnnealedHMC()):
        with pytest.raises(ValueError, match=r"condition (it|the model) first"):
            infer(model_of(load_generator(stored)).given(label=[0, 1]), kernel, **QUICK)


# --- a linear generator, where everything is known -------------------------------------------------------------------


class Linear(nn.Module):
    """x = z W + label B (+ photo's sum)."""

    def __init__(self, classes=2):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.weight = nn.Parameter(torch.randn(2, 3, generator=generator))
        self.bias = nn.Parameter(torch.randn(classes, 3, generator=generator))

    def forward(self, z, label):
        return z @ self.weight + label @ self.bias


SCALE = 0.5
Y = RNG.normal(size=(3, 3)).astype(np.float32)
LABELS = np.array([1, 0, 1])


def linear(classes=None):
    contexts = {"label": classes or Classes(2)}
    return CoGenerator(Linear(), latent_dim=2, contexts=contexts, views={"seen": views.Identity(scale=SCALE)})


def known_evidence(model, labels):
    weight, bias = model.generator.weight.numpy(), model.generator.bias.numpy()
    covariance = weight.T @ weight + SCALE**2 * np.eye(3)
    return np.array([stats.multivariate_normal(bias[k], covariance).logpdf(y) for k, y in zip(labels, Y, strict=True)])


def guide_of(library):
    """A guide that reads the classes among the model's arguments."""
    plate, sample, normal = library.plate, library.sample, library.distributions.Normal
    array = torch.as_tensor if library is pyro else jnp.asarray

    def guide(data):
        label = array(np.asarray(data["context"]["label"])) if library is pyro else jnp.asarray(data["context"]["label"])
        with plate("item", len(label), dim=-1):
            sample("z", normal(label @ array(np.array([[0.5, 0.0], [0.0, -0.5]], np.float32)), 1.5).to_event(1))

    return guide


def starts(seen):
    encoder = EncoderGuide(Conditioned(DenseEncoder(2, (5,), (8,)), 2), seen)
    return {
        "the prior": (AnnealedHMC(), PyroAnnealedHMC()),
        "a guide": (
            AnnealedHMC(initial=GuideStart(guide_of(numpyro), prior_share=0.3)),
            PyroAnnealedHMC(initial=PyroGuideStart(guide_of(pyro), prior_share=0.3)),
        ),
        "an encoder": (AnnealedHMC(initial=encoder.start(0.5)), PyroAnnealedHMC(initial=encoder.pyro_start(0.5))),
    }


@pytest.mark.parametrize("library", [0, 1], ids=["NumPyro", "Pyro"])
@pytest.mark.parametrize("name", ["the prior", "a guide", "an encoder"])
def test_the_evidence_of_given_classes_is_known(name, library):
    torch.manual_seed(0)
    model = linear()
    seen = model.condition(seen=Y).given(label=LABELS)
    run = infer(seen, starts(seen)[name][library], num_warmup=80, num_samples=2, num_chains=256, seed=0, progress=False)
    found = log_evidence(run)
    error = (found["estimate"].values - known_evidence(model, LABELS)) / found["standard_error"].values
    assert np.abs(error).max() < 5, error
    wrong = found["estimate"].values - known_evidence(model, 1 - LABELS)
    assert np.abs(wrong / found["standard_error"].values).max() > 8


def test_an_encoder_is_given_the_contexts_that_its_network_names():
    torch.manual_seed(0)
    model = linear()
    seen = model.condition(seen=Y).given(label=LABELS)
    encoder = Conditioned(DenseEncoder(2, (5,), (8,)), 2).eval()
    expected = encoder(torch.as_tensor(Y), torch.as_tensor(LABELS))[0].detach()
    torch.testing.assert_close(EncoderGuide(encoder, seen).mean, expected)
    plain = DenseEncoder(2, (3,), (8,)).eval()
    torch.testing.assert_close(EncoderGuide(plain, seen).mean, plain(torch.as_tensor(Y))[0].detach())
    masked = MaskedEncoder(Conditioned(DenseEncoder(2, (8,), (8,)), 2)).eval()
    ones = torch.ones(3, 3, dtype=torch.bool)
    expected = masked(torch.as_tensor(Y), ones, torch.as_tensor(LABELS))[0].detach()
    torch.testing.assert_close(EncoderGuide(masked, seen).mean, expected)
    with pytest.raises(
        ValueError, match=r"an encoder is a guide of z alone, but context 'label' is not given: use model.given\(label=\.\.\.\)"
    ):
        EncoderGuide(plain, linear(Classes(2, unknown="relaxed")).condition(seen=Y))


def test_simulated_items_are_those_of_their_contexts():
    model = linear().given(label=np.arange(400) % 2)
    seen, truth = simulate(model, 400, seed=0)
    residual = seen.item_data["seen"]["value"] - model.decode(truth["z"])
    assert residual.std() == pytest.approx(SCALE, rel=0.1)
    assert np.abs(residual.mean(0)).max() < 0.1
    with pytest.raises(ValueError, match="num_items=3: contexts are given for 400 items"):
        simulate(model, 3, seed=0)
    with pytest.raises(ValueError, match="is not given"):
        simulate(linear(), 3, seed=0)


def test_the_noise_scale_is_fitted_with_contexts():
    model = linear()
    plain = nn.Linear(2, 3)
    plain.load_state_dict({"weight": model.generator.weight.T, "bias": model.generator.bias[1]})
    of_one = CoGenerator(plain, latent_dim=2, views={"seen": views.Identity(scale=SCALE)}).condition(seen=Y)
    found = [fit_scale(each, num_steps=60) for each in (model.condition(seen=Y).given(label=[1, 1, 1]), of_one)]
    assert found[0] == pytest.approx(found[1], rel=1e-3)


# --- a relaxed class -------------------------------------------------------------------------------------------------


def relaxed_by_quadrature(model):
    """log p(y) and the mean weight of class 0, over the difference of the two logits, which is N(0, 2); z is integrated out."""
    weight, bias = model.generator.weight.numpy(), model.generator.bias.numpy()
    covariance = weight.T @ weight + SCALE**2 * np.eye(3)
    difference = np.linspace(-12, 12, 4001)
    first = 1 / (1 + np.exp(-difference))
    means = first[:, None] * bias[0] + (1 - first)[:, None] * bias[1]
    log_prior = stats.norm(0, np.sqrt(2)).logpdf(difference) + np.log(difference[1] - difference[0])
    log_joint = np.array([stats.multivariate_normal(np.zeros(3), covariance).logpdf(y - means) + log_prior for y in Y])
    log_z = np.logaddexp.reduce(log_joint, axis=1)
    return log_z, np.exp(log_joint - log_z[:, None]) @ first


@pytest.mark.parametrize(
    ("kernel", "chains"),
    [(AnnealedHMC(), 512), (PyroAnnealedHMC(), 512), (numpyro.infer.NUTS, 8)],
    ids=["ours", "Pyro's", "NUTS"],
)
def test_a_relaxed_class_has_the_weights_of_quadrature(kernel, chains):
    model = linear(Classes(2, unknown="relaxed"))
    samples = 4 if chains > 8 else 300
    run = infer(model.condition(seen=Y), kernel, num_warmup=100, num_samples=samples, num_chains=chains, seed=0, progress=False)
    weights = run["posterior"]["label"]
    assert weights.dims == ("chain", "draw", "item", "class")
    assert run["posterior"]["label_logits"].dims == ("chain", "draw", "item", "class")
    np.testing.assert_allclose(weights.sum("class"), 1.0, rtol=1e-5)
    logits = run["posterior"]["label_logits"].values
    np.testing.assert_allclose(weights.values, np.asarray(jax.nn.softmax(logits)), rtol=1e-4)
    log_z, first = relaxed_by_quadrature(model)
    mean = weighted_mean(weights, draw_weights(run)).values[:, 0]
    np.testing.assert_allclose(mean, first, atol=0.03)
    if chains > 8:
        found = log_evidence(run)
        np.testing.assert_allclose(found["estimate"], log_z, atol=max(0.1, 4 * float(found["standard_error"].max())))
    # x goes with the draw's own weights
    z = run["posterior"]["z"].values
    x = z @ model.generator.weight.numpy() + weights.values @ model.generator.bias.numpy()
    expected = weighted_mean(run["posterior"]["z"].copy(data=x[..., 0:1].repeat(2, -1)), draw_weights(run)).values[:, 0]
    np.testing.assert_allclose(run["predictions"]["x_mean"].values[:, 0], expected, rtol=1e-3, atol=1e-3)


def test_predictive_checks_and_simulation_of_a_relaxed_class():
    model = linear(Classes(2, unknown="relaxed"))
    seen, truth = simulate(model, 3, seed=1)
    assert set(truth) == {"z", "label_logits"}
    run = infer(seen, AnnealedHMC(), num_warmup=40, num_samples=2, num_chains=32, seed=0, progress=False)
    checks = predictive_checks(run, model=seen, num_draws=5)
    assert np.isfinite(checks["p_value"].values).any()


# --- an array ----------------------------------------------------------------------------------------------------------


class Colours(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 1, 3, padding=1)

    def forward(self, z, photo):
        planes = z[:, :, None, None].expand(-1, -1, *photo.shape[2:])
        return torch.tanh(self.last(nn.functional.silu(self.first(torch.cat([photo, planes], dim=1)))))


@pytest.mark.parametrize("kernel", [AnnealedHMC(), PyroAnnealedHMC()], ids=["ours", "Pyro's"])
def test_a_picture_of_each_item_through_a_convolutional_network(kernel):
    photo = RNG.uniform(-1, 1, size=(3, 1, 4, 4)).astype(np.float32)
    contexts = {"photo": Array((1, 4, 4), value_range=(-1, 1))}
    model = CoGenerator(Colours(), latent_dim=2, contexts=contexts, views={"seen": views.Thumbnail(2, scale=0.1)})
    y = RNG.uniform(-0.3, 0.3, size=(3, 1, 2, 2)).astype(np.float32)
    run = infer(model.condition(seen=y).given(photo=photo), kernel, keep_x=True, **QUICK)
    np.testing.assert_array_equal(run["constant_data"]["photo"].values, photo)
    x, z = run["posterior"]["x"].values[:, 0], run["posterior"]["z"].values[:, 0]
    with torch.no_grad():
        expected = model.generator(torch.as_tensor(z).flatten(0, 1), torch.as_tensor(np.tile(photo, (8, 1, 1, 1)))).numpy()
    np.testing.assert_allclose(x.reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)

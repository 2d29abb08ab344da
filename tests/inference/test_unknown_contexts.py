"""Classes that are unknown: one run a class, against the closed form of a linear generator."""

import functools

import numpy as np
import numpyro
import pyro.infer
import pytest
import torch
from scipy import stats
from torch import nn

from cogen.diagnostics import (
    context_probabilities,
    diagnose,
    draw_weights,
    item_summary,
    log_evidence,
    predictive_checks,
    resample,
    summary,
    weighted_mean,
)
from cogen.inference import AnnealedHMC, GradientDescent, GuideStart, ImportanceResampling, InProcess, PyroAnnealedHMC, infer
from cogen.inference.unknown_contexts import fold
from cogen.models import Classes, CoGenerator, EncoderGuide, views
from cogen.models.networks.architectures import DenseEncoder

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SCALE = 0.5
Y = np.array([[0.0, 0.0, 0.0], [0.6, -0.3, 0.2], [1.0, -1.0, 0.5]], np.float32)
PRIOR = (0.3, 0.7)


class Linear(nn.Module):
    """x = z W + label B (+ colour C): p(y | classes) is normal."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(2, 3))
        self.label = nn.Parameter(torch.tensor([[0.0, 0.0, 0.0], [0.5, -0.5, 0.3]]))
        self.colour = nn.Parameter(torch.tensor([[0.0, 0.0, 0.0], [0.4, 0.4, 0.0], [0.0, 0.8, -0.8]]))

    def forward(self, z, label, colour=None):
        x = z @ self.weight + label @ self.label
        return x if colour is None else x + colour @ self.colour


def model_of(contexts=None):
    contexts = contexts or {"label": Classes(2, unknown="exact", prior=PRIOR)}
    return CoGenerator(Linear(), latent_dim=2, contexts=contexts, views={"seen": views.Identity(scale=SCALE)})


def known(model, offsets, prior):
    """log p(y, class) (item, class), the posterior mean of z (item, class, latent), for classes that move x by ``offsets``."""
    weight = model.generator.weight.numpy()
    covariance = weight.T @ weight + SCALE**2 * np.eye(3)
    away = Y[:, None] - offsets
    log_joint = stats.multivariate_normal(np.zeros(3), covariance).logpdf(away) + np.log(prior)
    return log_joint, away @ np.linalg.solve(covariance, weight.T)


QUICK = {"num_warmup": 100, "num_samples": 4, "num_chains": 512, "seed": 0, "progress": False, "pilot": 16}
KERNELS = {"annealed HMC": AnnealedHMC(), "the same in Pyro": PyroAnnealedHMC()}


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.fixture(scope="module")
def importance(model):
    """Importance sampling with so many chains that its error is small."""
    options = {**QUICK, "num_warmup": 0, "num_samples": 40, "num_chains": 2048, "pilot": 0}
    return infer(model.condition(seen=Y), ImportanceResampling(), **options)


def test_the_probabilities_of_the_classes_agree_with_the_closed_form(model, importance):
    log_joint, _ = known(model, model.generator.label.numpy(), PRIOR)
    expected = np.exp(log_joint - np.logaddexp.reduce(log_joint, axis=1)[:, None])
    found = context_probabilities(importance)
    assert found["label"].dims == ("item", "class")
    np.testing.assert_allclose(found["label"].values, expected, atol=0.01)
    assert (found["label_se"].values < 0.01).all()
    np.testing.assert_allclose(log_evidence(importance)["estimate"], np.logaddexp.reduce(log_joint, axis=1), atol=0.05)


@pytest.mark.parametrize("name", KERNELS)
def test_annealed_runs_of_the_classes(model, name):
    run = infer(model.condition(seen=Y), KERNELS[name], **QUICK)
    log_joint, z_mean = known(model, model.generator.label.numpy(), PRIOR)
    log_z = np.logaddexp.reduce(log_joint, axis=1)
    expected = np.exp(log_joint - log_z[:, None])
    found = context_probabilities(run)
    np.testing.assert_allclose(found["label"].values, expected, atol=0.05)
    evidence = log_evidence(run)
    np.testing.assert_allclose(evidence["estimate"], log_z, atol=0.1)  # of four populations, whose spread is a poor ruler

    label = run["posterior"]["label"]
    assert label.dims == ("chain", "draw", "item")
    assert set(np.unique(label.values)) <= {0, 1}
    assert (label == label.isel(draw=0)).all()  # a chain stays a chain
    share = weighted_mean(label, draw_weights(run)).values
    np.testing.assert_allclose(share, found["label"].values[:, 1], atol=1 / 512 + 1e-6)
    mixture = (expected[..., None] * z_mean).sum(1)
    np.testing.assert_allclose(weighted_mean(run["posterior"]["z"], draw_weights(run)).values, mixture, atol=0.08)
    for item in range(3):  # a draw goes with its class
        for k in range(2):
            z = run["posterior"]["z"].values[:, :, item][label.values[:, :, item] == k]
            if len(z) > 200:
                np.testing.assert_allclose(z.mean(0), z_mean[item, k], atol=0.15)
    x_mean = mixture @ model.generator.weight.numpy() + expected @ model.generator.label.numpy()
    np.testing.assert_allclose(run["predictions"]["x_mean"], x_mean, atol=0.05)
    cost = run["sample_stats"]["gradient_evaluations"].values
    assert (cost > 2 * 512 * 100 * 10).all()
    assert cost.shape == (3,)
    assert run["posterior"].attrs["gradient_evaluations"] == cost.sum()
    assert run["observed_data"]["seen"].shape == (3, 3)
    np.testing.assert_allclose(np.exp(run["constant_data"]["label_log_prior"]), PRIOR)
    assert run["warmup_sample_stats"]["beta"].sizes["item"] == 3


def test_everything_reads_the_folded_results(model):
    quick = {**QUICK, "num_chains": 32, "num_warmup": 30, "keep_x": True}
    seen = model.condition(seen=Y)
    run = infer(seen, AnnealedHMC(), **quick)
    z, label = run["posterior"]["z"].values, run["posterior"]["label"].values
    x = z @ model.generator.weight.numpy() + model.generator.label.numpy()[label]
    np.testing.assert_allclose(run["posterior"]["x"].values, x, rtol=1e-4, atol=1e-4)
    assert run["posterior_predictive"]["seen"].shape == x.shape
    table = item_summary(run)
    assert len(table) == 3
    assert (table["ancestors"] <= 32).all()
    assert np.isfinite(table["log_evidence"]).all()
    assert len(summary(run, ["z"])) == 6
    assert isinstance(diagnose(run), list)
    assert np.isfinite(predictive_checks(run, model=seen, num_draws=5)["p_value"].values).any()
    assert resample(run)["posterior"]["label"].shape == (32, 4, 3)
    handled = infer(pyro.condition(model, data={"seen": torch.as_tensor(Y)}), AnnealedHMC(), **quick)
    np.testing.assert_array_equal(handled["posterior"]["z"].values, z)
    np.testing.assert_array_equal(handled["posterior"]["label"].values, label)


@pytest.mark.slow
def test_a_subset_with_its_ids_and_a_run_in_jobs_have_the_same_draws(model, tmp_path):
    quick = {**QUICK, "num_chains": 16, "num_warmup": 30, "items_at_once": 2}
    whole = infer(model.condition(seen=Y), AnnealedHMC(), **quick)
    part = infer(model.condition(seen=Y[1:]).with_ids([1, 2]), AnnealedHMC(), **quick)
    jobs = infer(
        model.condition(seen=Y), AnnealedHMC(), executor=InProcess(items_per_job=2), checkpoint=tmp_path / "run", **quick
    )
    for name in ("z", "label"):
        values = whole["posterior"][name].values
        np.testing.assert_array_equal(part["posterior"][name].values, values[:, :, 1:])
        np.testing.assert_array_equal(jobs["posterior"][name].values, values)
    found, expected = (context_probabilities(each)["label"].values for each in (jobs, whole))
    np.testing.assert_array_equal(found, expected)


def test_weights_of_plain_annealing_count(model):
    """Without resampling the chains of a class are unequally weighted; what comes back is not."""
    kernel = AnnealedHMC(resample_threshold=0)
    run = infer(model.condition(seen=Y), kernel, **{**QUICK, "num_warmup": 40, "num_chains": 1024})
    assert np.ptp(run["sample_stats"]["log_weight"].values, axis=0).max() == 0
    log_joint, z_mean = known(model, model.generator.label.numpy(), PRIOR)
    expected = np.exp(log_joint - np.logaddexp.reduce(log_joint, axis=1)[:, None])
    np.testing.assert_allclose(context_probabilities(run)["label"].values, expected, atol=0.06)
    mixture = (expected[..., None] * z_mean).sum(1)
    np.testing.assert_allclose(run["posterior"]["z"].values.mean((0, 1)), mixture, atol=0.12)


@pytest.mark.slow
def test_two_unknown_classes_are_inferred_together():
    contexts = {"label": Classes(2, unknown="exact"), "colour": Classes(3, unknown="exact", prior=(0.2, 0.3, 0.5))}
    model = model_of(contexts)
    options = {**QUICK, "num_warmup": 0, "num_samples": 20, "num_chains": 1024, "pilot": 0}
    run = infer(model.condition(seen=Y), ImportanceResampling(), **options)
    offsets = (model.generator.label[:, None] + model.generator.colour).numpy().reshape(6, 3)
    log_joint, _ = known(model, offsets, np.outer([0.5, 0.5], (0.2, 0.3, 0.5)).ravel())
    expected = np.exp(log_joint - np.logaddexp.reduce(log_joint, axis=1)[:, None]).reshape(3, 2, 3)
    found = context_probabilities(run)
    assert found["colour"].dims == ("item", "colour_class")
    np.testing.assert_allclose(found["label"].values, expected.sum(2), atol=0.02)
    np.testing.assert_allclose(found["colour"].values, expected.sum(1), atol=0.02)
    assert set(run["posterior"].data_vars) >= {"z", "label", "colour"}
    one = infer(model.condition(seen=Y).given(label=[0, 1, 1]), ImportanceResampling(), **{**options, "num_samples": 4})
    np.testing.assert_array_equal(one["constant_data"]["label"], [0, 1, 1])
    of_colour = expected[np.arange(3), [0, 1, 1]]
    of_colour = of_colour / of_colour.sum(1, keepdims=True)
    np.testing.assert_allclose(context_probabilities(one)["colour"].values, of_colour, atol=0.05)


def test_the_expansion_repeats_items_one_by_one(model):
    masks = np.array([[True, False, False], [True, True, False], [False, True, True]])
    seen = CoGenerator(Linear(), latent_dim=2, contexts=dict(model.contexts), views={"seen": views.Mask(masks, scale=SCALE)})
    expansion = seen.condition(seen=Y).expand_unknown()
    assert expansion.model.num_items == 6
    np.testing.assert_array_equal(expansion.classes["label"], [0, 1])
    np.testing.assert_array_equal(expansion.model.item_data["context"]["label"].argmax(1), [0, 1, 0, 1, 0, 1])
    np.testing.assert_array_equal(expansion.model.item_data["seen"]["mask"], np.repeat(masks, 2, axis=0))
    np.testing.assert_allclose(np.exp(expansion.log_prior), PRIOR)
    assert model.expand_unknown() is None  # nothing is observed
    assert model.condition(seen=Y).given(label=[0, 1, 0]).expand_unknown() is None
    assert model_of({"label": Classes(2)}).condition(seen=Y).expand_unknown() is None


@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        (numpyro.infer.NUTS, "NUTS"),
        (functools.partial(pyro.infer.HMC, step_size=0.1), "HMC"),
        (GradientDescent(), "GradientDescent"),
        (AnnealedHMC(flat_prior=True), "AnnealedHMC with flat_prior=True"),
        (functools.partial(PyroAnnealedHMC, flat_prior=True), "PyroAnnealedHMC with flat_prior=True"),
        (AnnealedHMC(weighted=False, resample_threshold=0.0), "AnnealedHMC with weighted=False"),
    ],
)
def test_a_kernel_without_evidence_is_refused_before_the_run(model, kernel, name):
    with pytest.raises(ValueError, match=rf"{name} has no evidence, .* unknown context 'label' .*unknown='relaxed'") as caught:
        infer(model.condition(seen=Y), kernel, **QUICK)
    assert "\n" not in str(caught.value)
    remedy = f"omit {name.partition(' with ')[2]}," if " with " in name else "use AnnealedHMC()"
    assert remedy in str(caught.value)


@pytest.mark.parametrize("kernel", [PyroAnnealedHMC, functools.partial(AnnealedHMC, num_leapfrog=3)])
def test_a_class_of_ours_is_made_first(model, kernel):
    run = infer(model.condition(seen=Y), kernel, num_warmup=5, num_samples=1, num_chains=8, seed=0, progress=False)
    assert context_probabilities(run)["label"].shape == (3, 2)


def test_a_start_that_was_fitted_item_by_item_is_refused(model):
    start = GuideStart(lambda: None, {"loc": np.zeros((3, 2))}, per_item=True)
    with pytest.raises(ValueError, match=r"guide's parameters of 3 items were recorded, but this run has 6"):
        infer(model.condition(seen=Y), AnnealedHMC(initial=start), **QUICK)
    with pytest.raises(ValueError, match="context 'label' is not given"):
        EncoderGuide(DenseEncoder(2, (3,), (8,)), model.condition(seen=Y))


def test_classes_and_items_that_explain_nothing(model):
    """Item 0: class 1 is impossible. Item 1: both are, so that it has no answer. Item 2 is as it was."""
    options = {"num_warmup": 0, "num_samples": 2, "num_chains": 64, "seed": 0, "progress": False}
    expansion = model.condition(seen=Y).expand_unknown()
    run = infer(expansion.model, ImportanceResampling(), **options)
    whole = fold(run, expansion, 0)
    dead = [1, 2, 3]
    for name in ("population_log_evidence", "log_weight"):
        if name in run["sample_stats"]:
            run["sample_stats"][name][:, :, dead] = -np.inf
    run["predictions"]["x_mean"][dead] = np.nan
    folded = fold(run, expansion, 0)
    probabilities = context_probabilities(folded)
    np.testing.assert_array_equal(probabilities["label"][0], [1, 0])
    np.testing.assert_array_equal(probabilities["label_se"][0], [0, 0])
    assert np.isnan(probabilities["label"][1]).all()
    assert np.isnan(probabilities["label_se"][1]).all()
    np.testing.assert_array_equal(probabilities["label"][2], context_probabilities(whole)["label"][2])
    assert np.isfinite(folded["predictions"]["x_mean"][[0, 2]]).all()
    assert np.isnan(folded["predictions"]["x_mean"][1]).all()
    assert (folded["posterior"]["label"][:, :, 0] == 0).all()
    assert np.isneginf(log_evidence(folded)["estimate"][1])
    np.testing.assert_array_equal(folded["posterior"]["z"][:, :, 2], whole["posterior"]["z"][:, :, 2])

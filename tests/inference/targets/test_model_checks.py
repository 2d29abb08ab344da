"""What is wrong with a model is said before the run, in both libraries; what is no fault does not stop one."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pyro
import pyro.distributions as pyro_dist
import pyro.infer
import pytest
import torch
from numpyro.infer.autoguide import AutoNormal
from scipy import stats

from cogen.diagnostics import diagnose, log_evidence, summary
from cogen.inference import SVI, AnnealedHMC, ImportanceResampling, Langevin, ParallelTempering, PyroAnnealedHMC, infer
from cogen.inference import run as driver
from cogen.models import CoGenerator, views

QUICK = {"num_warmup": 20, "num_samples": 2, "num_chains": 8, "seed": 0, "progress": False}
LIBRARIES = pytest.mark.parametrize("library", ["numpyro", "pyro"])


def normal_model(library, site="z", *, data=(0.5, 1.0), size=(), mask=None):
    """Normal observations of a normal site."""

    def numpyro_model():
        z = numpyro.sample(site, dist.Normal(jnp.zeros(size), 1.0).to_event(len(size)))
        with numpyro.handlers.mask(mask=True if mask is None else jnp.asarray(mask)):
            numpyro.sample("y", dist.Normal(z.sum(), 1.0).expand((len(data),)), obs=jnp.asarray(data))

    def pyro_model():
        z = pyro.sample(site, pyro_dist.Normal(torch.zeros(size), 1.0).to_event(len(size)))
        with pyro.poutine.mask(mask=torch.tensor(True if mask is None else mask)):
            pyro.sample("y", pyro_dist.Normal(z.sum(), 1.0).expand((len(data),)), obs=torch.tensor(data))

    return numpyro_model if library == "numpyro" else pyro_model


def kernels(library):
    if library == "numpyro":
        return AnnealedHMC(), numpyro.infer.NUTS, SVI(AutoNormal)
    return PyroAnnealedHMC(), pyro.infer.NUTS


# --- data ---------------------------------------------------------------------------------------------------------------


@LIBRARIES
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_observed_values_that_are_not_finite(library, value):
    for kernel in kernels(library):
        with pytest.raises(ValueError, match=rf"site 'y' holds {value} at index \(1,\) \(1 of 3 values"):
            infer(normal_model(library, data=(0.5, value, 1.0)), kernel, **QUICK)


def test_observed_values_in_the_libraries_own_mcmc():
    quick = {"num_samples": 2, "num_warmup": 4, "progress_bar": False}
    mcmc = numpyro.infer.MCMC(
        AnnealedHMC(normal_model("numpyro", data=(0.5, np.nan))), num_chains=8, chain_method="vectorized", **quick
    )
    with pytest.raises(ValueError, match="site 'y' holds nan"):
        mcmc.run(jax.random.key(0))
    kernel = PyroAnnealedHMC(normal_model("pyro", data=(0.5, np.nan)), num_chains=8)
    with pytest.raises(ValueError, match="site 'y' holds nan"):
        pyro.infer.MCMC(kernel, num_samples=2, warmup_steps=4, disable_progbar=True).run()


def test_hidden_values_may_be_anything_in_numpyro_and_are_filled_in_pyro():
    """Pyro multiplies the gradient of what a mask hides by zero, which leaves a NaN a NaN."""
    hidden, filled = ({"data": (0.5, value, 1.0), "mask": [True, False, True]} for value in (float("nan"), 7.0))
    run, other = (infer(normal_model("numpyro", **options), AnnealedHMC(), **QUICK) for options in (hidden, filled))
    np.testing.assert_allclose(run["posterior"]["z"].values, other["posterior"]["z"].values, rtol=1e-5)
    with pytest.raises(ValueError, match=r"site 'y' holds nan at index \(1,\).*fill the hidden values by torch.nan_to_num"):
        infer(normal_model("pyro", **hidden), PyroAnnealedHMC(), **QUICK)
    infer(normal_model("pyro", **filled), PyroAnnealedHMC(), **QUICK)


# --- names --------------------------------------------------------------------------------------------------------------


@LIBRARIES
@pytest.mark.parametrize("name", ["draw", "chain"])
def test_names_of_dimensions(library, name):
    for kernel in kernels(library):
        with pytest.raises(ValueError, match=f"site '{name}' has the name of a dimension of every result"):
            infer(normal_model(library, name), kernel, **QUICK)


@LIBRARIES
def test_a_slash_becomes_a_dot_and_the_result_can_be_stored(library, tmp_path):
    run = infer(normal_model(library, "net/w", size=(2,)), kernels(library)[0], **QUICK)
    assert run["posterior"]["net.w"].dims == ("chain", "draw", "net.w_dim_0")
    run.to_netcdf(str(tmp_path / "run.nc"), engine="h5netcdf")
    assert (tmp_path / "run.nc").stat().st_size > 0


def test_masks_of_other_shapes_than_the_value():
    def shared():
        z = numpyro.sample("z", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
        with numpyro.handlers.mask(mask=jnp.array([True, True, False])):
            numpyro.sample("y", dist.Normal(z, 1.0), obs=jnp.array([[1.0, 1.0, np.nan], [1.0, 1.0, 1.0]]))

    def nested():
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        noise = dist.Normal(z, 1.0).expand((2, 3)).mask(jnp.ones((2, 3), bool)).to_event(1)
        with numpyro.handlers.mask(mask=jnp.array([True, False])):
            numpyro.sample("y", noise, obs=jnp.array([[1.0, 1.0, 1.0], [np.nan, 1.0, 1.0]]))

    for model in (shared, nested):
        assert np.isfinite(infer(model, AnnealedHMC(), **QUICK)["posterior"]["z"].values).all()


def test_names_that_meet():
    def beside_a_dimension():
        w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        numpyro.deterministic("w_dim_0", w.sum())
        numpyro.sample("y", dist.Normal(w.sum(), 1.0), obs=1.0)

    def twice():
        for name in ("a/b", "a.b"):
            numpyro.sample(name, dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(0.0, 1.0), obs=1.0)

    with pytest.raises(ValueError, match="site 'w_dim_0' has the name of a dimension of site 'w'"):
        infer(beside_a_dimension, AnnealedHMC(), **QUICK)
    with pytest.raises(ValueError, match=r"'a/b' and 'a\.b' would both be called 'a\.b'"):
        infer(twice, AnnealedHMC(), **QUICK)


# --- scales -------------------------------------------------------------------------------------------------------------


@LIBRARIES
def test_a_scale_that_multiplies_a_whole_density_is_warned_of_and_one_that_does_not_fit_is_refused(library):
    def model(weights):
        def numpyro_model():
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            with numpyro.handlers.scale(scale=jnp.asarray(weights)):
                numpyro.sample("y", dist.Normal(z, 1.0).expand((2, 3)).to_event(1), obs=jnp.ones((2, 3)))

        def pyro_model():
            z = pyro.sample("z", pyro_dist.Normal(0.0, 1.0))
            with pyro.poutine.scale(scale=torch.tensor(weights)):
                pyro.sample("y", pyro_dist.Normal(z, 1.0).expand((2, 3)).to_event(1), obs=torch.ones(2, 3))

        return numpyro_model if library == "numpyro" else pyro_model

    with pytest.warns(UserWarning, match=r"shape \(2, 2\) multiplies a log density of shape \(2,\).*counts 2 times"):
        infer(model([[1.0, 2.0], [1.0, 2.0]]), kernels(library)[0], **QUICK)
    with pytest.raises(ValueError, match=r"shape \(3,\) does not fit a log density of shape \(2,\)"):
        infer(model([1.0, 2.0, 3.0]), kernels(library)[0], **QUICK)


# --- libraries, pilots, seeds ---------------------------------------------------------------------------------------------


def test_a_kernel_of_the_other_library():
    for kernel in kernels("pyro"):
        with pytest.raises(TypeError, match=r"this is a NumPyro model.*AnnealedHMC"):
            infer(normal_model("numpyro"), kernel, **QUICK)
    for kernel in kernels("numpyro"):
        with pytest.raises(TypeError, match=r"this is a Pyro model.*PyroAnnealedHMC"):
            infer(normal_model("pyro"), kernel, **QUICK)


def test_an_error_of_the_model_s_own_is_shown_as_it_is():
    def broken():
        raise RuntimeError("of the model's own")

    for kernel in (AnnealedHMC(), PyroAnnealedHMC()):
        with pytest.raises(RuntimeError, match="of the model's own"):
            infer(broken, kernel, **QUICK)


@LIBRARIES
def test_the_populations_of_a_pilot(library):
    kernel = (AnnealedHMC if library == "numpyro" else PyroAnnealedHMC)(num_populations=6)
    with pytest.raises(ValueError, match=r"pilot run \(pilot=16\): num_chains=16 does not divide into 6"):
        infer(normal_model(library), kernel, pilot=16, **{**QUICK, "num_chains": 12})


@LIBRARIES
def test_every_bit_of_a_seed_counts(library):
    model, kernel = normal_model(library), kernels(library)[0]
    draws = [infer(model, kernel, **{**QUICK, "seed": seed})["posterior"]["z"].values for seed in (0, 2**32, 2**62)]
    for k, one in enumerate(draws):
        assert all((one != other).any() for other in draws[:k])
    for seed in (-1, 2**63):
        with pytest.raises(ValueError, match=rf"seed={seed}: a seed is an integer in \[0, 2\^63\)"):
            infer(model, kernel, **{**QUICK, "seed": seed})
    with pytest.raises(TypeError, match=r"seed=1\.5: a seed is an integer"):
        infer(model, kernel, **{**QUICK, "seed": 1.5})
    again = infer(model, kernel, **{**QUICK, "seed": np.int32(0)})
    np.testing.assert_array_equal(again["posterior"]["z"].values, draws[0])


# --- hard constraints -----------------------------------------------------------------------------------------------------


def truncated(library, least):
    """A standard normal above ``least``."""

    def numpyro_model():
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
        numpyro.factor("above", jnp.where(w > least, 0.0, -jnp.inf))

    def pyro_model():
        w = pyro.sample("w", pyro_dist.Normal(0.0, 1.0))
        pyro.factor("above", torch.where(w > least, 0.0, -torch.inf))

    return numpyro_model if library == "numpyro" else pyro_model


@pytest.mark.parametrize(
    ("library", "kernel"),
    [
        ("numpyro", AnnealedHMC(step_size=0.4)),
        pytest.param("numpyro", AnnealedHMC(step_size=0.4, resample_threshold=0.0), marks=pytest.mark.slow),
        pytest.param("numpyro", AnnealedHMC(step_size=0.4, bridge=True), marks=pytest.mark.slow),
        pytest.param("numpyro", ImportanceResampling(num_proposals=50), marks=pytest.mark.slow),
        pytest.param("numpyro", ParallelTempering(num_replicas=4, num_leapfrog=3, step_size=0.4), marks=pytest.mark.slow),
        ("numpyro", Langevin(step_size=0.7)),
        ("pyro", PyroAnnealedHMC(step_size=0.4)),
    ],
    ids=["annealed", "ais", "bridge", "importance", "tempering", "mala", "torch"],
)
def test_a_hard_constraint_rejects_and_is_neither_a_divergence_nor_counted_as_non_finite(library, kernel):
    """Above 0.5: mean and evidence within five standard errors; no divergences, no warnings, and neither is reported."""
    run = infer(truncated(library, 0.5), kernel, num_warmup=200, num_samples=20, num_chains=512, seed=0, progress=False)
    mean, sd = stats.truncnorm(0.5, np.inf).mean(), stats.truncnorm(0.5, np.inf).std()
    alive = 512 * stats.norm.sf(0.5)
    assert abs(summary(run)["mean"].item() - mean) < 5 * sd / np.sqrt(alive)
    for name in {"diverging", "nonfinite"} & set(run["sample_stats"]):
        assert run["sample_stats"][name].values.sum() == 0
    assert not [sentence for sentence in diagnose(run) if "diverged" in sentence or "non-finite" in sentence]
    if not isinstance(kernel, Langevin):
        found = log_evidence(run)
        assert abs(found["estimate"].item() - stats.norm.logsf(0.5)) < 5 * found["standard_error"].item()


@LIBRARIES
def test_a_run_without_a_finite_start_is_stopped(library):
    for kernel in (kernels(library)[0], numpyro.infer.NUTS) if library == "numpyro" else kernels(library)[:1]:
        with pytest.raises(ValueError, match="non-finite at all 8 starts"):
            infer(truncated(library, 100.0), kernel, **QUICK)


def test_items_without_a_finite_start_are_named_before_any_block_runs(monkeypatch):
    generator = torch.nn.Linear(1, 1, bias=False)
    model = CoGenerator(generator, latent_dim=1, views={"y": views.Identity(scale=1.0)})
    data = np.array([[0.0], [0.0], [1e30], [0.0]], np.float32)
    monkeypatch.setattr(driver.Run, "_run_block", lambda *_: pytest.fail("a block ran"))
    with pytest.raises(ValueError, match="item 2: the log density is non-finite at all 8 starts"):
        infer(model.condition(y=data), AnnealedHMC(), items_at_once=1, **QUICK)


@pytest.mark.parametrize(
    ("library", "kernel"),
    [
        ("numpyro", Langevin()),
        ("numpyro", AnnealedHMC(resample_threshold=0.0)),
        ("pyro", PyroAnnealedHMC(resample_threshold=0.0)),
    ],
    ids=["mala", "ais", "torch"],
)
def test_chains_that_start_behind_a_constraint_leave_it_and_do_not_decide_the_step_size(library, kernel):
    """At 1.5, where 93 % of the starts have no density."""
    run = infer(truncated(library, 1.5), kernel, num_warmup=300, num_samples=20, num_chains=512, seed=0, progress=False)
    assert run["sample_stats"]["step_size"].values.min() > 0.01  # it fell to its bound, 1e-5
    assert (run["posterior"]["w"].values < 1.5).mean() < (0.01 if isinstance(kernel, Langevin) else 0.5)
    mean, sd = stats.truncnorm(1.5, np.inf).mean(), stats.truncnorm(1.5, np.inf).std()
    alive = 512 * (1 if isinstance(kernel, Langevin) else stats.norm.sf(1.5))
    assert abs(summary(run)["mean"].item() - mean) < 5 * sd / np.sqrt(alive)


def test_draws_without_a_density_are_complained_of():
    run = infer(truncated("numpyro", 1.5), Langevin(step_size=0.01), **{**QUICK, "num_chains": 64})
    assert any("of the draws have zero posterior density" in sentence for sentence in diagnose(run))


def test_diagnostics_of_a_run_that_inferred_nothing():
    """Importance resampling may find the density later, so it is not stopped; what it returns can be looked at."""
    run = infer(truncated("numpyro", 100.0), ImportanceResampling(), **QUICK)
    assert "no chain has a positive weight" in diagnose(run)[0]
    assert np.isnan(summary(run)["mean"].item())
    assert log_evidence(run)["estimate"].item() == -np.inf

"""Simulation-based calibration over (z, mask): does a sampler draw from the posterior for any mask?

For every simulation a mask is drawn, z ~ prior, x = G(z) and y ~ p(y | z, mask); then z is one more draw of p(z | y, mask), so
that for any quantity f(z, y) the rank of the truth among L independent posterior draws

    rank = #{f(z_l, y) < f(z, y)} + a uniform integer in 0, ..., #{f(z_l, y) = f(z, y)}

is uniform on 0, ..., L. All simulations are items of one run. The quantities:

* ``log_likelihood``: log p(y | z). A sampler that returns the prior has uniform ranks of z, but not of this quantity.
* ``projection_k``: z along fixed random directions, orthogonal to one another.
* ``hidden_pixel``: ONE random hidden entry of x per simulation, without noise in the truth and in the draws (several entries
  would be dependent, so that their pooled ranks would not be independent).
* every other latent that is a scalar per item, such as a noise scale, by its name.

    Talts, Betancourt, Simpson, Vehtari and Gelman (2018), Validating Bayesian inference algorithms with simulation-based
    calibration; Modrak, Moon, Kim, Buerkner, Huurre, Faltejskova, Gelman and Vehtari (2023), Simulation-based calibration
    checking for Bayesian computation: the choice of test quantities shapes sensitivity (quantities that depend on the data).

Draws of one run are only approximately independent posterior draws: the number N of chains is finite (it is recorded),
resampled chains share ancestors, and weights are normalised by their sum. Use many more chains than ranks, and transitions at
beta = 1; a failure is then one of the sampler with this N.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from cogen.diagnostics.groups import attributes, group, statistic
from cogen.diagnostics.rank_uniformity import chi_squared_p_value, envelope_p_value
from cogen.diagnostics.thinning import pick_draws, take_draws
from cogen.diagnostics.weights import weight_ess

if TYPE_CHECKING:
    import pandas as pd

    from cogen.inference.items import ItemModel
    from cogen.inference.programs import Sampler

Build = Callable[[np.ndarray], "ItemModel"]
Masks = Mapping[str, "np.ndarray | Callable[[np.random.Generator], np.ndarray]"]

POOLED = "all"
"""The label of all strata together."""


def simulation_based_calibration(
    build: Build,
    kernel: Sampler,
    *,
    masks: Masks,
    num_simulations: int,
    num_warmup: int,
    num_samples: int,
    num_chains: int,
    seed: int,
    num_ranks: int = 15,
    num_projections: int = 2,
    inferred: Build | None = None,
    items_at_once: int | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Ranks of simulated truths among the draws of a kernel, by mask.

    As in::

        def build(masks):
            return CoGenerator(generator, views={"visible": views.Mask(masks, scale=0.3)})

        masks = {"top": views.half(shape, "top"), "random": lambda rng: views.random(shape, 0.5, seed=rng)}
        found = simulation_based_calibration(
            build, AnnealedHMC(), masks=masks, num_simulations=256, num_warmup=200, num_samples=5, num_chains=64, seed=0
        )
        calibration_p_value(found), calibration_table(found), plot_rank_histograms(found)

    :param build: from masks (item, *event_shape), boolean, True = seen, to an unconditioned model: a ``CoGenerator`` with a
        NumPyro version, whose views use these masks. All its views are simulated and observed.
    :param kernel: a kernel of `infer`.
    :param masks: by label, a mask of the event's shape or a function that draws one from a NumPy generator. Simulations use
        the labels in turn, with a new draw each; the labels are the strata of the result.
    :param num_simulations: simulated items, >= 1; about ten per bin and stratum are needed for some power.
    :param num_warmup, num_samples, num_chains, seed, items_at_once, progress: as in `infer`.
    :param num_ranks: L, the number of draws among which a truth is ranked, at most num_chains x num_samples. If it is well
        below num_chains (and below the weight ESS), all draws come from different chains.
    :param num_projections: number of directions of z; at most the dimension of z are used.
    :param inferred: builds the model that is inferred, if it differs from the simulated one, for example in its noise scale.
    :returns: a Dataset with ``rank`` (quantity, simulation) and the coordinate ``stratum`` (simulation); the attributes are the
        settings of the sampler. NaN draws count as smaller than the truth.
    :raises ValueError: for counts out of range, for masks that differ in shape, do not fit the model or hide nothing, and for
        an inferred model with latents that the simulated one does not have.
    :raises TypeError: for masks that are not boolean and for a model without items.
    """
    from cogen.inference import infer
    from cogen.inference.items import ItemModel, context_rows

    if num_simulations < 1 or num_projections < 0:
        raise ValueError(f"num_simulations={num_simulations}, num_projections={num_projections}: at least 1 and 0")
    if not 1 <= num_ranks <= num_chains * num_samples:
        raise ValueError(
            f"num_ranks={num_ranks}: {num_chains} chains x {num_samples} draws allow at most {num_chains * num_samples} ranks,"
            " and at least 1 is needed"
        )
    rng = np.random.default_rng(seed)
    strata, shown = _draw_masks(masks, num_simulations, rng)
    simulated = build(shown)
    if not isinstance(simulated, ItemModel):
        raise TypeError(f"build returned a {type(simulated).__name__}; it must return a model of items, such as a CoGenerator")
    if simulated.event_shape != shown.shape[1:]:
        raise ValueError(f"the masks have shape {shown.shape[1:]}; the model generates x of shape {simulated.event_shape}")
    sites = _draw_prior(build(shown[:1]), num_simulations, int(rng.integers(2**31)))
    context = context_rows(simulated, sites, np.arange(num_simulations))
    x = simulated.decode(sites["z"], **context)
    data = simulated.simulate(x, {**sites, **context}, seed=int(rng.integers(2**31)))
    truth = {name: value for name, value in {**sites, **context}.items() if name not in data}
    model = (simulated if inferred is None else inferred(shown)).condition(**data)
    posterior = infer(
        model,
        kernel,
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=num_chains,
        seed=seed,
        items_at_once=items_at_once,
        progress=progress,
    )

    picks = pick_draws(posterior, num_ranks, rng)
    variables = group(posterior, "posterior").data_vars
    unknown = [str(name) for name in variables if name not in truth]
    if unknown:
        raise ValueError(
            f"the inferred model has the latents {unknown}, which the simulated one, with {sorted(truth)}, does not have: they"
            " have no truth to rank"
        )
    draws = {str(name): take_draws(values, picks) for name, values in variables.items()}  # (num_ranks, simulation, ...)
    quantities = _quantities(model, draws, truth, x, shown, num_projections, rng)
    ranks = {name: _ranks(among, true, rng) for name, (among, true) in quantities.items()}
    weighted = statistic(posterior, "log_weight") is not None
    return xr.Dataset(
        {"rank": (("quantity", "simulation"), np.stack(list(ranks.values())))},
        {"quantity": list(ranks), "simulation": np.arange(num_simulations), "stratum": ("simulation", strata)},
        {
            "kernel": str(attributes(posterior).get("kernel", type(kernel).__name__)),
            "num_ranks": num_ranks,
            "num_simulations": num_simulations,
            "num_chains": num_chains,
            "num_warmup": num_warmup,
            "num_samples": num_samples,
            "seed": seed,
            "weight_ess": float(weight_ess(posterior).median()) if weighted else float(num_chains),
            "adapted": int(attributes(posterior).get("adapted", 0)),
        },
    )


def _draw_masks(masks: Masks, count: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """The label of every simulation, and its mask: (simulation, *event_shape)."""
    if not masks:
        raise ValueError("masks is empty: give at least one, as in masks={'top': views.half(shape, 'top')}")
    if POOLED in masks:
        raise ValueError(f"the label {POOLED!r} is reserved for all masks together: rename this mask")
    labels = [label for label, _ in zip(np.resize(list(masks), count), range(count), strict=True)]
    drawn: list[np.ndarray] = []
    for label in labels:
        made: Any = masks[str(label)]
        mask = np.asarray(made(rng) if callable(made) else made)
        if mask.dtype != bool:
            raise TypeError(f"mask {str(label)!r} is {mask.dtype}; it must be boolean, True = seen")
        if mask.all():
            raise ValueError(f"mask {str(label)!r} hides nothing: hide at least one pixel, since a hidden pixel is ranked")
        if drawn and mask.shape != drawn[0].shape:
            raise ValueError(
                f"mask {str(label)!r} has shape {mask.shape}, mask {str(labels[0])!r} has {drawn[0].shape}: all masks must have"
                " the same shape"
            )
        drawn.append(mask)
    return [str(label) for label in labels], np.stack(drawn)


def _draw_prior(one: ItemModel, count: int, seed: int) -> dict[str, np.ndarray]:
    """``count`` draws of every random site of an unconditioned model of one item: (count, ...)."""
    import jax
    from numpyro import handlers

    from cogen.inference.seeds import run_key

    def draw(key: Any) -> dict[str, Any]:
        trace = handlers.trace(handlers.seed(one.numpyro, key)).get_trace()
        return {name: site["value"][0] for name, site in trace.items() if site["type"] == "sample"}

    keys = jax.random.split(run_key(seed), count)
    return {name: np.asarray(value) for name, value in jax.jit(jax.vmap(draw))(keys).items()}


def log_likelihood_of(model: ItemModel) -> Callable[..., np.ndarray]:
    """A function for log p(y | z) of all items, (item,), from the values of the latents, (item, ...) each, and optionally from
    other data in the form of ``model.item_data``."""
    import jax
    import jax.numpy as jnp
    from numpyro import handlers

    from cogen.inference.items import items_apart

    @jax.jit
    def of(sites: dict[str, Any], data: dict[str, Any]) -> Any:
        seeded = handlers.seed(model.numpyro, jax.random.key(0))
        with items_apart():
            trace = handlers.trace(handlers.substitute(seeded, data=sites)).get_trace(data)
        observed = [site for site in trace.values() if site["type"] == "sample" and site["is_observed"]]
        terms = [site["fn"].log_prob(site["value"]) * (1.0 if site["scale"] is None else site["scale"]) for site in observed]
        return sum(term.reshape(term.shape[0], -1).sum(axis=1) for term in terms)

    own = jax.tree.map(jnp.asarray, dict(model.item_data))
    return lambda sites, data=None: np.asarray(of(dict(sites), own if data is None else dict(data)))


def _quantities(
    model: ItemModel,
    draws: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
    x: np.ndarray,
    shown: np.ndarray,
    num_projections: int,
    rng: np.random.Generator,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Every quantity, of the draws (num_ranks, simulation) and of the truth (simulation,)."""
    from cogen.inference.items import context_rows

    count = len(x)
    log_likelihood = log_likelihood_of(model)
    each = [{name: value[k] for name, value in draws.items()} for k in range(len(draws["z"]))]
    among = np.stack([log_likelihood(one) for one in each])
    found = {"log_likelihood": (among, log_likelihood({name: truth[name] for name in draws}))}
    size = truth["z"].shape[-1]
    directions = np.linalg.qr(rng.standard_normal((size, min(num_projections, size))))[0]
    for k, direction in enumerate(directions.T):
        found[f"projection_{k}"] = (draws["z"] @ direction, truth["z"] @ direction)
    hidden = ~shown.reshape(count, -1)
    pixel = np.array([rng.choice(np.flatnonzero(row)) for row in hidden])
    at = (np.arange(count), pixel)
    completed = np.stack([model.decode(o["z"], **context_rows(model, o, at[0])).reshape(count, -1)[at] for o in each])
    found["hidden_pixel"] = (completed, x.reshape(count, -1)[at])
    for name, value in draws.items():
        if name != "z" and truth[name].size == count:
            found[name] = (value.reshape(len(value), count), truth[name].reshape(count))
    return found


def _ranks(draws: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ranks (simulation,) of the truth (simulation,) among draws (num_ranks, simulation), with ties broken at random."""
    below = ((draws < truth) | np.isnan(draws)).sum(axis=0)
    return below + rng.integers(0, (draws == truth).sum(axis=0) + 1)


def _strata(calibration: xr.Dataset) -> dict[str, np.ndarray]:
    """The simulations of all masks together and, if there are several labels, of each: boolean (simulation,)."""
    label = calibration["stratum"].values
    found = {POOLED: np.ones(label.shape, dtype=bool)}
    names = list(dict.fromkeys(label.tolist()))
    return found if len(names) == 1 else {**found, **{name: label == name for name in names}}


def stratum_ranks(calibration: xr.Dataset, stratum: str = POOLED) -> xr.DataArray:
    """The ranks (quantity, simulation) of one stratum, or of all.

    :raises ValueError: for an unknown stratum.
    """
    strata = _strata(calibration)
    if stratum not in strata:
        raise ValueError(f"there is no stratum {stratum!r}; the calibration has {', '.join(strata)}")
    return calibration["rank"].isel(simulation=np.flatnonzero(strata[stratum]))


def calibration_table(calibration: xr.Dataset) -> pd.DataFrame:
    """The p-values of the chi-squared test and of the ECDF-envelope test, with a row for every stratum and quantity.

    :param calibration: what `simulation_based_calibration` returned.
    :returns: a DataFrame with the columns ``simulations``; ``mean_rank``, as a share of its maximum (0.5 if calibrated; larger
        if the truth exceeds the draws); ``chi_squared`` and ``envelope`` (see `rank_uniformity`; the first is NaN if there are
        too few simulations for two bins). The p-values are not corrected for their number.
    """
    import pandas as pd

    rows, most = {}, int(calibration.attrs["num_ranks"])
    for stratum in _strata(calibration):
        ranks = stratum_ranks(calibration, stratum)
        for quantity, values in zip(ranks["quantity"].values, ranks.values, strict=True):
            rows[stratum, str(quantity)] = {
                "simulations": values.size,
                "mean_rank": values.mean() / most,
                "chi_squared": chi_squared_p_value(values, most),
                "envelope": envelope_p_value(values, most),
            }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(list(rows), names=["stratum", "quantity"])
    return table.astype({"simulations": int})


def calibration_p_value(calibration: xr.Dataset) -> float:
    """One p-value for the sampler: the smallest of the table times their number (Bonferroni), at most 1.

    For an exact sampler of independent draws it is below a with probability a at most.
    """
    p = calibration_table(calibration)[["chi_squared", "envelope"]].values.ravel()
    p = p[~np.isnan(p)]
    return float(min(1.0, p.size * p.min()))

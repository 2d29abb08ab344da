"""The problems of a run, one sentence each: the items, the value, the threshold and the remedy.

All thresholds are defined here, with their reasons.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import gammaincinv, logsumexp

from cogen.diagnostics.certificate import GROUP, LARGE_GAP, less_likely, misfits, not_arrived, smaller_tail
from cogen.diagnostics.context_probabilities import context_probabilities
from cogen.diagnostics.evidence import has_evidence
from cogen.diagnostics.groups import attributes, group, has_group, is_tuned, num_populations, parameters, statistic
from cogen.diagnostics.predictive_checks import can_check, predictive_checks, tail_probability
from cogen.diagnostics.report import has_populations, item_summary
from cogen.diagnostics.weights import chain_weights, draw_weights, pareto_k_of_ratios, weighted_mean
from cogen.inference.signatures import ArvizObject

if TYPE_CHECKING:
    import pandas as pd

FEW_DRAWS = 100  # effective draws: standard error of a tenth of the posterior sd (Vehtari et al. 2021: 100 per chain)
RHAT_GOOD, RHAT_BAD = 1.01, 1.05  # Vehtari et al. (2021); above the second, a longer run alone is unlikely to help
FEW_CHAINS = 0.1  # least share of effective chains, by weight
ONE_CHAIN = 0.9  # share of the weight on a single chain
EVIDENCE_SPREAD = 1.0  # nats between populations, above which the delta-method standard error is unreliable
CLASS_ERROR = 0.1  # standard error of the probability of an unknown class, above which the most probable class may be another
LOW_ACCEPTANCE, HIGH_ACCEPTANCE = 0.4, 0.98  # around the 0.65 to 0.8 recommended for HMC
PARETO_BAD = 0.7  # Pareto k of density ratios, above which the guide's tails are too light (Vehtari et al. 2024)
GUIDE_GAP = 0.5  # nats of KL(guide || posterior): a mean that is off by one standard deviation has half a nat
SMALL_GAP = 0.1  # nats below which the ratios are nearly equal, so that their Pareto k is not informative
MISFIT = 2.0  # RMS residual in noise scales: one is expected, and independent noise never reaches two
PIXEL_MISFIT = 5.0  # the same for a learned pixel noise; real digits that the generator fits well reach three
LARGE_RISE = 0.25  # conditional ESS (share of chains) of a step in beta, below which few chains carry its weights
DIVERGING = 0.01  # share of diverging transitions
DIFFERENT_SCALES = 100.0  # ratio of standard deviations, above which one step size does not serve all latents
CHANCE = 0.01  # false alarm rate per item, of nested R-hat and of the predictive checks of a view


def diagnose(posterior: ArvizObject, *, draws_alone: bool = False) -> list[str]:
    """List the problems of a run, one sentence each; an empty list when none were found.

    :param posterior: what `infer` returned.
    :param draws_alone: leave out problems of the evidence and of the cost, which do not affect the draws.
    """
    table = item_summary(posterior)
    found: list[str] = []
    left_out = (_evidence_kind, _spread, _needless) if draws_alone else ()
    for check in (
        _end_points,
        _masks,
        _nothing,
        _misfit,
        _predictions,
        _impossible,
        _evidence_kind,
        _guide,
        _ancestors,
        _weights,
        _spread,
        _classes,
        _populations,
        _rhat,
        _draws,
        _divergences,
        _nonfinite,
        _rises,
        _acceptance,
        _needless,
        _certificate,
    ):
        if check not in left_out:
            found += check(posterior, table)
    return _scales(posterior, table) + found if found else found


def _are_end_points(posterior: ArvizObject) -> bool:
    return bool(int(attributes(posterior).get("end_points", 0)))


def _end_points(posterior: ArvizObject, table: pd.DataFrame) -> list[str]:
    if not _are_end_points(posterior):
        return []
    return [
        "the draws are end points of learned descents. They depend on the condition but not on the observed data, so their"
        " distance from the posterior is unknown. To sample the posterior, anneal from them (EndpointGuide; --guide predictor)."
    ]


def _name(table: pd.DataFrame, wrong: np.ndarray) -> str:
    """'items 0, 3 and 5', 'all 16 items', or 'the run' for a general model."""
    labels = [str(label) for label in table.index[wrong]]
    if list(table.index) == ["all"]:
        return "the run"
    if len(labels) == len(table) and len(labels) > 1:
        return f"all {len(labels)} items"
    if len(labels) == 1:
        return f"item {labels[0]}"
    shown = labels[:8]
    if len(labels) > 8:
        return f"{len(labels)} of {len(table)} items (first {', '.join(shown)})"
    return f"items {', '.join(shown[:-1])} and {shown[-1]}"


def _sentence(
    table: pd.DataFrame,
    wrong: Any,
    values: Any,
    worst: Callable[[np.ndarray], Any],
    what: str,
    remedy: str,
    form: str = ".3g",
) -> list[str]:
    """One sentence for all wrong items, or none. `what` may contain {value}, the worst of their values."""
    wrong = np.asarray(wrong, dtype=bool)
    if not wrong.any():
        return []
    value = format(float(worst(np.asarray(values, dtype=float)[wrong])), form)
    at_worst = "at worst " if wrong.sum() > 1 else ""
    return [f"{_name(table, wrong)}: {what.format(value=at_worst + value)}. {remedy}."]


def _masks(posterior: ArvizObject, table: pd.DataFrame) -> list[str]:
    if not has_group(posterior, "constant_data"):
        return []
    found = []
    views = group(posterior, "observed_data").data_vars if has_group(posterior, "observed_data") else ()
    for name, mask in group(posterior, "constant_data").data_vars.items():
        view = str(name).removesuffix("_mask")
        if view == name or view not in views or "item" not in mask.dims:
            continue
        shown = mask.astype(bool).transpose("item", ...).values.reshape(mask.sizes["item"], -1).mean(axis=1)
        everything = f"the mask of view '{view}' shows all entries, so there is nothing to complete"
        found += _sentence(table, shown == 1, shown, np.max, everything, "Hide some entries")
        nothing = f"the mask of view '{view}' hides all entries, so this view does not inform the posterior"
        found += _sentence(table, shown == 0, shown, np.max, nothing, "Show some entries")
    return found


def _evidence_kind(posterior: ArvizObject, table: pd.DataFrame) -> list[str]:
    if not (has_evidence(posterior) and int(attributes(posterior).get("adapted", 0))):
        return []
    return [
        "the step size or the inverse temperatures adapted during the annealing (adapted = 1), so the weights and the evidence"
        " may be biased. Run again with a pilot run (pilot=16), after which they are fixed."
    ]


def _nothing(posterior: ArvizObject, table: pd.DataFrame) -> list[str]:
    """Items that have no chain of positive weight."""
    share = np.broadcast_to(chain_weights(posterior).sum("chain", skipna=False).values, (len(table),))
    what = "no chain has a positive weight, so the posterior means are NaN and the log evidence is not finite"
    remedy = "Use more chains, better initial positions (initial=), or a likelihood that is not zero almost everywhere"
    return _sentence(table, np.isnan(share), table["log_evidence"].values, np.min, what, remedy)


def _impossible(posterior: ArvizObject, table: pd.DataFrame) -> list[str]:
    """Draws of positive weight where the density is zero."""
    recorded = statistic(posterior, "lp")
    if recorded is None:
        return []
    share = weighted_mean(recorded == -np.inf, draw_weights(posterior)).values
    share = np.broadcast_to(share, (len(table),))
    what = "{value} of the draws have zero posterior density (they violate a hard constraint), so they are not posterior draws"
    remedy = "Use a longer warm-up, better initial positions (initial=), or AnnealedHMC, which gives such draws zero weight"
    return _sentence(table, share > 0, share, np.max, what, remedy, ".1%")


def _guide(posterior: ArvizObject, table: pd.DataFrame) -> list[str]:
    """Whether a fitted guide approximates the posterior, by the log ratios log p(z, y) - log q(z) of its draws."""
    recorded = statistic(posterior, "log_ratio")
    if recorded is None:
        return []
    log_ratio = recorded.values.reshape(recorded.shape[0] * recorded.shape[1], -1)
    log_ratio = np.broadcast_to(log_ratio, (len(log_ratio), len(table)))
    remedy = (
        "Take more steps (num_warmup) or change the learning rate. If that does not help, use a more flexible guide, or anneal"
        " from this one (GuideStart)"
    )
    with np.errstate(invalid="ignore"):
        gap = logsumexp(log_ratio, axis=0) - np.log(len(log_ratio)) - log_ratio.mean(axis=0)
    ks = np.broadcast_to(pareto_k_of_ratios(posterior).values, (len(table),))
    heavy = (ks > PARETO_BAD) & ~(gap < SMALL_GAP)
    what = f"the guide misses parts of the posterior: Pareto k of its density ratios is {{value}}, above {PARETO_BAD}"
    found = _sentence(table, heavy, ks, np.max, what, remedy, ".2f")
    far = np.isnan(gap) | (gap > GUIDE_GAP)
    what = f"the guide is far from the posterior: the estimated KL divergence is {{value}} nats, above {GUIDE_GAP:g}"
    return found + _sentence(table, far & ~heavy, gap, np.max, what, remedy, ".2f")


def _ancestors(posterior: ArvizObject, table: pd.DataFrame) -> list[str]:
    few = table["ancestors"].values
    what = "all chains descend from one ancestor, so they represent one mode at most"
    remedy = "Use more chains, more temperatures, a larger noise scale, or a lower resampling threshold"
    return _sentence(table, (few == 1) & (table["chains"].values > 1), few, np.min, what, remedy)


def _weights(posterior: ArvizObject, table: pd.DataFrame) -> list[str]:
    if statistic(posterior, "log_weight") is None or int(table["chains"].iloc[0]) < 2:
        return []
    heaviest = np.broadcast_to(chain_weights(posterior).max("chain").values, (len(table),))
    single = heaviest > ONE_CHAIN
    remedy = "Use more temperatures (num_warmup), or resample during the annealing"
    one = f"one chain has {{value}} of the weight, above {ONE_CHAIN:.0%}, so the posterior rests on this chain"
    found = _sentence(table, single, heaviest, np.max, one, remedy, ".1%")
    share = table["weight_ess"].values / table["chains"].values
    few = f"the weight ESS is {{value}} of the number of chains, below {FEW_CHAINS:.0%}"
    return found + _sentence(table, (share < FEW_CHAINS) & ~single, share, np.min, few, remedy, ".1%")


def nested_rhat_threshold(posterior: ArvizObject) -> float:
    """The value that nested R-hat of independent chains exceeds, for the worst latent of an item, with probability `CHANCE`.

    Each of K populations has M chains, conservatively assumed not to move between draws. For converged chains between / within
    is then about chi^2_(K-1) / ((K - 1) M) for every latent, and the largest of D latents exceeds the 1 - CHANCE / D quantile
    with probability CHANCE at most. The usual allowance of 1.01 squared is added.
    """
    populations = num_populations(posterior)
    sampled = parameters(posterior)
    latents = sum(int(v.size / v.sizes["chain"] / v.sizes["draw"] / v.sizes.get("item", 1)) for v in sampled.data_vars.values())
    freedom = max(populations - 1, 1)
    quantile = 2 * gammaincinv(freedom / 2, 1 - CHANCE / max(latents, 1))
    chains = max(sampled.sizes["chain"] / populations, 1)
    return float(np.sqrt(RHAT_GOOD**2 + quantile / (freedom * chains)))


_MORE_OF_POPULATIONS = "Use more chains per population, more temperatures, or more draws at beta = 1"


def _spread(posterior: ArvizObject, table: pd.DataFrame) -> list[str]:
    spread = table["log_evidence_spread"].values
    what = (
        f"the log evidences of the populations have a standard deviation of {{value}} nats, above {EVIDENCE_SPREAD:g}, so the"
        " standard error of the evidence is unreliable"
    )
    return _sentence(table, spread > EVIDENCE_SPREAD, spread, np.max, what, _MORE_OF_POPULATIONS)


def _classes(posterior: ArvizObject, table: pd.DataFrame) -> list[str]:
    """Unknown classes with an uncertain probability."""
    if statistic(posterior, "context_log_evidence") is None:
        return []
    errors = [values.values for name, values in context_probabilities(posterior).data_vars.items() if str(name).endswith("_se")]
    largest = np.max([np.nan_to_num(each).max(axis=1) for each in errors], axis=0)
    what = f"the standard error of the probability of a class is {{value}}, above {CLASS_ERROR:g}"
    return _sentence(
        table, largest > CLASS_ERROR, largest, np.max, what, "Use more chains, or more temperatures (num_warmup)", ".2f"
    )


def _populations(posterior: ArvizObject, table: pd.DataFrame) -> list[str]:
    remedy, found = _MORE_OF_POPULATIONS, []
    if has_populations(posterior):
        nested = table["nested_rhat_max"].values
        threshold = nested_rhat_threshold(posterior)
        single = np.isinf(nested) & ~(table["ancestors"].values < 2)  # a single ancestor is reported by `_ancestors`
        one = "all chains of positive weight descend from one population, so nested R-hat cannot be computed"
        found += _sentence(table, single, nested, np.max, one, remedy)
        differ = (
            f"the populations disagree: nested R-hat is {{value}}, above {threshold:.3f} (the value that independent chains"
            f" exceed for one item in {1 / CHANCE:.0f})"
        )
        found += _sentence(table, np.isfinite(nested) & (nested > threshold), nested, np.max, differ, remedy, ".3f")
    return found


def _rhat(posterior: ArvizObject, table: pd.DataFrame) -> list[str]:
    if "rhat_max" not in table or statistic(posterior, "log_weight") is not None:
        return []
    if _are_end_points(posterior) or is_tuned(posterior):  # independent draws, and few per chain
        return []
    worst = table["rhat_max"].values
    bad, mild = worst > RHAT_BAD, (worst > RHAT_GOOD) & (worst <= RHAT_BAD)
    remedy = "Run longer, or anneal (AnnealedHMC) if the posterior has several modes"
    if str(attributes(posterior).get("kernel", "")).endswith("AnnealedHMC"):  # unweighted: all chains count the same
        remedy = "Each chain stays in the mode where its annealing ended. Use more temperatures, or weights (weighted=True)"
    what = f"the chains disagree: R-hat is {{value}}, above {RHAT_BAD}"
    found = _sentence(table, bad, worst, np.max, what, remedy, ".3f")
    what = f"the chains have not fully mixed: R-hat is {{value}}, above {RHAT_GOOD}"
    return found + _sentence(table, mild, worst, np.max, what, "Run longer", ".3f")


def _scales(posterior: ArvizObject, table: pd.DataFrame) -> list[str]:
    """Latents of very different scales, which may cause the other problems, since one step size serves all latents."""
    spread = {}
    for name, values in parameters(posterior).data_vars.items():
        by_item = values.values.reshape(*values.shape[:2], *([len(table)] if "item" in values.dims else [1]), -1)
        spread[str(name)] = by_item.std(axis=(0, 1))  # (item, coordinate)
    every = np.concatenate(list(spread.values()), axis=1)
    positive = np.where(every > 0, every, np.nan)
    if every.shape[1] < 2 or np.isnan(positive).all():
        return []
    names = [name for name, values in spread.items() for _ in range(values.shape[1])]
    ratio = np.nanmax(positive, axis=1) / np.nanmin(positive, axis=1)
    worst = int(np.nanargmax(ratio))
    widest, narrowest = (names[int(f(positive[worst]))] for f in (np.nanargmax, np.nanargmin))
    what = f"the latents differ in scale: the standard deviation of '{widest}' is {{value}} times that of '{narrowest}'"
    remedy = "Rescale them in the model, or use a mass matrix (inverse_mass=; NUTS adapts one)"
    return _sentence(table, ratio > DIFFERENT_SCALES, ratio, np.max, what, remedy, ".2g")


def _draws(posterior: ArvizObject, table: pd.DataFrame) -> list[str]:
    stepping = attributes(posterior).get("evidence_kind", "") == "stepping-stone"  # its chains have fixed targets
    if not stepping and (has_populations(posterior) or statistic(posterior, "log_weight") is not None):
        return []  # annealed chains are short by design; weights, ancestors and populations are checked instead
    ess = table["ess_min"].values
    what = f"the smallest effective sample size of a latent is {{value}}, below {FEW_DRAWS}"
    return _sentence(table, ess < FEW_DRAWS, ess, np.min, what, "Draw more samples", ".0f")


def _divergences(posterior: ArvizObject, table: pd.DataFrame) -> list[str]:
    sampled = group(posterior, "posterior").sizes
    counts = table["divergences"].values
    share = counts / (sampled["chain"] * sampled["draw"])
    what = f"{{value}} of the transitions diverged, above {DIVERGING:.0%}"
    return _sentence(
        table, (share > DIVERGING) & (counts > 1), share, np.max, what, "Use a smaller step size or a larger noise scale", ".1%"
    )


def _nonfinite(posterior: ArvizObject, table: pd.DataFrame) -> list[str]:
    counted = statistic(posterior, "nonfinite")
    if counted is None:
        return []
    counts = np.broadcast_to(counted.isel(draw=-1).sum("chain").values, (len(table),))
    what = "{value} trajectories had a non-finite gradient or log density and were rejected"
    remedy = "Check the generator and the likelihood for overflow, or use a smaller step size"
    return _sentence(table, counts > 0, counts, np.max, what, remedy, ".0f")


def _rises(posterior: ArvizObject, table: pd.DataFrame) -> list[str]:
    path = group(posterior, "warmup_sample_stats") if has_group(posterior, "warmup_sample_stats") else {}
    if "conditional_ess" not in path:
        return []
    least = np.broadcast_to(path["conditional_ess"].min("draw").values, (len(table),))
    what = f"one step in beta left {{value}} of the chains effective (conditional ESS), below {LARGE_RISE:.0%}"
    remedy = "Use more temperatures (num_warmup): an adaptive schedule that runs out of them raises beta to 1 in its last step"
    return _sentence(table, least < LARGE_RISE, least, np.min, what, remedy, ".0%")


def _acceptance(posterior: ArvizObject, table: pd.DataFrame) -> list[str]:
    rate = table["acceptance_rate"].values
    low = f"the acceptance rate is {{value}}, below {LOW_ACCEPTANCE}: most proposals are rejected"
    return _sentence(table, rate < LOW_ACCEPTANCE, rate, np.min, low, "Use a smaller step size", ".2f")


def _needless(posterior: ArvizObject, table: pd.DataFrame) -> list[str]:
    rate = table["acceptance_rate"].values
    high = f"the acceptance rate is {{value}}, above {HIGH_ACCEPTANCE}: the step size is smaller than needed"
    needless = (rate > HIGH_ACCEPTANCE) & (not is_tuned(posterior))  # tuned step sizes are shared by all items
    return _sentence(table, needless, rate, np.max, high, "Use a larger step size", ".2f")


def _misfit(posterior: ArvizObject, table: pd.DataFrame) -> list[str]:
    """Data far from the generator's output at the draws; `_predictions` is the better check where it is possible."""
    if can_check(posterior) or not has_group(posterior, "sample_stats"):
        return []
    found = []
    learned = str(attributes(posterior).get("learned_noise", "")).split(", ")
    for name, recorded in group(posterior, "sample_stats").data_vars.items():
        if not str(name).endswith("_misfit"):
            continue
        view = str(name).removesuffix("_misfit")
        limit = PIXEL_MISFIT if view in learned else MISFIT
        values = np.sqrt(weighted_mean(recorded**2, draw_weights(posterior)).values)
        what = (
            f"the RMS residual of the seen part of view '{view}' is {{value}} noise scales, above {limit:g}: the draws do not"
            " fit the data"
        )
        remedy = "Check the range of the data and the generator. If both are right, use a larger noise scale"
        found += _sentence(table, values > limit, values, np.max, what, remedy, ".1f")
    return found


def _predictions(posterior: ArvizObject, table: pd.DataFrame) -> list[str]:
    """Posterior predictive checks of the seen part, if the run stored replicates (``keep_x=True``)."""
    if not can_check(posterior):
        return []
    checks = predictive_checks(posterior)
    tail, p_value = tail_probability(checks), checks["p_value"]
    meanings = {
        "rms": (
            "the residuals are larger than the noise explains",
            "Use a larger noise scale, or a better generator",
            "the residuals are smaller than the noise predicts",
            "Use a smaller noise scale, unless it was chosen to cover the generator's errors",
        ),
        "largest": (
            "the largest residual is larger than the noise explains",
            "Look for entries that the generator cannot produce, or use a likelihood with heavier tails",
            "the largest residual is smaller than the noise predicts",
            "Use a smaller noise scale, unless it was chosen to cover the generator's errors",
        ),
        "neighbours": (
            "the residuals of neighbouring entries are positively correlated, unlike independent noise",
            "The generator cannot produce these data, so intervals are too narrow. Use a better one, or a larger noise scale",
            "the residuals of neighbouring entries are negatively correlated, unlike independent noise",
            "Check the data of this view: the noise model does not describe them",
        ),
    }
    found = []
    for view in checks["view"].values:
        p, two_sided = p_value.sel(view=view).values, tail.sel(view=view).values  # (statistic, item)
        for side in (0, 2):
            alarm = (two_sided < CHANCE / len(meanings)) & ((p < 0.5) if side == 0 else (p > 0.5))
            reported = np.zeros(len(table), dtype=bool)
            for name, wrong, values in zip(checks["statistic"].values, alarm, two_sided, strict=True):
                # One sentence per item and side: the first statistic that alarms is reported, the others are not.
                meaning, remedy = meanings[str(name)][side : side + 2]
                what = f"in the seen part of view '{view}' {meaning} (two-sided posterior predictive p = {{value}})"
                found += _sentence(table, wrong & ~reported, values, np.min, what, remedy)
                reported |= wrong
    return found


def _certificate(posterior: ArvizObject, table: pd.DataFrame) -> list[str]:
    """The verdicts of the certificate, if one is stored with the run."""
    if not has_group(posterior, GROUP):
        return []
    found = group(posterior, GROUP)
    wrong, less, tails = misfits(found), less_likely(found), smaller_tail(found)
    what = (
        "the generator does not fit: the seen part is {side} likely than data simulated from the model (certificate, two-sided"
        " p = {{value}})"
    )
    remedy = "Completions are overconfident. Use a better generator, or a larger noise scale"
    sentences = _sentence(table, wrong & less, tails, np.min, what.format(side="less"), remedy)
    remedy = "Use a smaller noise scale, unless it was chosen to cover the generator's errors"
    sentences += _sentence(table, wrong & ~less, tails, np.min, what.format(side="more"), remedy)
    what = (
        "the chains have not converged: the bounds of the log evidence of simulated neighbours differ by {value} nats, more"
        f" than {LARGE_GAP:g} and its sampling error (certificate)"
    )
    remedy = "Use more temperatures (num_warmup) or more chains"
    return sentences + _sentence(table, not_arrived(found), found["gap"].values, np.max, what, remedy)

"""What looks wrong with a run, in sentences: which items, which value, which threshold, and what to do.

An unremarkable run has none. The thresholds stand here, in one place, with their reasons.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import gammaincinv, logsumexp

from cogen.diagnostics.certificate import GROUP, LARGE_GAP, less_likely, misfits, not_arrived, smaller_tail
from cogen.diagnostics.evidence import has_evidence
from cogen.diagnostics.groups import attributes, group, has_group, num_populations, parameters, statistic
from cogen.diagnostics.predictive_checks import can_check, predictive_checks, tail_probability
from cogen.diagnostics.report import has_populations, item_summary
from cogen.diagnostics.weights import chain_weights, draw_weights, pareto_k_of_ratios, weighted_mean

if TYPE_CHECKING:
    import pandas as pd

FEW_DRAWS = 100  # effective draws: a standard error of a tenth of the posterior's sd (Vehtari et al. 2021 ask 100 a chain)
RHAT_GOOD, RHAT_BAD = 1.01, 1.05  # Vehtari et al. (2021), and where the disagreement is beyond a lack of patience
FEW_CHAINS = 0.1  # share of the chains that must be effective by weight
ONE_CHAIN = 0.9  # share of the weight on a single chain
EVIDENCE_SPREAD = 1.0  # nats between populations: beyond it the delta-method error means nothing
LOW_ACCEPTANCE, HIGH_ACCEPTANCE = 0.4, 0.98  # around the 0.65 to 0.8 that HMC wants
PARETO_BAD = 0.7  # above it importance ratios say that the guide's tails are too light (Vehtari et al. 2024)
GUIDE_GAP = 0.5  # nats of KL(guide || posterior): a mean that is off by one standard deviation has half a nat
SMALL_GAP = 0.1  # nats below which the ratios are so equal that their tail says nothing
MISFIT = 2.0  # noise scales of RMS residual: one is what the noise explains, and independent noise never has two
LARGE_RISE = 0.25  # conditional ESS of a step in beta below which its weights rest on few chains
DIVERGING = 0.01  # share of diverging transitions beyond which it is more than a stray one
DIFFERENT_SCALES = 100.0  # ratio of standard deviations that a single step size serves badly
CHANCE = 0.01  # false alarms of the nested R-hat, and of the predictive checks of a view, per item


def diagnose(posterior: Any, *, draws_alone: bool = False) -> list[str]:
    """Everything suspicious about a run, a sentence each; an empty list when nothing looks wrong.

    :param draws_alone: leave out what concerns the evidence and the cost alone, for those who use the draws.
    """
    table = item_summary(posterior)
    found: list[str] = []
    left_out = (_evidence_kind, _spread, _needless) if draws_alone else ()
    for check in (
        _end_points,
        _masks,
        _nothing,
        _impossible,
        _evidence_kind,
        _guide,
        _ancestors,
        _weights,
        _spread,
        _populations,
        _rhat,
        _draws,
        _divergences,
        _nonfinite,
        _rises,
        _acceptance,
        _needless,
        _misfit,
        _predictions,
        _certificate,
    ):
        if check not in left_out:
            found += check(posterior, table)
    return _scales(posterior, table) + found if found else found


def _are_end_points(posterior: Any) -> bool:
    return bool(int(attributes(posterior).get("end_points", 0)))


def _is_tuned(posterior: Any) -> bool:
    """Whether `cogen tune` chose the step sizes and the length of its annealing. Each chain is then an annealing of its own,
    and stays in the mode where that ends."""
    return bool(int(attributes(posterior).get("tuned", 0)))


def _end_points(posterior: Any, table: pd.DataFrame) -> list[str]:
    if not _are_end_points(posterior):
        return []
    return [
        "these are end points of learned descents, which look at the condition and not at what is seen: nothing says how far"
        " they lie from the posterior. To have draws of it, anneal from them (EndpointGuide; --guide predictor)."
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
    """One sentence for all wrong items, or none. `what` takes {value}, the worst of their values."""
    wrong = np.asarray(wrong, dtype=bool)
    if not wrong.any():
        return []
    value = format(float(worst(np.asarray(values, dtype=float)[wrong])), form)
    at_worst = "at worst " if wrong.sum() > 1 else ""
    return [f"{_name(table, wrong)}: {at_worst}{what.format(value=value)}. {remedy}."]


def _masks(posterior: Any, table: pd.DataFrame) -> list[str]:
    if not has_group(posterior, "constant_data"):
        return []
    found = []
    views = group(posterior, "observed_data").data_vars if has_group(posterior, "observed_data") else ()
    for name, mask in group(posterior, "constant_data").data_vars.items():
        view = str(name).removesuffix("_mask")
        if view == name or view not in views or "item" not in mask.dims:
            continue
        shown = mask.astype(bool).transpose("item", ...).values.reshape(mask.sizes["item"], -1).mean(axis=1)
        everything = f"the mask of view '{view}' shows everything ({{value}} of the entries), so nothing is left to complete"
        found += _sentence(table, shown == 1, shown, np.max, everything, "Hide some entries", ".0%")
        nothing = f"the mask of view '{view}' hides everything ({{value}} of the entries seen), so the posterior is the prior"
        found += _sentence(table, shown == 0, shown, np.max, nothing, "Show some entries", ".0%")
    return found


def _evidence_kind(posterior: Any, table: pd.DataFrame) -> list[str]:
    if not (has_evidence(posterior) and int(attributes(posterior).get("adapted", 0))):
        return []
    return [
        "the evidence comes from a run whose step size or temperatures adapted during the annealing (adapted = 1, want "
        "0), so weights and evidence may be biased. Run again with a pilot (pilot=16), which freezes them."
    ]


def _nothing(posterior: Any, table: pd.DataFrame) -> list[str]:
    """Items without any chain of positive weight."""
    share = np.broadcast_to(chain_weights(posterior).sum("chain", skipna=False).values, (len(table),))
    what = "no chain has a positive weight, so nothing was inferred: its means are NaN, its log evidence {value}"
    remedy = "Use more chains, a start nearer to the data (initial=), or a likelihood that is not zero almost everywhere"
    return _sentence(table, np.isnan(share), table["log_evidence"].values, np.min, what, remedy)


def _impossible(posterior: Any, table: pd.DataFrame) -> list[str]:
    """Draws that count and stand where the density is zero."""
    recorded = statistic(posterior, "lp")
    if recorded is None:
        return []
    share = weighted_mean(recorded == -np.inf, draw_weights(posterior)).values
    share = np.broadcast_to(share, (len(table),))
    what = "{value} of the draws stand where the density is zero, behind a hard constraint: they are not the posterior's"
    remedy = "Take a longer warm-up, a start nearer to the data (initial=), or AnnealedHMC, which gives them no weight"
    return _sentence(table, share > 0, share, np.max, what, remedy, ".1%")


def _guide(posterior: Any, table: pd.DataFrame) -> list[str]:
    """Whether draws of a fitted guide stand for the posterior, by their log ratios log p(z, y) - log q(z)."""
    recorded = statistic(posterior, "log_ratio")
    if recorded is None:
        return []
    log_ratio = recorded.values.reshape(recorded.shape[0] * recorded.shape[1], -1)
    log_ratio = np.broadcast_to(log_ratio, (len(log_ratio), len(table)))
    remedy = (
        "Take more steps (num_warmup) or another learning rate; if that does not help, the family does not hold this posterior:"
        " take a richer guide, or anneal from it (GuideStart)"
    )
    with np.errstate(invalid="ignore"):
        gap = logsumexp(log_ratio, axis=0) - np.log(len(log_ratio)) - log_ratio.mean(axis=0)
    ks = np.broadcast_to(pareto_k_of_ratios(posterior).values, (len(table),))
    heavy = (ks > PARETO_BAD) & ~(gap < SMALL_GAP)
    what = f"the guide misses parts of the posterior: Pareto k {{value}} of its density ratios, above {PARETO_BAD}"
    found = _sentence(table, heavy, ks, np.max, what, remedy, ".2f")
    far = np.isnan(gap) | (gap > GUIDE_GAP)
    what = f"the guide is {{value}} nats from the posterior, above {GUIDE_GAP:g}: its draws are not the posterior's"
    return found + _sentence(table, far & ~heavy, gap, np.max, what, remedy, ".2f")


def _ancestors(posterior: Any, table: pd.DataFrame) -> list[str]:
    few = table["ancestors"].values
    what = "every chain descends from {value} ancestor, less than 2: the run sees one mode at most"
    remedy = "Use more chains, more temperatures, a larger noise scale, or a lower resampling threshold"
    return _sentence(table, (few == 1) & (table["chains"].values > 1), few, np.min, what, remedy, ".0f")


def _weights(posterior: Any, table: pd.DataFrame) -> list[str]:
    if statistic(posterior, "log_weight") is None or int(table["chains"].iloc[0]) < 2:
        return []
    heaviest = np.broadcast_to(chain_weights(posterior).max("chain").values, (len(table),))
    single = heaviest > ONE_CHAIN
    remedy = "Use more temperatures (num_warmup), or resample along the way"
    one = f"{{value}} of the weight is on one chain, above {ONE_CHAIN:.0%}: the posterior is one chain's story"
    found = _sentence(table, single, heaviest, np.max, one, remedy, ".1%")
    share = table["weight_ess"].values / table["chains"].values
    few = f"the weights leave {{value}} of the chains effective, below {FEW_CHAINS:.0%}"
    return found + _sentence(table, (share < FEW_CHAINS) & ~single, share, np.min, few, remedy, ".1%")


def nested_rhat_threshold(posterior: Any) -> float:
    """What nested R-hat of independent particles exceeds, for the worst latent of an item, with probability `CHANCE`.

    Each of K populations has M chains (taken not to move between their few draws, to be on the safe side), so that
    between / within is about chi^2_(K-1) / ((K - 1) M) for every latent even when all is well; the largest of D latents
    exceeds its 1 - CHANCE / D quantile with probability CHANCE at most. On top comes the usual allowance of 1.01 squared.
    """
    populations = num_populations(posterior)
    sampled = parameters(posterior)
    latents = sum(int(v.size / v.sizes["chain"] / v.sizes["draw"] / v.sizes.get("item", 1)) for v in sampled.data_vars.values())
    freedom = max(populations - 1, 1)
    quantile = 2 * gammaincinv(freedom / 2, 1 - CHANCE / max(latents, 1))
    chains = max(sampled.sizes["chain"] / populations, 1)
    return float(np.sqrt(RHAT_GOOD**2 + quantile / (freedom * chains)))


_MORE_OF_POPULATIONS = "Use more chains per population, more temperatures, or more draws at beta = 1"


def _spread(posterior: Any, table: pd.DataFrame) -> list[str]:
    spread = table["log_evidence_spread"].values
    what = f"the populations' log evidences spread by {{value}} nats, above {EVIDENCE_SPREAD:g}: the standard error says little"
    return _sentence(table, spread > EVIDENCE_SPREAD, spread, np.max, what, _MORE_OF_POPULATIONS)


def _populations(posterior: Any, table: pd.DataFrame) -> list[str]:
    remedy, found = _MORE_OF_POPULATIONS, []
    if has_populations(posterior):
        nested = table["nested_rhat_max"].values
        threshold = nested_rhat_threshold(posterior)
        single = np.isinf(nested) & ~(table["ancestors"].values < 2)  # one ancestor has been reported
        alone = "all weight descends from one population (nested R-hat {value}), so the populations cannot be compared"
        found += _sentence(table, single, nested, np.max, alone, remedy)
        apart = (
            f"the populations disagree: nested R-hat {{value}}, above {threshold:.3f} (what independent particles "
            f"reach once in {1 / CHANCE:.0f} items)"
        )
        found += _sentence(table, np.isfinite(nested) & (nested > threshold), nested, np.max, apart, remedy, ".3f")
    return found


def _rhat(posterior: Any, table: pd.DataFrame) -> list[str]:
    if "rhat_max" not in table or statistic(posterior, "log_weight") is not None:
        return []
    if _are_end_points(posterior) or _is_tuned(posterior):  # independent draws, few of each chain
        return []
    worst = table["rhat_max"].values
    bad, mild = worst > RHAT_BAD, (worst > RHAT_GOOD) & (worst <= RHAT_BAD)
    remedy = "Run longer, or anneal (AnnealedHMC) where there are several modes"
    if str(attributes(posterior).get("kernel", "")).endswith("AnnealedHMC"):  # whose chains all count the same
        remedy = "Each stays in the mode where the annealing left it: take more temperatures, or weigh them (weighted=True)"
    what = f"the chains disagree: R-hat {{value}}, above {RHAT_BAD}"
    found = _sentence(table, bad, worst, np.max, what, remedy, ".3f")
    what = f"the chains have not quite mixed: R-hat {{value}}, above {RHAT_GOOD}"
    return found + _sentence(table, mild, worst, np.max, what, "Run longer", ".3f")


def _scales(posterior: Any, table: pd.DataFrame) -> list[str]:
    """Latents of very different scale, which explain much else: one step size serves all of them."""
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
    remedy = "Rescale them in the model, or use a kernel with a mass matrix (inverse_mass=; NUTS adapts one)"
    return _sentence(table, ratio > DIFFERENT_SCALES, ratio, np.max, what, remedy, ".2g")


def _draws(posterior: Any, table: pd.DataFrame) -> list[str]:
    stepping = attributes(posterior).get("evidence_kind", "") == "stepping-stone"  # its chains move at a fixed target
    if not stepping and (has_populations(posterior) or statistic(posterior, "log_weight") is not None):
        return []  # annealed draws are judged by weights, ancestors and populations; their chains are short by design
    ess = table["ess_min"].values
    what = f"{{value}} effective draws for the slowest latent, below {FEW_DRAWS}"
    return _sentence(table, ess < FEW_DRAWS, ess, np.min, what, "Draw more samples", ".0f")


def _divergences(posterior: Any, table: pd.DataFrame) -> list[str]:
    sampled = group(posterior, "posterior").sizes
    counts = table["divergences"].values
    share = counts / (sampled["chain"] * sampled["draw"])
    what = f"{{value}} of the transitions diverged, above {DIVERGING:.0%}"
    return _sentence(
        table, (share > DIVERGING) & (counts > 1), share, np.max, what, "Use a smaller step size or a larger noise scale", ".1%"
    )


def _nonfinite(posterior: Any, table: pd.DataFrame) -> list[str]:
    counted = statistic(posterior, "nonfinite")
    if counted is None:
        return []
    counts = np.broadcast_to(counted.isel(draw=-1).sum("chain").values, (len(table),))
    what = "{value} trajectories met a non-finite gradient or density and were rejected"
    remedy = "Look at the generator and the likelihood where the chains went; a smaller step size may keep them away"
    return _sentence(table, counts > 0, counts, np.max, what, remedy, ".0f")


def _rises(posterior: Any, table: pd.DataFrame) -> list[str]:
    path = group(posterior, "warmup_sample_stats") if has_group(posterior, "warmup_sample_stats") else {}
    if "conditional_ess" not in path:
        return []
    least = np.broadcast_to(path["conditional_ess"].min("draw").values, (len(table),))
    what = f"a single rise of beta left {{value}} of the weighted chains effective, below {LARGE_RISE:.0%}"
    remedy = "Use more temperatures (num_warmup): an adaptive schedule takes all that is left in its last one"
    return _sentence(table, least < LARGE_RISE, least, np.min, what, remedy, ".0%")


def _acceptance(posterior: Any, table: pd.DataFrame) -> list[str]:
    rate = table["acceptance_rate"].values
    low = f"acceptance {{value}}, below {LOW_ACCEPTANCE}: most proposals are thrown away"
    return _sentence(table, rate < LOW_ACCEPTANCE, rate, np.min, low, "Use a smaller step size", ".2f")


def _needless(posterior: Any, table: pd.DataFrame) -> list[str]:
    rate = table["acceptance_rate"].values
    high = f"acceptance {{value}}, above {HIGH_ACCEPTANCE}: the steps are needlessly small"
    needless = (rate > HIGH_ACCEPTANCE) & (not _is_tuned(posterior))  # tuned step sizes are those of all items
    return _sentence(table, needless, rate, np.max, high, "Use a larger step size", ".2f")


def _misfit(posterior: Any, table: pd.DataFrame) -> list[str]:
    """Data that lie far from what the draws make, which `_predictions` judges better where it can."""
    if can_check(posterior) or not has_group(posterior, "sample_stats"):
        return []
    found = []
    for name, recorded in group(posterior, "sample_stats").data_vars.items():
        if not str(name).endswith("_misfit"):
            continue
        view = str(name).removesuffix("_misfit")
        values = np.sqrt(weighted_mean(recorded**2, draw_weights(posterior)).values)
        what = f"the seen part of view '{view}' lies {{value}} noise scales (RMS) from what the draws make, above {MISFIT:g}"
        remedy = "Look at the range of the data and at the generator; if both are right, use a larger noise scale"
        found += _sentence(table, values > MISFIT, values, np.max, what, remedy, ".1f")
    return found


def _predictions(posterior: Any, table: pd.DataFrame) -> list[str]:
    """Posterior predictive checks of the seen part, where the run has stored replicates (``keep_x=True``)."""
    if not can_check(posterior):
        return []
    checks = predictive_checks(posterior)
    tail, p_value = tail_probability(checks), checks["p_value"]
    meanings = {
        "rms": (
            "the residuals are larger than the noise explains",
            "Use a larger noise scale, or a better generator",
            "the residuals are smaller than the noise asks for",
            "Use a smaller noise scale, unless it was chosen for what the generator cannot make",
        ),
        "largest": (
            "the largest residual is larger than the noise explains",
            "Look for entries that the generator cannot make, or use a likelihood with heavier tails",
            "even the largest residual is smaller than the noise asks for",
            "Use a smaller noise scale, unless it was chosen for what the generator cannot make",
        ),
        "neighbours": (
            "residuals of neighbouring entries go together, as noise does not",
            "The generator cannot make these data: a better one, or a larger noise scale, keeps intervals honest",
            "residuals of neighbouring entries have opposite signs, as noise has not",
            "Look at what the view shows: the noise model does not describe it",
        ),
    }
    found = []
    for view in checks["view"].values:
        p, two_sided = p_value.sel(view=view).values, tail.sel(view=view).values  # (statistic, item)
        for side in (0, 2):
            alarm = (two_sided < CHANCE / len(meanings)) & ((p < 0.5) if side == 0 else (p > 0.5))
            said = np.zeros(len(table), dtype=bool)
            for name, wrong, values in zip(checks["statistic"].values, alarm, two_sided, strict=True):
                # One sentence for an item and a side: the first statistic that alarms speaks for those behind it.
                meaning, remedy = meanings[str(name)][side : side + 2]
                what = f"in the seen part of view '{view}' {meaning} (posterior predictive p = {{value}})"
                found += _sentence(table, wrong & ~said, values, np.min, what, remedy)
                said |= wrong
    return found


def _certificate(posterior: Any, table: pd.DataFrame) -> list[str]:
    """The verdicts of a certificate that is stored with the run."""
    if not has_group(posterior, GROUP):
        return []
    found = group(posterior, GROUP)
    wrong, less, tails = misfits(found), less_likely(found), smaller_tail(found)
    what = (
        "the generator does not fit: the seen part is {side} likely than what it makes (certificate, two-sided tail {{value}})"
    )
    remedy = "Use a better generator, or a larger noise scale: completions are surer than they should be"
    sentences = _sentence(table, wrong & less, tails, np.min, what.format(side="less"), remedy)
    remedy = "Use a smaller noise scale, unless it was chosen for what the generator cannot make"
    sentences += _sentence(table, wrong & ~less, tails, np.min, what.format(side="more"), remedy)
    what = (
        "the sampler has not arrived: the bounds of the evidence of simulated neighbours are {value} nats apart, more than"
        f" {LARGE_GAP:g} beyond their error"
    )
    remedy = "Use more temperatures (num_warmup) or more chains"
    return sentences + _sentence(table, not_arrived(found), found["gap"].values, np.max, what, remedy)

"""Should we believe the answer? Weighted summaries, convergence, evidence, scores and pictures of a run."""

from cogen.diagnostics.arviz_plots import energy_plot, rank_plot, trace_plot
from cogen.diagnostics.convergence import Convergence, ess_bulk, ess_tail, nested_rhat, rhat, rhat_and_ess
from cogen.diagnostics.evidence import log_evidence
from cogen.diagnostics.image_quality import hidden_ssim, ms_ssim, ssim
from cogen.diagnostics.judgement import complaints
from cogen.diagnostics.pictures import annealing, completions
from cogen.diagnostics.report import item_summary, summary
from cogen.diagnostics.scores import coverage, crps, mean_of_draws, mse, mse_of_draws, psnr, with_noise
from cogen.diagnostics.weights import (
    draw_weights,
    pareto_k,
    resample,
    weight_ess,
    weighted_mean,
    weighted_quantile,
    weighted_sd,
)

__all__ = [
    "Convergence",
    "annealing",
    "complaints",
    "completions",
    "coverage",
    "crps",
    "draw_weights",
    "energy_plot",
    "ess_bulk",
    "ess_tail",
    "hidden_ssim",
    "item_summary",
    "log_evidence",
    "mean_of_draws",
    "ms_ssim",
    "mse",
    "mse_of_draws",
    "nested_rhat",
    "pareto_k",
    "psnr",
    "rank_plot",
    "resample",
    "rhat",
    "rhat_and_ess",
    "ssim",
    "summary",
    "trace_plot",
    "weight_ess",
    "weighted_mean",
    "weighted_quantile",
    "weighted_sd",
    "with_noise",
]

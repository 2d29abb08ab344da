"""Should we believe the answer? Weighted summaries, convergence, evidence, scores and pictures of a run."""

from cogen.diagnostics.arviz_plots import energy_plot, rank_plot, trace_plot
from cogen.diagnostics.comparison import compare
from cogen.diagnostics.convergence import Convergence, ess_bulk, ess_tail, nested_rhat, rhat, rhat_and_ess
from cogen.diagnostics.evidence import log_evidence
from cogen.diagnostics.evidence_bounds import evidence_bounds, simulate
from cogen.diagnostics.image_quality import hidden_ssim, ms_ssim, ssim
from cogen.diagnostics.judgement import complaints
from cogen.diagnostics.pictures import annealing, completions
from cogen.diagnostics.predictive_checks import predictive_checks
from cogen.diagnostics.rank_pictures import rank_ecdfs, rank_histograms
from cogen.diagnostics.rank_uniformity import chi_squared_p_value, ecdf_envelope, envelope_p_value
from cogen.diagnostics.report import item_summary, summary
from cogen.diagnostics.sample_quality import (
    ModeCoverage,
    Score,
    frechet_distance,
    inception_score,
    kernel_distance,
    mode_coverage,
)
from cogen.diagnostics.scores import coverage, crps, mean_of_draws, mse, mse_of_draws, psnr, with_noise
from cogen.diagnostics.simulation_based_calibration import (
    calibration_p_value,
    calibration_table,
    simulation_based_calibration,
)
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
    "ModeCoverage",
    "Score",
    "annealing",
    "calibration_p_value",
    "calibration_table",
    "chi_squared_p_value",
    "compare",
    "complaints",
    "completions",
    "coverage",
    "crps",
    "draw_weights",
    "ecdf_envelope",
    "energy_plot",
    "envelope_p_value",
    "ess_bulk",
    "ess_tail",
    "evidence_bounds",
    "frechet_distance",
    "hidden_ssim",
    "inception_score",
    "item_summary",
    "kernel_distance",
    "log_evidence",
    "mean_of_draws",
    "mode_coverage",
    "ms_ssim",
    "mse",
    "mse_of_draws",
    "nested_rhat",
    "pareto_k",
    "predictive_checks",
    "psnr",
    "rank_ecdfs",
    "rank_histograms",
    "rank_plot",
    "resample",
    "rhat",
    "rhat_and_ess",
    "simulate",
    "simulation_based_calibration",
    "ssim",
    "summary",
    "trace_plot",
    "weight_ess",
    "weighted_mean",
    "weighted_quantile",
    "weighted_sd",
    "with_noise",
]

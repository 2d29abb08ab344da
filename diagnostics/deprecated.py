"""Former public names of this package, each of which still works with a DeprecationWarning that names the new one."""

from __future__ import annotations

RENAMED = {
    "annealing": "plot_annealing",
    "complaints": "diagnose",
    "completions": "plot_completions",
    "energy_plot": "plot_energy",
    "rank_ecdfs": "plot_rank_ecdfs",
    "rank_histograms": "plot_rank_histograms",
    "rank_plot": "plot_rank",
    "trace_plot": "plot_trace",
}

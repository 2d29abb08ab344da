"""Particle weights in populations, in torch with a leading chain axis: the counterpart of `annealing.populations`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def log_mean_exp(log_weight: Tensor) -> Tensor:
    return log_weight.logsumexp(0) - np.log(len(log_weight))


def effective_fraction(log_weight: Tensor) -> Tensor:
    """Kish's effective sample size over the number of weights, in (0, 1]: (n, ...) -> (...)."""
    relative = log_weight - log_weight.amax(0)
    return (2.0 * relative.logsumexp(0) - (2.0 * relative).logsumexp(0)).exp() / len(log_weight)


def population_evidence(log_weight: Tensor, count: int) -> Tensor:
    """The evidence estimate of every slot's population, (chain, item)."""
    grouped = log_weight.unflatten(0, (count, -1)).transpose(0, 1)  # (slot, population, item)
    return log_mean_exp(grouped).repeat_interleave(len(grouped), dim=0)


def systematic(uniform: Tensor, log_weight: Tensor) -> Tensor:
    """Systematic resampling of each column: the survivors' indices (n, k) from uniforms (k,) and log weights (n, k)."""
    n = len(log_weight)
    cumulative = (log_weight - log_weight.amax(0)).exp().cumsum(0).T.contiguous()
    points = (torch.arange(n, device=uniform.device) + uniform[:, None]) / n * cumulative[:, -1:]
    return torch.searchsorted(cumulative, points).clamp(max=n - 1).T


def resampling_indices(uniform: Tensor, log_weight: Tensor, count: int, threshold: float) -> tuple[Tensor, Tensor] | None:
    """Resample within those of ``count`` populations whose effective fraction is below the threshold.

    :param uniform: numbers in (0, 1), (chain, item), one of which is used per population.
    :returns: the survivors' chains (chain, item) and their new log weights, the log-mean-exp of the weights that they were
        drawn from; None if no population is resampled.
    """
    chains, items = log_weight.shape
    size = chains // count
    grouped = log_weight.unflatten(0, (count, size)).transpose(0, 1)  # (slot, population, item)
    below = effective_fraction(grouped) < threshold
    if not below.any():
        return None
    index = systematic(uniform[::size].flatten(), grouped.reshape(size, -1)).reshape(grouped.shape)
    slot = torch.arange(size, device=index.device)[:, None, None]
    first = size * torch.arange(count, device=index.device)[:, None]

    def by_chain(value: Tensor) -> Tensor:
        return value.transpose(0, 1).reshape(chains, items)

    return by_chain(torch.where(below, index, slot) + first), by_chain(torch.where(below, log_mean_exp(grouped), grouped))

"""Variational autoencoder: an encoder q(z | x) and a decoder G(z), trained together on the evidence lower bound.

    log p(x) >= E_q(z|x) log Normal(x; G(z), sigma) - KL(q(z | x) || Normal(0, 1))

The noise sigma is not tuned: for every batch it is its own maximum-likelihood value, the root mean square residual, so
the reconstruction term is the log of the residual and the balance between the two terms comes out by itself.

References:
    Kingma, Welling. Auto-encoding variational Bayes. ICLR 2014 (equation 10; the KL in appendix B).
    Rybkin, Daniilidis, Levine. Simple and effective VAE training with calibrated decoders. ICML 2021 (section 3.2:
        optimal sigma).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def negative_elbo(encoder: nn.Module, decoder: nn.Module, x: Tensor, smallest_scale: float = 0.02) -> tuple[Tensor, Tensor]:
    """Mean negative evidence lower bound over the batch, in nats per event, and the batch's noise scale (detached).

    `smallest_scale` bounds sigma from below: the density of an exactly reproduced pixel is infinite.
    """
    mean, log_sd = encoder(x)  # (batch, latent) each
    z = mean + log_sd.exp() * torch.randn_like(mean)
    residual = (x - decoder(z)).square().flatten(1)  # (batch, pixel)
    scale = residual.mean().sqrt().clamp_min(smallest_scale)
    # At the optimal sigma the derivative in sigma vanishes, so detaching it leaves the gradient as it is.
    reconstruction = residual.mean() / (2 * scale.detach() ** 2) + scale.detach().log() + 0.5 * math.log(2 * math.pi)
    return residual.shape[1] * reconstruction + kl_to_standard_normal(mean, log_sd).mean(), scale.detach()


def kl_to_standard_normal(mean: Tensor, log_sd: Tensor) -> Tensor:
    """KL(Normal(mean, exp(log_sd)) || Normal(0, 1)) summed over the latent, (batch,)."""
    return (0.5 * (mean.square() + (2 * log_sd).exp() - 1) - log_sd).sum(-1)


def step(encoder: nn.Module, decoder: nn.Module, optimizers: Sequence[torch.optim.Optimizer], x: Tensor) -> dict[str, float]:
    """One step of both networks on x (batch, *event_shape). Returns the loss and the noise scale as numbers."""
    loss, scale = negative_elbo(encoder, decoder, x)
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    return {"negative_elbo": loss.item(), "scale": scale.item()}

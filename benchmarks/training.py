"""The cost of the trainer: time per step of every family relative to that of a handwritten loop with the same networks.

    python benchmarks/training.py --output docs/training_speed.json

The handwritten loops have no trainer, no `Updates` and no checkpoints: they draw a batch and call torch. In every round both
sides run directly after each other; the ratio is the median over rounds. The target is at most 1.1.
"""

from __future__ import annotations

import functools
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.nn.functional import mse_loss, softplus

from cogen.models.families.family import Family
from cogen.models.families.gan import with_penalty
from cogen.models.families.recipe import Kind
from cogen.models.families.registry import recipe
from cogen.models.families.sizes import Sizes
from cogen.models.training.trainer import train

LATENT = 32
RATE, BETAS = 1e-5, (0.5, 0.99)
"""Learning rate of Adam on both sides, small enough that no loop diverges while it is timed."""


@dataclass
class Options:
    families: tuple[str, ...] = ("gan", "wgan", "wgan-gp", "fgan", "vae", "realnvp", "ali", "alice", "veegan", "aim")
    """Families to time, any of these."""
    networks: tuple[str, ...] = ("convolutional", "dense")
    """convolutional, for 28 x 28 images; dense, for two columns (hidden layers of 128), with short steps that show overhead."""
    batch: int = 64
    steps: int = 20
    """Steps of each side per round; twenty times as many for the dense networks."""
    rounds: int = 7
    threads: int = 1
    """Threads of torch; with more, other load on the machine affects the measurement."""
    output: Path | None = None
    """JSON file for the record."""


# --- networks ------------------------------------------------------------------------------------------------------

SIZES = {
    "convolutional": Sizes((1, 28, 28), LATENT, encoder_widths=(128, 128)),
    "dense": Sizes((2,), LATENT, widths=(128, 128), bounded=False),
}


def build(name: str, network: str) -> Family:
    """A family with the learning rate of the handwritten loops, and without a penalty."""
    torch.manual_seed(0)
    made, sizes = recipe(name, Kind.POINTS), SIZES[network]
    settings = {"scale": 0.5} if "scale" in made.settings else {}
    return made.family(sizes, learning_rate=RATE, betas=BETAS, **with_penalty(made, 0.0), **settings)


# --- bare loops ----------------------------------------------------------------------------------------------------


def adam(*modules: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam([p for m in modules for p in m.parameters()], lr=RATE, betas=BETAS, fused=True)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def gan_loop(family: Any, batches: Iterator[Tensor], steps: int, kind: str) -> None:
    g, d = family.generator, family.critic
    for_g, for_d = adam(g), adam(d)
    for _ in range(steps):
        for x in next(batches).chunk(5 if kind.startswith("wgan") else 1):
            with torch.no_grad():
                fake = g(torch.randn(len(x), LATENT))
            match kind:
                case "gan":
                    loss = softplus(-d(x)).mean() + softplus(d(fake)).mean()
                case "fgan":
                    loss = (d(fake) - 1).exp().mean() - d(x).mean()
                case "wgan":
                    loss = d(fake).mean() - d(x).mean()
                case _:
                    between = torch.lerp(x, fake, torch.rand(len(x), *[1] * (x.ndim - 1))).requires_grad_()
                    (slope,) = torch.autograd.grad(d(between).sum(), between, create_graph=True)
                    norm = (slope.square().flatten(1).sum(1) + 1e-12).sqrt()
                    loss = d(fake).mean() - d(x).mean() + 10 * (norm - 1).square().mean()
            descend(for_d, loss)
            if kind == "wgan":
                with torch.no_grad():
                    for p in d.parameters():
                        p.clamp_(-0.01, 0.01)
        d.requires_grad_(False)
        judged = d(g(torch.randn(len(x), LATENT)))
        descend(for_g, softplus(-judged).mean() if kind == "gan" else -judged.mean())
        d.requires_grad_(True)


def vae_loop(family: Any, batches: Iterator[Tensor], steps: int) -> None:
    optimizer = adam(family.encoder, family.generator)
    for _ in range(steps):
        x = next(batches)
        mean, log_sd = family.encoder(x)
        made = family.generator(mean + log_sd.exp() * torch.randn_like(mean))
        kl = (0.5 * (mean.square() + (2 * log_sd).exp() - 1) - log_sd).sum(-1).mean()
        descend(optimizer, (x - made).square().flatten(1).sum(1).mean() / 0.5 + kl)


def realnvp_loop(family: Any, batches: Iterator[Tensor], steps: int) -> None:
    optimizer = adam(family.generator)
    for _ in range(steps):
        descend(optimizer, -family.generator.log_density(next(batches)).mean())


def joint_loop(family: Any, batches: Iterator[Tensor], steps: int, cycle: bool) -> None:
    g, e, d = family.generator, family.encoder, family.critic
    both, for_d = adam(g, e), adam(d)

    def pairs(x: Tensor) -> tuple[Tensor, ...]:
        z, (mean, log_sd) = torch.randn(len(x), LATENT), e(x)
        inferred = mean + log_sd.exp() * torch.randn_like(mean)
        made = g(z)
        return inferred, d(x, inferred), d(made, z)

    for _ in range(steps):
        x = next(batches)
        with torch.no_grad():
            z, (mean, log_sd) = torch.randn(len(x), LATENT), e(x)
            inferred, made = mean + log_sd.exp() * torch.randn_like(mean), g(z)
        descend(for_d, softplus(-d(x, inferred)).mean() + softplus(d(made, z)).mean())
        d.requires_grad_(False)
        inferred, real, fake = pairs(x)
        loss = softplus(real).mean() + softplus(-fake).mean()
        if cycle:
            loss = loss + mse_loss(g(inferred), x)
        descend(both, loss)
        d.requires_grad_(True)


def veegan_loop(family: Any, batches: Iterator[Tensor], steps: int) -> None:
    g, f, d = family.generator, family.encoder.network, family.critic
    both, for_d = adam(g, f), adam(d)
    for _ in range(steps):
        x = next(batches)
        with torch.no_grad():
            z = torch.randn(len(x), LATENT)
            made, inferred = g(z), f(x)
        descend(for_d, softplus(-d(x, inferred)).mean() + softplus(d(made, z)).mean())
        d.requires_grad_(False)
        z = torch.randn(len(x), LATENT)
        made = g(z)
        descend(both, (z - f(made)).square().mean() - d(made, z).mean())
        d.requires_grad_(True)


def aim_loop(family: Any, batches: Iterator[Tensor], steps: int) -> None:
    g, d, h = family.generator, family.critic, family.head
    for_g, for_d, for_h = adam(g), adam(d), adam(h)

    def code_loss(z: Tensor, features: Tensor) -> Tensor:
        mean, log_sd = h(features).chunk(2, dim=-1)
        log_sd = log_sd.clamp(-6, 3)
        return (0.5 * ((z - mean) * (-log_sd).exp()).square() + log_sd).sum(-1).mean()

    for _ in range(steps):
        x = next(batches)
        with torch.no_grad():
            z = torch.randn(len(x), LATENT)
            fake = g(z)
        descend(for_d, softplus(-d(x)).mean() + softplus(d(fake)).mean())
        with torch.no_grad():
            features = d.features(fake)
        descend(for_h, code_loss(z, features))
        d.requires_grad_(False)
        h.requires_grad_(False)
        z = torch.randn(len(x), LATENT)
        features = d.features(g(z))
        descend(for_g, softplus(-d.last(features)).mean() + code_loss(z, features) / LATENT)
        d.requires_grad_(True)
        h.requires_grad_(True)


LOOPS: dict[str, Callable[..., None]] = {
    **{name: functools.partial(gan_loop, kind=name) for name in ("gan", "wgan", "wgan-gp", "fgan")},
    "vae": vae_loop,
    "realnvp": realnvp_loop,
    "ali": functools.partial(joint_loop, cycle=False),
    "alice": functools.partial(joint_loop, cycle=True),
    "veegan": veegan_loop,
    "aim": aim_loop,
}
"""The handwritten loop of each family."""


# --- timing --------------------------------------------------------------------------------------------------------


def ratios(name: str, network: str, options: Options) -> dict[str, Any]:
    family, other = build(name, network), build(name, network)
    data = torch.rand(4_096, *SIZES[network].event_shape) * 2 - 1
    size = options.batch * family.batches_per_step
    steps = options.steps * (1 if SIZES[network].convolutional else 20)

    def batches() -> Iterator[Tensor]:
        while True:
            order = torch.randperm(len(data))
            yield from (data[part] for part in order.split(size)[: len(data) // size])

    def ours() -> float:
        return train(family, data, num_steps=steps, batch_size=options.batch, seed=0, progress=False).seconds / steps

    def theirs() -> float:
        start = time.perf_counter()
        LOOPS[name](other.train(), batches(), steps)
        return (time.perf_counter() - start) / steps

    ours(), theirs()
    pairs = [(ours(), theirs()) for _ in range(options.rounds)]
    found = [mine / its for mine, its in pairs]
    return {
        "family": name,
        "networks": network,
        "milliseconds": 1e3 * float(np.median([mine for mine, _ in pairs])),
        "ratio": float(np.median(found)),
        "range": [min(found), max(found)],
    }


def main(options: Options) -> list[dict[str, Any]]:
    torch.set_num_threads(options.threads)
    rows = []
    for kind in options.networks:
        for name in options.families:
            rows.append(row := ratios(name, kind, options))
            low, high = row["range"]
            print(
                f"{kind:14} {name:8} {row['milliseconds']:8.2f} ms a step, ratio {row['ratio']:.3f} ({low:.3f} to {high:.3f})"
            )
    if options.output:
        record = {"command": shlex.join(["python", "benchmarks/training.py", *sys.argv[1:]]), "rows": rows}
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return rows


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

"""Energies and cooperative training on a known density in two dimensions, evaluated on a grid.

    python benchmarks/cooperative_grid.py --output docs/cooperative_grid.json

The data f are a mixture of Gaussians: sixteen on a ring, or three that are well separated. On a grid an energy can be
normalised, so that KL(f || p) is a sum; the density of the initializer q (by quadrature over z of Normal(g(z), start_noise^2))
can be propagated through the solver's Langevin steps (a matrix per step), so that KL(Mq || p) and KL(q || p) are sums too; and
the objectives of both updates can be differentiated.

* energies: `EBM` with persistent chains, chains from the data, and chains from noise: KL(f || p), and log Z by annealed HMC
  (`EnergyModel`, `log_partition`) minus the grid's, with its standard error.
* cooperation: `CoopNets` with the noise and step size of one Langevin equation; sigma is the standard deviation of the
  components, so that q can equal f. The three divergences at the end, and, after each quarter of the training, the inner
  product of each update's gradient with the grid's gradient of its objective,
      Eq. 17  KL(f || p) - KL(M q || p), M q fixed,      Eq. 18  KL(M q || q), M q fixed.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from cogen.diagnostics import log_partition
from cogen.inference import AnnealedHMC, infer
from cogen.inference.torch.short_run import ShortRun
from cogen.models import EnergyModel
from cogen.models.families.coopnets import CoopNets, mapping_shift
from cogen.models.families.ebm import EBM, Chains, objective_shift
from cogen.models.networks.architectures import DenseGenerator
from cogen.models.networks.energies import DenseEnergy
from cogen.models.training.learning_rates import Falling
from cogen.models.training.trainer import train

REFERENCE, LATENT = 2.0, 4
ALONE, STEP_SIZE = 0.25, 0.1
"""Langevin step sizes: of an energy alone, and of a pair. An initializer follows the mean of the solver's samples for a z, so
the steps of a pair must be small."""


@dataclass
class Options:
    seeds: tuple[int, ...] = (0, 1, 2)
    chains: tuple[Chains, ...] = ("persistent", "data", "noise")
    mixtures: tuple[str, ...] = ("ring", "apart")
    steps: int = 12_000
    """Training steps of a pair; an energy alone has an eighth of them."""
    side: int = 101
    """Grid points per axis."""
    langevin: int = 16
    batch: int = 256
    parts: tuple[str, ...] = ("energies", "cooperation")
    output: Path | None = None


@dataclass(frozen=True)
class Mixture:
    """A two-dimensional mixture of Gaussians with the same standard deviation."""

    means: Tensor
    shares: Tensor
    scale: float

    def sample(self, count: int, seed: int) -> Tensor:
        """Samples (count, 2)."""
        generator = torch.Generator().manual_seed(seed)
        component = torch.multinomial(self.shares, count, replacement=True, generator=generator)
        return self.means[component] + self.scale * torch.randn(count, 2, generator=generator)

    def log_density(self, points: Tensor) -> Tensor:
        """log density of points (point, 2): (point,)."""
        square = (points[:, None] - self.means).square().sum(-1) / (2 * self.scale**2)
        return torch.logsumexp(self.shares.log() - square, 1) - math.log(2 * math.pi * self.scale**2)


ANGLES = torch.arange(16) * (2 * math.pi / 16)
MIXTURES = {
    "ring": Mixture(1.6 * torch.stack([ANGLES.cos(), ANGLES.sin()], 1), torch.full((16,), 1 / 16), 0.4),
    "apart": Mixture(torch.tensor([[-1.6, 0.0], [1.3, 1.3], [1.0, -1.5]]), torch.tensor([0.4, 0.35, 0.25]), 0.5),
}


@dataclass(frozen=True)
class Grid:
    """A square grid of points, on which densities are masses that sum to one."""

    side: int
    half: float = 4.0
    points: Tensor = field(init=False)

    def __post_init__(self) -> None:
        axis = torch.linspace(-self.half, self.half, self.side)
        object.__setattr__(self, "points", torch.cartesian_prod(axis, axis))

    @property
    def log_cell(self) -> float:
        return 2 * math.log(2 * self.half / (self.side - 1))

    def data(self, mixture: Mixture) -> Tensor:
        """The log masses of the data."""
        return mixture.log_density(self.points) + self.log_cell

    def energy(self, energy: nn.Module) -> tuple[Tensor, Tensor]:
        """The log masses of an energy with its reference distribution, and log Z."""
        height = energy(self.points) - self.points.square().sum(1) / (2 * REFERENCE**2)
        log_sum = torch.logsumexp(height, 0)
        return height - log_sum, log_sum + self.log_cell

    def generator(self, generator: nn.Module, noise: float, count: int = 4_096) -> Tensor:
        """The log masses of the mixture of Normal(g(z), noise^2) over ``count`` z of a Sobol sequence."""
        uniform = torch.quasirandom.SobolEngine(LATENT, scramble=True, seed=0).draw(count)
        made = generator(torch.distributions.Normal(0.0, 1.0).icdf(uniform.clamp(1e-6, 1 - 1e-6)))
        square = torch.cdist(self.points, made).square() / (2 * noise**2)
        density = torch.logsumexp(-square, 1) - math.log(len(made)) - math.log(2 * math.pi * noise**2)
        return density + self.log_cell

    @torch.no_grad()
    def refined(self, log_mass: Tensor, energy: nn.Module, run: ShortRun) -> Tensor:
        """The masses after the Langevin steps of a run (without a Metropolis correction)."""
        points = self.points.clone().requires_grad_()
        with torch.enable_grad():
            height = energy(points) - points.square().sum(1) / (2 * REFERENCE**2)
            (slope,) = torch.autograd.grad(height.sum(), points)
        moved = self.points + run.rate * slope
        kernel = torch.softmax(-torch.cdist(moved, self.points).square() / (2 * run.noise**2), dim=1)
        mass = log_mass.exp() / log_mass.exp().sum()
        for _ in range(run.steps):
            mass = mass @ kernel
        return mass


def divergence(mass: Tensor, log_other: Tensor) -> Tensor:
    """KL divergence of masses from another density, given by its log masses."""
    return torch.special.xlogy(mass, mass).sum() - torch.where(mass > 0, mass * log_other, 0.0).sum()


def energies(options: Options, grid: Grid, name: str, chains: Chains, seed: int) -> dict[str, Any]:
    """Train one energy: its divergence from the data, and log Z by annealed HMC minus the grid's."""
    torch.manual_seed(seed)
    run = ShortRun.langevin(options.langevin, ALONE, reference_scale=REFERENCE, limit=100.0)
    family = EBM(DenseEnergy((2,), (64, 64)), (2,), run, chains=chains, count=1_000, learning_rate=2e-3)
    energy = trained(family, replace(options, steps=options.steps // 8), MIXTURES[name], seed)
    with torch.no_grad():
        log_mass, log_z = grid.energy(energy)
        kl = divergence(grid.data(MIXTURES[name]).exp(), log_mass)
    model = EnergyModel(energy, reference_scale=REFERENCE, event_shape=(2,)).items(1)
    posterior = infer(model, AnnealedHMC(), num_warmup=100, num_samples=1, num_chains=1_024, seed=seed, progress=False)
    estimate = log_partition(posterior)
    found, error = float(np.squeeze(estimate["estimate"])), float(np.squeeze(estimate["standard_error"]))
    log_z_error = {"log_z_error": found - float(log_z), "log_z_se": error}
    return {"mixture": name, "chains": chains, "seed": seed, "kl": float(kl), **log_z_error}


def cooperation(options: Options, grid: Grid, name: str, seed: int) -> dict[str, Any]:
    """Train one pair: the final divergences, and inner products of the updates with the grid's gradients during training."""
    torch.manual_seed(seed)
    mixture = MIXTURES[name]
    run = ShortRun.langevin(options.langevin, STEP_SIZE, reference_scale=REFERENCE, limit=100.0)
    generator = DenseGenerator(LATENT, (2,), (128, 128), bounded=False)
    family = CoopNets(
        generator,
        DenseEnergy((2,), (64, 64)),
        LATENT,
        run,
        start_noise=mixture.scale,
        scale=mixture.scale,
        learning_rate=2e-3,
        solver_rate=2e-3,
        betas=(0.5, 0.999),
    )
    updates: list[dict[str, float]] = []
    observed = mixture.sample(16 * 4_096, 1_000 + seed)
    initializer = trained(
        family, options, mixture, seed, watch=lambda: updates.append(of_updates(family, grid, mixture, observed))
    )
    with torch.no_grad():
        log_p, _ = grid.energy(family.energy)
        log_q = grid.generator(initializer, mixture.scale)
        refined = grid.refined(log_q, family.energy, run)
        q = log_q.exp() / log_q.exp().sum()
    divergences = {
        "kl_data": divergence(grid.data(mixture).exp(), log_p),
        "kl_refined": divergence(refined, log_p),
        "kl_made": divergence(q, log_p),
    }
    ends = {name: float(value) for name, value in divergences.items()}
    return {"mixture": name, "seed": seed, **ends, "updates": updates}


def trained(family: Any, options: Options, mixture: Mixture, seed: int, watch: Any = None) -> Any:
    """The trained energy, or the initializer, with averaged weights."""
    return train(
        family,
        mixture.sample(20_000, seed),
        num_steps=options.steps,
        batch_size=options.batch,
        seed=seed,
        schedule=Falling(options.steps),
        watch=None if watch is None else lambda *_: watch(),
        watch_every=max(1, options.steps // 4),
        average=0.995,
        progress=False,
    ).average


def of_updates(family: CoopNets, grid: Grid, mixture: Mixture, observed: Tensor) -> dict[str, float]:
    """Inner products of each update's gradient with the grid's gradient of its objective.

    They are divided by the squared norm of the grid's gradient, so that they are one if both agree; computed for batches of
    4,096, with the standard error over the batches.
    """
    with torch.no_grad():
        mass = grid.refined(grid.generator(family.generator, mixture.scale), family.energy, family.run)
    log_p, _ = grid.energy(family.energy)
    objective = divergence(grid.data(mixture).exp(), log_p) - divergence(mass, log_p)
    exact = {
        "objective": gradient(objective, family.energy),
        "mapping": gradient(divergence(mass, grid.generator(family.generator, mixture.scale)), family.generator),
    }
    products: dict[str, list[float]] = {name: [] for name in exact}
    for data in observed.split(4_096):
        made = family.generator(family.latent(len(data)))
        refined = family.run(family.energy, made.detach() + mixture.scale * torch.randn_like(made))
        ours = {
            "objective": gradient(objective_shift(family.energy(data), family.energy(refined)), family.energy),
            "mapping": gradient(mapping_shift(refined, made, family.scale), family.generator),
        }
        for name, each in ours.items():
            products[name].append(float(each @ exact[name] / exact[name].square().sum()))
    found = {}
    for name, values in products.items():
        found |= {name: float(np.mean(values)), f"{name}_se": float(np.std(values, ddof=1) / math.sqrt(len(values)))}
    return found


def gradient(loss: Tensor, network: nn.Module) -> Tensor:
    """The gradient with respect to all weights of a network, flattened."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])


def main(options: Options) -> dict[str, Any]:
    grid, record = Grid(options.side), {}
    cases = [(name, seed) for name in options.mixtures for seed in options.seeds]
    if "energies" in options.parts:
        print("mixture  chains     seed  KL(f || p)  log Z - grid's (s.e.)")
        wide = Grid(2 * options.side - 1, 8.0)  # log Z is an integral over the whole plane
        record["energies"] = [energies(options, wide, name, chains, seed) for chains in options.chains for name, seed in cases]
        for row in record["energies"]:
            error = f"{row['log_z_error']:7.4f} ({row['log_z_se']:.4f})"
            print(f"{row['mixture']:8} {row['chains']:10} {row['seed']:4}  {row['kl']:10.4f}  {error}")
    if "cooperation" in options.parts:
        print(
            "mixture  seed  KL(f || p)  KL(Mq || p)  KL(q || p)  inner products of the objective's shift | the mapping's (s.e.)"
        )
        record["cooperation"] = [cooperation(options, grid, name, seed) for name, seed in cases]
        for row in record["cooperation"]:
            names = ("objective", "mapping")
            shown = " | ".join(" ".join(f"{u[n]:.2f} ({u[n + '_se']:.2f})" for u in row["updates"]) for n in names)
            ends = f"{row['kl_data']:10.4f}  {row['kl_refined']:11.4f}  {row['kl_made']:10.4f}"
            print(f"{row['mixture']:8} {row['seed']:4}  {ends}  {shown}")
    return record


if __name__ == "__main__":
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(1)
    record = main(options)
    if options.output:
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

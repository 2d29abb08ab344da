"""Score matching in two dimensions: learned energies compared with known mixtures on a grid.

    python examples/score_matching_2d.py --output examples/results/score_matching_2d

The data are mixtures of Gaussians with known density: eight on a ring, 25 on a grid and two moons, which overlap, and two
well-separated ones ("apart"). Each method learns an energy f, relative to a Gaussian reference distribution, from the same
points, with the same network, batches and steps. Sums over a grid give the partition function and the divergence from the
truth:

    KL            KL(truth || model), in nats, for every seed
    log Z         for overlapping modes and the first seed: the error of log Z by AnnealedHMC, from the reference distribution
                  to the energy, relative to the grid
    left          for the two separated Gaussians: the model's share of the left one, which is 0.7

If modes are well separated, score matching does not determine their weights, since errors of the score in regions without data
have no cost. A noise-conditional score (NCSN) connects the modes at high noise levels; its share of the left one is counted
among draws of annealed Langevin dynamics. It has no density, and so no KL.

OUTPUT.json has the table with every seed and the command; OUTPUT.png shows the densities of the first seed and the truth.
"""

import json
import math
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
from torch import Tensor, nn

from cogen.diagnostics import log_partition
from cogen.inference import AnnealedHMC, AnnealedLangevin, infer
from cogen.models import NCSN, EnergyModel, Family, ScoreMatching, ScorePrior, train
from cogen.models.families.score_matching import Denoising, Explicit, Objective, Sliced
from cogen.models.networks.scores import DenseScore
from cogen.models.training.learning_rates import Falling


@dataclass
class Options:
    """Score matching in two dimensions: the divergence of learned energies from known mixtures."""

    mixtures: tuple[str, ...] = ("ring", "grid", "moons", "apart")
    """Mixtures: any of ring, grid, moons, apart."""
    methods: tuple[str, ...] = ("explicit", "sliced", "denoising")
    """Methods: any of explicit, sliced, denoising."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of points, weights, batches and noise; one training each."""
    steps: int = 500
    """Steps of Adam."""
    batch: int = 256
    """Points per step."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    learning_rate: float = 1e-2
    """Learning rate of Adam; it falls linearly to zero over the second half."""
    sigma: float = 0.1
    """Noise of the denoising method."""
    reference_scale: float = 3.0
    """Standard deviation of the reference distribution."""
    points: int = 50_000
    """Training points."""
    temperatures: int = 100
    """Temperatures of AnnealedHMC; annealed Langevin dynamics has five times as many levels."""
    chains: int = 2_048
    """Chains of both."""
    output: Path = Path("score_matching_2d")
    """Output path: writes OUTPUT.json and OUTPUT.png."""


# ------------------------------------------------------------------------------------------------------- the mixtures


class Mixture(NamedTuple):
    """A mixture of isotropic Gaussians."""

    means: Tensor  # (component, 2)
    sd: float
    weights: Tensor  # (component,)

    def log_density(self, x: Tensor) -> Tensor:
        square = torch.cdist(x, self.means).square() / self.sd**2
        return torch.logsumexp(self.weights.log() - 0.5 * square, 1) - math.log(2 * math.pi * self.sd**2)

    def sample(self, count: int) -> Tensor:
        return self.means[torch.multinomial(self.weights, count, True)] + self.sd * torch.randn(count, 2)


def even(means: Tensor, sd: float) -> Mixture:
    return Mixture(means, sd, torch.full((len(means),), 1 / len(means)))


def circle(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], 1)


MOON = 1.5 * (circle(torch.linspace(0, math.pi, 16)) - torch.tensor([0.5, 0.25]))
MIXTURES = {
    "ring": even(2 * circle(torch.arange(8) * math.pi / 4), 0.5),
    "grid": even(1.6 * torch.cartesian_prod(*[torch.arange(-2.0, 3.0)] * 2), 0.55),
    "moons": even(torch.cat([MOON, -MOON]), 0.25),
    "apart": Mixture(torch.tensor([[-3.0, 0.0], [3.0, 0.0]]), 0.5, torch.tensor([0.7, 0.3])),
}
APART = "apart"

LINE = torch.linspace(-7, 7, 281)
GRID = torch.cartesian_prod(LINE, LINE)  # (point, 2)
LOG_CELL = 2 * math.log(float(LINE[1] - LINE[0]))

# -------------------------------------------------------------------------------------------------------- the methods


def energy(options: Options) -> nn.Module:
    """f, (batch, 2) -> (batch,)."""
    layers: list[nn.Module] = []
    width = 2
    for hidden in options.hidden:
        layers += [nn.Linear(width, hidden), nn.SiLU()]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, 1), nn.Flatten(0))


def trained(family: Family, points: Tensor, seed: int, options: Options) -> nn.Module:
    """The averaged network."""
    training = train(
        family,
        points,
        num_steps=options.steps,
        batch_size=options.batch,
        seed=seed,
        schedule=Falling(options.steps),
        average=0.999,
        progress=False,
    )
    assert training.average is not None
    return training.average


def by_score(objective: Objective, points: Tensor, seed: int, options: Options) -> nn.Module:
    family = ScoreMatching(
        energy(options), objective, reference_scale=options.reference_scale, learning_rate=options.learning_rate
    )
    return trained(family, points, seed, options)


METHODS: dict[str, Callable[[Tensor, int, Options], nn.Module]] = {
    "explicit": lambda points, seed, options: by_score(Explicit(), points, seed, options),
    "sliced": lambda points, seed, options: by_score(Sliced(), points, seed, options),
    "denoising": lambda points, seed, options: by_score(Denoising(options.sigma), points, seed, options),
}
"""Functions from points (point, 2), a seed and the options to f."""


# ------------------------------------------------------------------------------------------------------- how they do


def judge(network: nn.Module, truth: Mixture, options: Options) -> tuple[dict[str, float], Tensor]:
    """The scores of a learned energy, and its unnormalised log density on the grid, (point,)."""
    with torch.no_grad():
        value = network(GRID) - 0.5 * (GRID / options.reference_scale).square().sum(1)
        log_model, log_truth = value - log_z(value), truth.log_density(GRID)
        kl = float(((log_truth + LOG_CELL).exp() * (log_truth - log_model)).sum())
        left = float((log_model + LOG_CELL)[GRID[:, 0] < 0].exp().sum())
    return {"kl": round(kl, 5), "left": round(left, 5)}, value


def log_z(value: Tensor) -> float:
    """log Z of an unnormalised log density on the grid."""
    return float(value.logsumexp(0)) + LOG_CELL


def annealed_log_z(network: nn.Module, value: Tensor, seed: int, options: Options) -> dict[str, float]:
    """The error of log Z by AnnealedHMC, and its standard error."""
    model = EnergyModel(network, reference_scale=options.reference_scale, event_shape=(2,))
    run = {"num_warmup": options.temperatures, "num_samples": 1, "num_chains": options.chains, "progress": False}
    found = log_partition(infer(model.items(1), AnnealedHMC(), seed=seed, **run))
    error, se = float(found["estimate"].item()) - log_z(value), float(found["standard_error"].item())
    return {"log_z_error": round(error, 5), "log_z_se": round(se, 5)}


def share_by_noise(points: Tensor, seed: int, options: Options) -> float:
    """The share of draws at the left, for a noise-conditional score."""
    levels = (0.1, 10.0)
    network = trained(
        NCSN(DenseScore((2,), options.hidden, data_scale=float(points.std())), levels, learning_rate=options.learning_rate),
        points,
        seed,
        options,
    )
    prior = ScorePrior(network, noise_levels=levels, event_shape=(2,))
    run = {"num_warmup": 5 * options.temperatures, "num_samples": 1, "num_chains": options.chains, "progress": False}
    y = infer(prior.items(1), AnnealedLangevin(), seed=seed, **run)["posterior"]["z"].values
    return round(float((y[..., 0] < 0).mean()), 5)


# ------------------------------------------------------------------------------------------------------- what is shown


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each mixture and method."""
    lines = [f"{'mixture':8} {'method':20} {'KL of each seed':28} {'log Z, error (s.e.)':22} left"]
    for row in rows:
        kl = " ".join(f"{value:8.4f}" for value in row.get("kl", ()))
        error = f"{row['log_z_error'][0]:+.3f} ({row['log_z_se'][0]:.3f})" if "log_z_error" in row else ""
        left = " ".join(f"{value:.2f}" for value in row["left"]) if row["mixture"] == APART else ""
        lines.append(f"{row['mixture']:8} {row['method']:20} {kl:28} {error:22} {left}")
    return "\n".join([*lines, "left: the share of the left one of two separated modes; the true share is 0.70"])


def draw_picture(path: Path, panels: dict[str, dict[str, Tensor]]) -> None:
    """Draw densities on the grid, with a row per mixture, the truth first, and one colour scale per row."""
    from matplotlib.figure import Figure

    columns = max(map(len, panels.values()))
    picture = Figure(figsize=(2.4 * columns, 2.5 * len(panels)), layout="constrained")
    for panels_of_row, (mixture, shown) in zip(
        picture.subplots(len(panels), columns, squeeze=False), panels.items(), strict=True
    ):
        reach = 5 if mixture in ("grid", APART) else 4
        highest = float(shown["truth"].max().exp())
        for panel, (name, log_density) in zip(panels_of_row, shown.items(), strict=True):
            density = log_density.exp().reshape(len(LINE), len(LINE)).T
            panel.imshow(density.numpy(), origin="lower", extent=(-7, 7, -7, 7), vmin=0, vmax=highest, cmap="magma")
            panel.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], title=f"{mixture}: {name}")
    picture.savefig(path, dpi=80)


def main(options: Options) -> dict[str, Any]:
    for name, known, given in (("mixtures", MIXTURES, options.mixtures), ("methods", METHODS, options.methods)):
        if strange := [each for each in given if each not in known]:
            sys.exit(f"score_matching_2d: --{name} {strange[0]}: known are {', '.join(known)}")
    torch.set_num_threads(1)  # networks of a hundred units
    rows: list[dict[str, Any]] = []
    panels: dict[str, dict[str, Tensor]] = {}
    record: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "options": asdict(options) | {"output": options.output.name},
        "rows": rows,
    }
    started = time.perf_counter()
    for mixture in options.mixtures:
        truth = MIXTURES[mixture]
        panels[mixture] = {"truth": truth.log_density(GRID)}
        for method in (*options.methods, *(["noise-conditional"] if mixture == APART else [])):
            rows.append({"mixture": mixture, "method": method})
            for seed in options.seeds:
                torch.manual_seed(seed)
                points = truth.sample(options.points)
                begun = time.perf_counter()
                if method in METHODS:
                    network = METHODS[method](points, seed, options)
                    seconds = time.perf_counter() - begun
                    numbers, value = judge(network, truth, options)
                    if method not in panels[mixture]:
                        panels[mixture][method] = value - log_z(value)
                        numbers |= annealed_log_z(network, value, seed, options) if mixture != APART else {}
                else:
                    numbers = {"left": share_by_noise(points, seed, options)}
                    seconds = time.perf_counter() - begun
                for name, number in {**numbers, "seconds": round(seconds, 1)}.items():
                    rows[-1].setdefault(name, []).append(number)
            print(rows[-1], flush=True)
            record["seconds"] = round(time.perf_counter() - started, 1)
            options.output.with_name(f"{options.output.name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(table(rows))
    draw_picture(options.output.with_name(f"{options.output.name}.png"), panels)
    return record


if __name__ == "__main__":
    main(tyro.cli(Options))

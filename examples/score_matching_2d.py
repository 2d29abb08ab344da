"""Score matching in the plane: energies against known mixtures, normalised on a grid.

    python examples/score_matching_2d.py --output examples/results/score_matching_2d

Mixtures of Gaussians whose density is known: eight on a ring, 25 on a grid and two moons, all of which overlap, and two that
are far apart. An energy f beside a Gaussian reference is learned by each method from the same points, with the same network,
batches and steps. What is learned is summed on a grid, which gives its partition function and its divergence from the truth:

    KL            KL(truth || model), in nats, of every seed
    log Z         where modes overlap, for the first seed: the error of log Z by AnnealedHMC, from the reference to the energy,
                  against that of the grid
    left          of the two that are far apart: the model's share of the left one, truly 0.7

Where modes are far apart, score matching leaves their weights open: a score that is wrong where no data are costs nothing. A
score that is conditioned on the noise (NCSN) sees both modes at the large levels; its share of the left one is counted among
draws of annealed Langevin. It has no density, and so no KL.

OUTPUT.json keeps the table with every seed and the command; OUTPUT.png shows the densities of the first seed beside the truth.
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
    """Score matching in the plane: the divergence of learned energies from known mixtures."""

    mixtures: tuple[str, ...] = ("ring", "grid", "moons", "apart")
    """Which, of these four."""
    methods: tuple[str, ...] = ("explicit", "sliced", "denoising")
    """How energies are learned, of these three."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of points, weights, batches and noise; a training for each."""
    steps: int = 500
    """Steps of Adam."""
    batch: int = 256
    """Points in a step."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    learning_rate: float = 1e-2
    """Adam's; it falls linearly to zero over the second half."""
    sigma: float = 0.1
    """Noise of the denoising method."""
    reference_scale: float = 3.0
    """Standard deviation of the reference."""
    points: int = 50_000
    """Training points."""
    temperatures: int = 100
    """Of AnnealedHMC, and five times as many levels of annealed Langevin."""
    chains: int = 2_048
    """Of both."""
    output: Path = Path("score_matching_2d")
    """Where to write: OUTPUT.json and OUTPUT.png."""


# ------------------------------------------------------------------------------------------------------- the mixtures


class Mixture(NamedTuple):
    """Of round Gaussians."""

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
"""From points (point, 2), a seed and the options to f."""


# ------------------------------------------------------------------------------------------------------- how they do


def judge(network: nn.Module, truth: Mixture, options: Options) -> tuple[dict[str, float], Tensor]:
    """The numbers of a learned energy, and its log density on the grid (point,), not normalised."""
    with torch.no_grad():
        value = network(GRID) - 0.5 * (GRID / options.reference_scale).square().sum(1)
        log_model, log_truth = value - log_z(value), truth.log_density(GRID)
        kl = float(((log_truth + LOG_CELL).exp() * (log_truth - log_model)).sum())
        left = float((log_model + LOG_CELL)[GRID[:, 0] < 0].exp().sum())
    return {"kl": round(kl, 5), "left": round(left, 5)}, value


def log_z(value: Tensor) -> float:
    """Of a log density on the grid."""
    return float(value.logsumexp(0)) + LOG_CELL


def annealed_log_z(network: nn.Module, value: Tensor, seed: int, options: Options) -> dict[str, float]:
    """The error of log Z by AnnealedHMC, and its standard error."""
    model = EnergyModel(network, reference_scale=options.reference_scale, event_shape=(2,))
    run = {"num_warmup": options.temperatures, "num_samples": 1, "num_chains": options.chains, "progress": False}
    found = log_partition(infer(model.items(1), AnnealedHMC(), seed=seed, **run))
    error, se = float(found["estimate"].item()) - log_z(value), float(found["standard_error"].item())
    return {"log_z_error": round(error, 5), "log_z_se": round(se, 5)}


def share_by_noise(points: Tensor, seed: int, options: Options) -> float:
    """The share of draws at the left, of a score that is conditioned on the noise."""
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
    return "\n".join([*lines, "left: the share of the left of two modes that are far apart, truly 0.70"])


def draw_picture(path: Path, panels: dict[str, dict[str, Tensor]]) -> None:
    """Densities on the grid, a mixture a row, the truth first; one scale of colours a row."""
    from matplotlib.figure import Figure

    columns = max(map(len, panels.values()))
    picture = Figure(figsize=(2.4 * columns, 2.5 * len(panels)), layout="constrained")
    for places, (mixture, shown) in zip(picture.subplots(len(panels), columns, squeeze=False), panels.items(), strict=True):
        reach = 5 if mixture in ("grid", APART) else 4
        highest = float(shown["truth"].max().exp())
        for place, (name, log_density) in zip(places, shown.items(), strict=True):
            density = log_density.exp().reshape(len(LINE), len(LINE)).T
            place.imshow(density.numpy(), origin="lower", extent=(-7, 7, -7, 7), vmin=0, vmax=highest, cmap="magma")
            place.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], title=f"{mixture}: {name}")
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

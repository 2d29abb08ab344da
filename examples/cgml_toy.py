"""cGML on a toy problem: y = +-4 (x, x^2, x^3) with a random sign (section 4, Figures 3, 21 and 22).

    python examples/cgml_toy.py --output cgml_toy

H, G and Z are multilayer perceptrons, and z is on the circle. Conditions are x in [0, 1]. For x above 0.1, where the branches
are separate, Z moves 200 random starts for each x, and the end points are evaluated:

    plus          share of end points nearer to the branch +
    distance      mean distance from the nearer branch, as a share of the branch's range (4 sqrt 3)
    off           share farther than 0.3 |y| from both branches
    phantom       share with a norm below half of |y|, that is, between the branches

The parts:

* branches: end points with and without rho, for both ways to move z in training, several step sizes and seeds;
* baselines: the same networks trained with the absolute or squared error only;
* uncertainty: training with x in [0, 0.5], prediction up to 1.5: the variance of y under small noise on the last z (Eq. 24),
  its rank correlation with the error, and their partial rank correlation given |y|, which grows with x;
* modes: y1^2 is observed with noise, so that both branches have posterior mass: branch shares and log evidence of annealed HMC
  from the prior and from the end points of Z, by number of gradients, compared with quadrature on the circle; and, in addition
  to the posterior of z, the mixture sum_j exp(-beta E_j(z)) over both targets (the paper has the sum in the exponent,
  exp(-beta sum_j E_j), which is a product);
* remark: a conditional GAN with an L1 term of several weights, which moves the optimum towards the median.

References:
    Conditional generative modeling via learning the latent space (cGML). Anonymous, under review 2020 (sections 2 to 4,
        appendix 1 and 2).
"""

from __future__ import annotations

import json
import math
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from scipy.stats import rankdata
from torch import Tensor, nn

from cogen.inference import AnnealedHMC, infer
from cogen.models import (
    CGML,
    Array,
    CoGenerator,
    EndpointGuide,
    LatentDescent,
    Pix2Pix,
    Predictor,
    Regression,
    SphericalGenerator,
)
from cogen.models.families.family import Family
from cogen.models.training.learning_rates import Falling
from cogen.models.training.trainer import train
from cogen.models.views import View

RANGE = 4 * math.sqrt(3)


@dataclass
class Options:
    parts: tuple[Literal["branches", "baselines", "uncertainty", "modes", "remark"], ...] = (
        *("branches", "baselines", "uncertainty"),
        *("modes", "remark"),
    )
    turning: tuple[float, ...] = (0.2, 0.3, 0.4, 0.6)
    """Angles of the first step of z."""
    gradient: tuple[float, ...] = (0.06, 0.1, 0.2)
    """Step sizes of gradient steps on the summed error, as published."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    steps: int = 3_000
    """Training steps."""
    batch: int = 256
    starts: int = 200
    noise: float = 0.1
    """Standard deviation of the noise on y1^2."""
    temperatures: tuple[int, ...] = (5, 10, 20, 40, 80)
    chains: int = 64
    runs: int = 8
    """Runs of each annealing."""
    widen: tuple[float, ...] = (1.0, 3.0, 10.0)
    """Widths of the kernels around the end points, as multiples of the best-fitting width."""
    weights: tuple[float, ...] = (0.0, 0.1, 1.0, 10.0)
    """Weights of the L1 term of the GAN."""
    threads: int = 1
    output: Path = Path("cgml_toy")
    """Output path: writes OUTPUT.json and an image for most parts."""


# ------------------------------------------------------------------------------------------------------- networks, data


def perceptron(inputs: int, outputs: int, width: int = 64) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, outputs))


class Features(nn.Module):
    """H, as a list of one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = perceptron(1, 64)

    def forward(self, condition: Tensor) -> list[Tensor]:
        return [self.layers(condition)]


class Network(nn.Module):
    """H and G."""

    def __init__(self, latent_dim: int = 2) -> None:
        super().__init__()
        self.down, self.up = Features(), perceptron(64 + latent_dim, 3)

    def decode(self, z: Tensor, features: list[Tensor], condition: Tensor) -> Tensor:
        return self.up(torch.cat([z, features[-1]], dim=1))


class Critic(nn.Module):
    """A critic of pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = perceptron(4, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.layers(torch.cat([x, condition], dim=1))[:, 0]


def summed(made: Tensor, y: Tensor) -> Tensor:
    """The absolute error, summed over the three numbers, (batch,)."""
    return (made - y).abs().sum(1)


def branch(x: Tensor) -> Tensor:
    """The branch +, (item, 3), of x (item, 1)."""
    return 4 * torch.cat([x, x**2, x**3], dim=1)


def pairs(seed: int, greatest: float = 1.0, count: int = 20_000) -> list[Tensor]:
    """Pairs of y and x, as a list of two tensors."""
    generator = torch.Generator().manual_seed(seed + 100)
    x = greatest * torch.rand(count, 1, generator=generator)
    sign = torch.where(torch.rand(count, 1, generator=generator) < 0.5, -1.0, 1.0)
    return [sign * branch(x), x]


def fit(family: Family, options: Options, seed: int, greatest: float = 1.0, **watching: Any) -> Any:
    """The trained family, in evaluation mode."""
    train(
        family,
        pairs(seed, greatest),
        num_steps=options.steps,
        batch_size=options.batch,
        seed=seed,
        schedule=Falling(options.steps),
        progress=False,
        **watching,
    )
    return family.eval()


def cgml(moves: Any, step_size: float, seed: int) -> CGML:
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"moves": moves, "step_size": step_size} | ({"cost": summed} if moves == "gradient" else {})
    return CGML(SphericalGenerator(Network()), Predictor(2, 64, (64, 64)), 2, **settings)


# ------------------------------------------------------------------------------------------------------- parts


@torch.no_grad()
def counted(made: Tensor, y: Tensor) -> dict[str, float]:
    """The measures of generated y, given the y of the branch +, (item, 3) each."""
    to_plus, to_minus, size = (made - y).norm(dim=1), (made + y).norm(dim=1), y.norm(dim=1)
    nearer = torch.minimum(to_plus, to_minus)
    return {
        "plus": float((to_plus < to_minus).float().mean()),
        "distance": float(nearer.mean()) / RANGE,
        "off": float((nearer > 0.3 * size).float().mean()),
        "phantom": float((made.norm(dim=1) < 0.5 * size).float().mean()),
    }


@torch.no_grad()
def ends(family: Any, x: Tensor, momentum: bool, seed: int = 1) -> Tensor:
    """y at the end points of a random start for each x."""
    u = torch.randn(len(x), 2, generator=torch.Generator().manual_seed(seed))
    network: Any = family.generator.network
    return family.generator(LatentDescent(network.down, family.predictor, family.num_steps, momentum)(u, x), x)


def branches(options: Options) -> dict[str, Any]:
    grid = torch.linspace(0.1, 1.0, 46)[1:, None].repeat_interleave(options.starts, 0)
    rows: list[dict[str, Any]] = []
    settings = [("turning", b) for b in options.turning] + [("gradient", b) for b in options.gradient]
    shown: dict[str, Any] = {}
    for moves, step_size in settings:
        for seed in options.seeds:
            begun, kept = time.process_time(), {}
            family = cgml(moves, step_size, seed)
            watching: dict[str, Any] = {}
            if seed == options.seeds[0]:
                watching = {"watch": Watch(kept), "watch_every": max(1, options.steps // 3)}
            fit(family, options, seed, **watching)
            y, x = pairs(seed + 1_000, count=1_000)
            way = family.ways(y, x, family.generator.network.down(x))
            with torch.no_grad():
                last = summed(family.generator(way[-1], x), y).mean()
            row = {"moves": moves, "step_size": step_size, "seed": seed, "seconds": time.process_time() - begun}
            row |= {"cost_in_training": float(last)}
            for name, momentum in (("rho", True), ("without", False)):
                row[name] = counted(ends(family, grid, momentum), branch(grid))
            rows.append(row)
            print(line_of(row), flush=True)
            if seed == options.seeds[0]:
                shown[f"{moves}, {step_size:g}"] = (family, kept)
    picture_of_branches(shown, options)
    return {"branches": rows}


class Watch:
    """Stores the costs by training step."""

    def __init__(self, kept: dict[int, Tensor]) -> None:
        self.kept = kept

    def __call__(self, step: int, family: Any, averaged: Any) -> None:
        self.kept[step] = costs(family)


def line_of(row: dict[str, Any]) -> str:
    parts = [f"{row['moves']:>9} {row['step_size']:5g}  seed {row['seed']}  cost in training {row['cost_in_training']:6.3f}"]
    for name in ("rho", "without"):
        found = row[name]
        parts.append(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in found.items()))
    return "   ".join(parts)


@torch.no_grad()
def costs(family: Any) -> Tensor:
    """The cost of the branch + over x and the angle of z, (x, angle)."""
    x, angle = torch.linspace(0, 1, 50), torch.linspace(-math.pi, math.pi, 100)
    z = torch.stack([angle.cos(), angle.sin()], dim=1).repeat(50, 1)
    condition = x[:, None].repeat_interleave(100, 0)
    return summed(family.generator(z, condition), branch(condition)).unflatten(0, (50, 100))


def baselines(options: Options) -> dict[str, Any]:
    """Training with the absolute or squared error only, for each seed: mean and spread of y1 over x and z."""
    x = torch.linspace(0.1, 1.0, 46)[1:, None]
    rows = []
    for name in ("absolute", "squared"):
        for seed in options.seeds:
            torch.manual_seed(seed)
            family: Any = Regression(SphericalGenerator(Network()), 2, learning_rate=1e-3, betas=(0.9, 0.999))
            if name == "squared":
                family = _Squared(family.generator, 2, learning_rate=1e-3, betas=(0.9, 0.999))
            fit(family, options, seed)
            with torch.no_grad():
                u = torch.randn(options.starts, 2, generator=torch.Generator().manual_seed(1))
                made = torch.stack([family.generator(u, each.expand(len(u), 1)) for each in x])
            share = made[..., 0] / (4 * x)  # 1 on the branch +, -1 on the branch -
            rows.append({"error": name, "seed": seed, "mean": float(share.mean()), "sd_over_x": float(share.mean(1).std())})
            rows[-1] |= {"sd_over_z": float(share.std(1).mean())}
            shown = ", ".join(f"{key} {rows[-1][key]:+.4f}" for key in ("mean", "sd_over_x", "sd_over_z"))
            print(f"{name} error only, seed {seed}: y1 / 4x {shown}", flush=True)
    return {"baselines": rows}


class _Squared(Regression):
    """Regression with the squared error."""

    def step(self, batch: Any, update: Any, iteration: int) -> None:
        y, x = batch
        update("generator", lambda: (self.generator(self.latent(len(y)), x) - y).square().mean())


def uncertainty(options: Options, shaken: float = 0.05) -> dict[str, Any]:
    rows = []
    x = torch.linspace(0.1, 1.5, 141)[:, None]
    shown: dict[str, Any] = {}
    for seed in options.seeds:
        family = fit(cgml("turning", 0.4, seed), options, seed, greatest=0.5)
        with torch.no_grad():
            network: Any = family.generator.network
            many = x.repeat_interleave(options.starts, 0)
            u = torch.randn(len(many), 2, generator=torch.Generator().manual_seed(1))
            z = LatentDescent(network.down, family.predictor, family.num_steps)(u, many)
            z = z / z.norm(dim=1, keepdim=True)
            noise = shaken * torch.randn(16, *z.shape, generator=torch.Generator().manual_seed(2))
            draws = torch.stack([family.generator(z + each, many) for each in noise])
        variance = draws.var(0).sum(1).unflatten(0, (-1, options.starts)).mean(1)
        made = draws.mean(0)
        error = torch.minimum((made - branch(many)).norm(dim=1), (made + branch(many)).norm(dim=1))
        error, size = error.unflatten(0, (-1, options.starts)).mean(1), branch(x).norm(dim=1)
        sd = variance.sqrt()
        row = {"seed": seed, "rank_correlation": spearman(sd, error), "of_size": spearman(size, error)}
        row["beyond_size"] = partial(sd, error, size)
        for name, where in (("inside", x[:, 0] <= 0.5), ("outside", x[:, 0] > 0.5)):
            row |= {f"sd_{name}": float(sd[where].mean()), f"error_{name}": float(error[where].mean())}
            row[f"beyond_size_{name}"] = partial(sd[where], error[where], size[where])
        rows.append(row)
        shown[str(seed)] = (x[:, 0], sd, error)
        print("uncertainty: " + ", ".join(f"{key} {value:.3g}" for key, value in row.items()), flush=True)
    picture_of_uncertainty(shown, options)
    return {"uncertainty": rows}


def spearman(a: Tensor, b: Tensor) -> float:
    return float(np.corrcoef(rankdata(a.numpy()), rankdata(b.numpy()))[0, 1])


def partial(a: Tensor, b: Tensor, given: Tensor) -> float:
    """The partial rank correlation of a and b, given ``given``."""
    ab, ac, bc = spearman(a, b), spearman(a, given), spearman(b, given)
    return (ab - ac * bc) / math.sqrt(max(1e-12, (1 - ac**2) * (1 - bc**2)))


class Squares(View):
    """y1^2."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1].square()


def modes(options: Options) -> dict[str, Any]:
    family = fit(cgml("turning", 0.4, options.seeds[0]), options, options.seeds[0])
    x = torch.tensor([[0.25], [0.5], [0.75], [1.0]])
    generator, views = family.generator, {"square": Squares(scale=options.noise)}
    model = CoGenerator(generator, latent_dim=2, views=views, contexts={"condition": Array((1,))})
    seen = model.given(condition=x.numpy()).condition(square=(branch(x)[:, :1].square()).numpy())
    exact, share, mixture = on_the_circle(generator, x, options.noise)
    ended = ends(family, x.repeat_interleave(options.starts, 0), True)[:, 0].unflatten(0, (-1, options.starts)) > 0
    record: dict[str, Any] = {"x": x[:, 0].tolist(), "log_evidence": exact.tolist(), "plus": share.tolist()}
    record |= {"plus_of_mixture": mixture.tolist(), "plus_of_ends": ended.float().mean(1).tolist()}
    for name in ("plus", "plus_of_mixture", "plus_of_ends"):
        print(f"share of the branch +, {name}: {np.round(record[name], 3).tolist()}")
    rows = []
    starts = {"prior": None, **{f"end points, kernels x {factor:g}": factor for factor in options.widen}}
    for start, factor in starts.items():
        for count in options.temperatures:
            row = {"start": start, "gradients": 5 * count, **annealed(family, seen, exact, share, factor, count, options)}
            rows.append(row)
            print(
                f"{start:>24}: {row['gradients']:4} gradients per chain, error of the log evidence {row['rmse']:.3f}, of the"
                f" share of + {row['rmse_of_share']:.3f}",
                flush=True,
            )
    return {"modes": {**record, "rows": rows}}


def annealed(
    family: Any, seen: Any, exact: Tensor, share: Tensor, factor: float | None, count: int, options: Options
) -> dict[str, float]:
    """Errors of the log evidence and of the share of the branch + over runs and items, from the prior or from end points."""
    errors, share_errors = [], []
    for run in range(options.runs):
        initial = None if factor is None else EndpointGuide(family.descent, seen, widen=factor, seed=run).start()
        counts: dict[str, Any] = {"num_warmup": count, "num_samples": 1, "num_chains": options.chains, "progress": False}
        found = infer(seen, AnnealedHMC(num_leapfrog=5, initial=initial), **counts, seed=run)
        log_evidence = found["sample_stats"]["population_log_evidence"].values[:, -1]
        errors.append(np.logaddexp.reduce(log_evidence, axis=0) - math.log(len(log_evidence)) - exact.numpy())
        z = found["posterior"]["z"].values[:, -1]
        y1 = seen.decode(z.reshape(-1, 2))[:, 0].reshape(len(z), -1)
        share_errors.append((y1 > 0).mean(0) - share.numpy())
    root_mean_square = {"rmse": errors, "rmse_of_share": share_errors}
    return {name: float(np.sqrt(np.mean(np.square(values)))) for name, values in root_mean_square.items()}


@torch.no_grad()
def on_the_circle(generator: Any, x: Tensor, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """By quadrature over the angle of z: the log evidence of y1^2, the posterior share of the branch +, and its share under the
    mixture sum_j exp(-beta E_j) with beta = 1 / noise."""
    angle = torch.linspace(0, 2 * math.pi, 20_001)[:-1]
    z = torch.stack([angle.cos(), angle.sin()], dim=1)
    evidence, share, mixture = [], [], []
    for each in x:
        made, y = generator(z, each.expand(len(z), 1)), branch(each[None])
        density = -0.5 * ((made[:, 0].square() - y[0, 0] ** 2) / noise).square() - math.log(noise * math.sqrt(2 * math.pi))
        evidence.append(density.double().logsumexp(0) - math.log(len(z)))
        share.append(density.double().softmax(0)[made[:, 0] > 0].sum())
        both = torch.stack([-summed(made, y) / noise, -summed(made, -y) / noise]).double().logsumexp(0).softmax(0)
        mixture.append(both[made[:, 0] > 0].sum())
    return torch.stack(evidence), torch.stack(share), torch.stack(mixture)


def remark(options: Options) -> dict[str, Any]:
    grid = torch.linspace(0.1, 1.0, 46)[1:, None].repeat_interleave(options.starts, 0)
    rows, shown = [], {}
    for weight in options.weights:
        torch.manual_seed(options.seeds[0])
        family = Pix2Pix(SphericalGenerator(Network()), Critic(), 2, weight=weight, learning_rate=1e-3)
        fit(family, options, options.seeds[0])
        with torch.no_grad():
            u = torch.randn(len(grid), 2, generator=torch.Generator().manual_seed(1))
            made = family.generator(u, grid)
        size = (made[:, 0] / (4 * grid[:, 0])).abs().mean()
        rows.append({"weight": weight, **counted(made, branch(grid)), "y1_over_4x": float(size)})
        shown[f"{weight:g}"] = (grid[:, 0], made[:, 0])
        line = ", ".join(f"{key} {value:.3f}" for key, value in rows[-1].items() if key != "weight")
        print(f"GAN with L1 of weight {weight:g}: {line}", flush=True)
    picture_of_remark(shown, options)
    return {"remark": rows}


# ------------------------------------------------------------------------------------------------------- pictures


def picture_of_branches(shown: dict[str, Any], options: Options) -> None:
    """Draw a row for each setting: end points with rho and without, rho over x and the angle of z, and the cost of the branch +
    after every third of the training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 2.0 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 6, squeeze=False)
    x = torch.rand(1_500, 1, generator=torch.Generator().manual_seed(3))
    for row, (name, (family, kept)) in zip(axes, shown.items(), strict=True):
        for axis, momentum, title in ((row[0], True, f"{name}: with rho"), (row[1], False, "without rho")):
            axis.plot(x[:, 0].numpy(), ends(family, x, momentum)[:, 0].numpy(), ".", markersize=1)
            axis.set_title(title, fontsize=7)
        angle = torch.linspace(-math.pi, math.pi, 100)
        z = torch.stack([angle.cos(), angle.sin()], dim=1).repeat(50, 1)
        condition = torch.linspace(0, 1, 50)[:, None].repeat_interleave(100, 0)
        with torch.no_grad():
            h = family.predictor.project(family.generator.network.down(condition)[-1])
            rho = family.predictor(z, h)[1].reshape(50, 100)
        panels = [("rho", rho), *((f"cost of +, step {step}", values) for step, values in list(kept.items())[-3:])]
        for axis, (title, values) in zip(row[2:], panels, strict=False):
            axis.imshow(values.T.numpy(), origin="lower", aspect="auto", extent=(0, 1, -math.pi, math.pi))
            axis.set_title(title, fontsize=7)
        for axis in row:
            axis.tick_params(labelsize=5)
    figure.savefig(options.output.with_name(f"{options.output.name}-branches.png"), dpi=90)


def picture_of_uncertainty(shown: dict[str, Any], options: Options) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6), layout="constrained")
    titles = ("sd of y around the last z", "distance from the nearer branch")
    for column, (axis, title) in enumerate(zip(figure.subplots(1, 2), titles, strict=True), start=1):
        for values in shown.values():
            axis.semilogy(values[0].numpy(), values[column].numpy(), linewidth=1)
        axis.axvline(0.5, color="gray", linewidth=0.5)
        axis.set_title(title, fontsize=8)
        axis.set_xlabel("x", fontsize=7)
        axis.tick_params(labelsize=6)
    figure.savefig(options.output.with_name(f"{options.output.name}-uncertainty.png"), dpi=90)


def picture_of_remark(shown: dict[str, Any], options: Options) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.4 * len(shown), 2.4), layout="constrained")
    for axis, (name, (x, y1)) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        axis.plot(x[::5].numpy(), y1[::5].numpy(), ".", markersize=1)
        axis.set_title(f"GAN + {name} L1", fontsize=8)
        axis.set_ylim(-5, 5)
        axis.tick_params(labelsize=6)
    figure.savefig(options.output.with_name(f"{options.output.name}-remark.png"), dpi=90)


def main(options: Options) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    parts = {"branches": branches, "baselines": baselines, "uncertainty": uncertainty, "modes": modes, "remark": remark}
    record: dict[str, Any] = {"command": shlex.join(["python", *sys.argv])}
    for name in options.parts:
        record |= parts[name](options)
        path = options.output.with_name(f"{options.output.name}.json")
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

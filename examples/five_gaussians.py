"""Co-generation with a known posterior: five Gaussians, x2 = 0 observed, x1 inferred (Fang and Schwing 2019, section 4.1).

    python examples/five_gaussians.py --output five_gaussians

A vanilla GAN with two latents learns five Gaussians on the unit circle, and is evaluated after several numbers of iterations.
Then x2 = 0 is observed. Only the Gaussian at (1, 0) is there, but since a GAN is continuous, it also has x2 = 0 on the bridges
between its modes. Gradient descent on (x2(z) - 0)^2 from 100 starts is compared with annealed HMC on p(z | x2 = 0), and
annealed HMC with quadrature, since two latents can be integrated on a grid:

    p(x2 = 0) = integral N(x2(z); 0, scale^2) N(z; 0, I) dz,    share of a mode = the same integral over its part of the plane.

A mode is a segment of the line x2 = 0: left (x1 < -1/2, the bridge between the two left Gaussians), middle (the inside of the
circle), right (x1 > 1/2, the Gaussian at (1, 0), which is the answer expected by the paper). Chains have their annealing
weights. A pilot run chooses the step sizes, so that adaptation does not bias the evidence.

OUTPUT.json has the table and the command, OUTPUT.png the paper's Figures 1 to 3.

Differences from the paper: SiLU instead of ReLU activations (the same 20-20 layers), descent by Adam, a posterior that includes
the prior at beta = 1 (the paper's does not), the use of its weights, and more than 100 chains, so that shares can be compared.
The paper shows only figures for this experiment; its statements about them are in the last lines of the table.
"""

import copy
import json
import math
import shlex
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import tyro
from numpyro.infer import MCMC
from torch import Tensor, nn
from tqdm import trange

from cogen.diagnostics import draw_weights, log_evidence, weight_ess
from cogen.inference import AnnealedHMC, GradientDescent, RecordedSteps, infer
from cogen.models import CoGenerator, views
from cogen.models.families import gan
from cogen.models.families.family import Updates
from cogen.models.networks.architectures import DenseCritic, DenseGenerator

MODES = {"left": (-np.inf, -0.5), "middle": (-0.5, 0.5), "right": (0.5, np.inf)}
COLUMNS = ("x1", "x2")


@dataclass
class Options:
    """Five Gaussians on the unit circle, x2 = 0 observed: descent, annealed HMC and quadrature."""

    variance: float = 0.02
    """Variance of each Gaussian: 0.02 in the paper, 0.002 in its published code."""
    iterations: tuple[int, ...] = (500, 1_500, 2_500, 15_000)
    """GAN iterations at which the generator is evaluated, in increasing order."""
    batch: int = 128
    """Points per training step."""
    scale: float = 0.007
    """Standard deviation of the noise on x2 (the published code's sigma = 5e-5 is used as a variance)."""
    chains: int = 65_536
    """Chains of annealed HMC."""
    temperatures: int = 200
    """Annealing transitions."""
    leapfrog: int = 4
    """Gradient evaluations per transition."""
    resample_threshold: float = 0.0
    """Resample below this weight ESS; 0 is the paper's annealed importance sampling."""
    starts: int = 100
    """Starts of the descent, as in the paper."""
    descent_steps: int = 2_000
    """Adam steps of each start."""
    descent_step_size: float = 0.01
    """Learning rate of Adam."""
    resolution: float = 1.0
    """Cells of the quadrature are halved until x2 changes by less than this number of noise scales across a cell."""
    training_seed: int = 0
    """Seed of weights, batches and latents of the GAN."""
    seed: int = 0
    """Seed of the inference. Settings were chosen on seeds from 100 on."""
    output: Path = Path("five_gaussians")
    """Output path: writes OUTPUT.json and OUTPUT.png."""


# ------------------------------------------------------------------------------------------------------- the model


def centres() -> Tensor:
    """The means, (5, 2): angles 0, 72, ... degrees."""
    angle = 2 * math.pi / 5 * torch.arange(5)
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def sample_data(count: int, variance: float) -> Tensor:
    return centres()[torch.randint(5, (count,))] + math.sqrt(variance) * torch.randn(count, 2)


def train(options: Options) -> dict[int, nn.Module]:
    """The generator at each of `options.iterations`, from one run of the vanilla GAN (no penalty on the critic)."""
    torch.manual_seed(options.training_seed)
    generator, critic = DenseGenerator(2, (2,), hidden=(20, 20), bounded=False), DenseCritic((2,), hidden=(20, 20))
    family = gan.GAN(generator, critic, 2, gan.NonSaturating(gamma=0.0), learning_rate=1e-3, betas=(0.5, 0.999))
    update = Updates(family, family.optimizers())
    snapshots: dict[int, nn.Module] = {}
    for done in trange(max(options.iterations), desc="GAN", mininterval=1):  # a bare loop: the data never end
        family.step((sample_data(options.batch, options.variance),), update, done)
        if done + 1 in options.iterations:
            snapshots[done + 1] = copy.deepcopy(generator).eval()
    return snapshots


# ------------------------------------------------------------------------------------------------------- the truth


def quadrature(generator: nn.Module, scale: float, resolution: float, radius: float = 6.0) -> tuple[float, np.ndarray]:
    """log p(x2 = 0), and the posterior shares of the modes, by the midpoint rule on adaptive cells.

    Cells that may contain points with |x2| below eight noise scales are halved until x2 changes by less than `resolution` noise
    scales across a cell; the others are ignored. |z| > 6 has prior mass 1.5e-8.
    """
    generator = copy.deepcopy(generator).double()
    size = min(0.03, 0.05 * resolution)
    line = (torch.arange(int(2 * radius / size)) + 0.5).double() * size - radius
    cells, log_mass, x1 = torch.cartesian_prod(line, line), [], []
    while len(cells):
        cells = cells[cells.norm(dim=1) < radius].requires_grad_()
        x = generator(cells)
        (gradient,) = torch.autograd.grad(x[:, 1].sum(), cells)
        change, cells, x = size * gradient.norm(dim=1), cells.detach(), x.detach()
        matters = x[:, 1].abs() - 2 * change < 8 * scale
        fine = matters & (change < resolution * scale)
        log_prior = -cells[fine].square().sum(1) / 2 - math.log(2 * math.pi)
        log_likelihood = -(x[fine, 1] / scale).square() / 2 - math.log(scale * math.sqrt(2 * math.pi))
        log_mass.append(2 * math.log(size) + log_prior + log_likelihood)
        x1.append(x[fine, 0])
        corners = size / 4 * torch.tensor([[-1, -1], [-1, 1], [1, -1], [1, 1]])
        cells = (cells[matters & ~fine][:, None] + corners).reshape(-1, 2)
        size /= 2
    total = torch.logsumexp(torch.cat(log_mass), 0)
    return total.item(), shares(torch.cat(x1).numpy(), (torch.cat(log_mass) - total).exp().numpy())


def shares(x1: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The weight of each mode."""
    return np.array([weight[(x1 >= low) & (x1 < high)].sum() for low, high in MODES.values()])


# ------------------------------------------------------------------------------------------------------- one generator


def look_at(generator: nn.Module, iteration: int, options: Options) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """One row of the table, and the data for the figures."""
    model = CoGenerator(generator, latent_dim=2, views={"x2": views.Columns(["x2"], of=COLUMNS, scale=options.scale)})
    seen = model.condition(x2=np.zeros((1, 1), np.float32))

    descent = infer(
        seen,
        GradientDescent(step_size=options.descent_step_size),
        num_warmup=0,
        num_samples=options.descent_steps,
        num_chains=options.starts,
        seed=options.seed,
        progress=False,
    )
    paths = descent["posterior"]["z"].values[:, :, 0]  # (start, step, latent)
    descended = model.decode(paths[:, -1])

    def annealed(step_size: Any, chains: int, seed: int) -> Any:
        kernel = AnnealedHMC(
            num_leapfrog=options.leapfrog,
            resample_threshold=options.resample_threshold,
            num_populations=min(16, chains // 4),
            **({} if step_size is None else {"step_size": step_size}),
        )
        return infer(seen, kernel, num_warmup=options.temperatures, num_samples=1, num_chains=chains, seed=seed, progress=False)

    pilot = annealed(None, max(4, options.chains // 16), options.seed + 1)  # the default rule adapts, and is recorded
    posterior = annealed(RecordedSteps.of(pilot), options.chains, options.seed)
    latent = posterior["posterior"]["z"].values[:, 0, 0]  # (chain, latent)
    x = model.decode(latent)
    weight = draw_weights(posterior).values.ravel()
    evidence = log_evidence(posterior)

    true_evidence, true_shares = quadrature(generator, options.scale, options.resolution)
    finer_evidence, finer_shares = quadrature(generator, options.scale, options.resolution / 2)
    ours = shares(x[:, 0], weight)
    arrived = np.abs(descended[:, 1]) < 3 * options.scale
    row = {
        "descent_arrived": arrived.mean(),
        "descent_right": (arrived & (descended[:, 0] > 0.5)).mean(),
        "descent_error": np.abs(descended[:, 1]).mean(),
        "annealed_error": (weight * np.abs(x[:, 1])).sum(),
        "log_evidence": evidence["estimate"].item(),
        "log_evidence_standard_error": evidence["standard_error"].item(),
        "log_evidence_quadrature": finer_evidence,
        "shares": dict(zip(MODES, ours.tolist(), strict=True)),
        "shares_quadrature": dict(zip(MODES, finer_shares.tolist(), strict=True)),
        "worst_share_difference": np.abs(ours - finer_shares).max(),
        "evidence_difference": abs(evidence["estimate"].item() - finer_evidence),
        "quadrature_change": max(abs(true_evidence - finer_evidence), np.abs(true_shares - finer_shares).max()),
        "weight_ess": weight_ess(posterior).item(),
        "acceptance_rate": posterior["warmup_sample_stats"]["acceptance_rate"].values.mean(),
        "gradient_evaluations": int(np.sum(posterior["posterior"].attrs["gradient_evaluations"])),
        "seconds": posterior["posterior"].attrs["seconds"],
    }
    row = {key: float(value) if isinstance(value, np.generic) else value for key, value in row.items()}
    chosen = np.random.default_rng(options.seed).choice(len(x), options.starts, p=weight)
    shown = {"paths": paths, "descended": descended, "annealed": x[chosen]}
    if iteration == max(options.iterations):
        shown |= particles_on_the_way(seen, options)
    return row, shown


def particles_on_the_way(seen: CoGenerator, options: Options, count: int = 256) -> dict[str, np.ndarray]:
    """Positions of the particles at every temperature, (temperature, chain, latent), by NumPyro's MCMC."""
    kernel = AnnealedHMC(seen.numpyro, num_leapfrog=options.leapfrog, resample_threshold=options.resample_threshold)
    mcmc = MCMC(
        kernel,
        num_warmup=options.temperatures,
        num_samples=1,
        num_chains=count,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.warmup(jax.random.key(options.seed), collect_warmup=True, extra_fields=("beta", "log_weight"))
    fields = mcmc.get_extra_fields(group_by_chain=True)
    z = np.asarray(mcmc.get_samples(group_by_chain=True)["z"]).reshape(count, options.temperatures, 2).swapaxes(0, 1)
    return {"particles": z, "beta": np.asarray(fields["beta"])[0], "log_weight": np.asarray(fields["log_weight"]).T}


# ------------------------------------------------------------------------------------------------------- pictures

BLUE, ORANGE, GREY = "#1f5fa8", "#d9661f", "0.75"


def loss_surface(axes: Any, generator: nn.Module, half_width: float = 3.2, points: int = 240) -> None:
    """Draw |x2(z) - 0| over the latent plane: darker is larger, with a black line at x2 = 0."""
    line = torch.linspace(-half_width, half_width, points)
    with torch.no_grad():
        x2 = generator(torch.cartesian_prod(line, line))[:, 1].reshape(points, points).T.numpy()
    extent = (-half_width, half_width, -half_width, half_width)
    axes.imshow(np.abs(x2), extent=extent, origin="lower", cmap="Greys", vmin=0.0, vmax=2.5, aspect="equal")
    axes.contour(line.numpy(), line.numpy(), x2, levels=[0.0], colors="black", linewidths=1.0)
    axes.set(xlim=(-half_width, half_width), ylim=(-half_width, half_width), xticks=[-2, 0, 2], yticks=[-2, 0, 2])


def draw_picture(path: Path, snapshots: dict[int, nn.Module], shown: dict[int, dict], options: Options) -> None:
    """Draw Figures 1 to 3 of the paper, with a column for each snapshot (in Figure 3, for each temperature)."""
    from matplotlib.figure import Figure
    from PIL import Image

    columns = len(snapshots)
    picture = Figure(figsize=(2.7 * columns, 18.5), layout="constrained")
    subfigures: Any = picture.subfigures(3, 1, height_ratios=(1.3, 4.0, 1.35))
    top, middle, bottom = subfigures
    torch.manual_seed(options.seed)
    data = sample_data(500, options.variance).numpy()
    titles = [f"{iteration:,} iterations" for iteration in snapshots]

    top.suptitle("1  Loss |x2(z)| over z (line: zero; dark: large) and 24 descents: blue converged, orange not", fontsize=11)
    for axes, title, (iteration, generator) in zip(
        np.ravel(top.subplots(1, columns, sharey=True)), titles, snapshots.items(), strict=True
    ):
        loss_surface(axes, generator)
        arrived = np.abs(shown[iteration]["descended"][:, 1]) < 3 * options.scale
        for path_of_z, arrives in list(zip(shown[iteration]["paths"], arrived, strict=True))[:24]:
            colour = BLUE if arrives else ORANGE
            axes.plot(*path_of_z.T, color=colour, linewidth=0.9)
            axes.plot(*path_of_z[-1], ".", color=colour, markersize=6)
        axes.set(title=title, xlabel="z1")
    top.axes[0].set_ylabel("z2")

    middle.suptitle(f"2  x2 = 0 seen: {options.starts} draws each (grey: data of variance {options.variance:g})", fontsize=11)
    panels = np.reshape(middle.subplots(4, columns, sharey="row"), (4, columns))
    bins = np.linspace(0.0, 1.2, 13)
    for column, (iteration, generator) in enumerate(snapshots.items()):
        with torch.no_grad():
            samples = generator(torch.randn(500, 2)).numpy()
        rows = (samples, shown[iteration]["descended"], shown[iteration]["annealed"])
        for axes, points, colour in zip(panels[:3, column], rows, ("0.25", ORANGE, BLUE), strict=True):
            axes.plot(*data.T, ".", color=GREY, markersize=2)
            axes.plot(*points.T, ".", color=colour, markersize=3.5 if points is samples else 5, alpha=0.7)
            axes.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        errors = [np.abs(points[:, 1]) for points in rows[1:]]
        panels[3, column].hist(errors, bins=bins, color=[ORANGE, BLUE], label=["descent", "annealed HMC"])
        panels[3, column].set(xlabel="error |x2|", ylim=(0, options.starts), box_aspect=0.8)
        panels[0, column].set_title(titles[column])
    for axes, label in zip(panels[:, 0], ("samples of G", "gradient descent", "annealed HMC", "draws"), strict=True):
        axes.set_ylabel(label)
    panels[3, 0].legend(fontsize=8)

    last = max(snapshots)
    bottom.suptitle(
        f"3  Annealing: {shown[last]['particles'].shape[1]} particles (area: weight), G after {last:,} iterations", fontsize=11
    )
    beta = shown[last]["beta"]
    wanted = np.geomspace(beta[0], 1.0, columns)
    for axes, level in zip(np.ravel(bottom.subplots(1, columns, sharey=True)), wanted, strict=True):
        moment = int(np.abs(np.log(beta / level)).argmin())
        weight = np.exp(shown[last]["log_weight"][moment] - shown[last]["log_weight"][moment].max())
        loss_surface(axes, snapshots[last])
        axes.scatter(*shown[last]["particles"][moment].T, s=2 + 14 * weight, color=BLUE, linewidths=0)
        axes.set(title=f"beta = {beta[moment]:.1g}", xlabel="z1")
    bottom.axes[0].set_ylabel("z2")

    picture.savefig(path, dpi=72)
    with Image.open(path) as image:  # a palette: half the size
        small = image.convert("RGB").quantize(64, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


# ------------------------------------------------------------------------------------------------------- the table


def table(rows: dict[int, dict[str, Any]], options: Options) -> str:
    modes = "/".join(MODES)
    lines = [
        f"five Gaussians of variance {options.variance:g}, x2 = 0 seen with noise {options.scale:g}; modes {modes}",
        "iterations      converged (right)  |x2| descent  annealed   log evidence (se)  quadrature"
        "   shares, annealed   shares, quadrature  worst difference",
    ]
    for iteration, row in rows.items():
        ours, truth = (" ".join(f"{share:.3f}" for share in row[key].values()) for key in ("shares", "shares_quadrature"))
        lines.append(
            f"{iteration:10,}  {row['descent_arrived']:13.0%} ({row['descent_right']:5.0%})  {row['descent_error']:14.4f}"
            f"  {row['annealed_error']:8.4f}  {row['log_evidence']:9.4f} ({row['log_evidence_standard_error']:.4f})"
            f"  {row['log_evidence_quadrature']:10.4f}  {ours}    {truth}  {row['worst_share_difference']:16.4f}"
        )
    row = list(rows.values())[-1]
    lines += [
        f"paper: about a quarter of 100 descents converge; ours, last row: {row['descent_arrived']:.0%}"
        " (differences: SiLU, not ReLU; Adam; converged means |x2| below three noise scales)",
        f"paper: annealed HMC outperforms descent; ours, last row: mean |x2| {row['annealed_error']:.4f} against"
        f" {row['descent_error']:.4f} (differences: weighted draws of p(z | x2 = 0), including the prior)",
    ]
    return "\n".join(lines)


def main(options: Options) -> dict[str, Any]:
    torch.set_num_threads(1)  # networks of twenty units
    started = time.perf_counter()
    snapshots = train(options)
    record: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "options": asdict(options) | {"output": options.output.name},
        "training_seconds": time.perf_counter() - started,
        "iterations": {},
    }
    shown = {}
    for iteration, generator in snapshots.items():
        record["iterations"][iteration], shown[iteration] = look_at(generator, iteration, options)
        print(table(record["iterations"], options).splitlines()[-3], flush=True)
    record["seconds"] = time.perf_counter() - started
    print(table(record["iterations"], options))
    options.output.with_name(f"{options.output.name}.json").write_text(json.dumps(record, indent=1) + "\n")
    draw_picture(options.output.with_name(f"{options.output.name}.png"), snapshots, shown, options)
    return record


if __name__ == "__main__":
    main(tyro.cli(Options))

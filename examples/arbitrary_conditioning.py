"""Train a network to complete images with any mask: a baseline without inference through a generator.

It is a conditional variational autoencoder for all masks, after VAEAC. With c the seen pixels or a thumbnail, and x_h the
hidden pixels, every step draws a kind of view for each image and minimizes the negative bound

    -log p(x_h | z, c) - log p(z | c) + log q(z | x, c),    z ~ q(z | x, c).

A completion is z ~ p(z | c), then x_h = D(z, c): one forward pass, no gradients. `image_completion.py --direct OUTPUT` adds it
to its table. The network uses the parts of the generators with which it is compared (the mixer decoder, the learned pixel
noise, and a flow instead of VAEAC's Gaussian p(z | c), which is ``--couplings 0``), and is trained for the same processor time:
a step takes 1.84 times as long as one of `cogen train glf`, so 14,000 steps correspond to its 25,740.

    python examples/arbitrary_conditioning.py --images data/mnist --threads 1 --output out/direct_digits
    python examples/arbitrary_conditioning.py --images data/fashion_mnist --threads 1 --output out/direct_fashion

Both print the CRPS of images that `cogen train` holds out, and write OUTPUT.safetensors and OUTPUT.json.

Reference:
    Ivanov, Figurnov, Vetrov. Variational autoencoder with arbitrary conditioning. ICLR 2019 (section 4: the bound; missing
        parts of x do not count).
Departures: mixers and a dense encoder instead of convolutions with skip connections at every scale (the decoder uses c at one
scale); a flow for p(z | c); bounds on the log sd of p(z | c) instead of a hyperprior; the pixel noise of
`cogen.models.pixels.noise`; thumbnails.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, silu

from cogen.diagnostics import score_completions
from cogen.models import load_idx_folder, pixel_noise_of, train, views
from cogen.models.data.datasets import from_bytes, held_out_split
from cogen.models.families.family import Batch, Family, Update, adam
from cogen.models.families.realnvp import AffineCoupling
from cogen.models.networks.architectures import DenseEncoder
from cogen.models.pixels.noise import PixelNoise, saturated
from cogen.models.storage.stored import with_suffix
from cogen.models.training.learning_rates import Falling
from cogen.models.training.preparation import as_floats

FACTOR = 4
"""Side, in pixels, of the square that becomes one pixel of a thumbnail."""


@dataclass
class Options:
    """Train a network to complete images with any mask."""

    images: Path
    """Folder of idx files (MNIST, Fashion-MNIST)."""
    steps: int = 14_000
    batch: int = 128
    latent_dim: int = 64
    channels: int = 96
    """Features per patch."""
    blocks: int = 3
    """Blocks of the network that reads c, and of the decoder."""
    couplings: int = 8
    """Couplings of the flow p(z | c); 0 for a Gaussian, as in VAEAC."""
    widths: tuple[int, ...] = (512, 512)
    """Hidden layers of the encoder q(z | x, c)."""
    learning_rate: float = 1e-3
    """Learning rate of Adam; it falls to zero over the second half."""
    average: float = 0.999
    """Decay of the moving average of the weights."""
    masks: int = 4_000
    """Masks of each kind that are drawn in advance."""
    held_out: int = 256
    """Held-out images for the printed scores."""
    draws: int = 8
    """Completions of each held-out image."""
    threads: int = 0
    """Threads of torch; 0 for its default."""
    accelerator: str = "cpu"
    """cpu or cuda."""
    seed: int = 0
    checkpoint: Path | None = None
    """Folder of the checkpoint, from which an interrupted training continues."""
    output: Path = Path("direct")


# --- what is seen --------------------------------------------------------------------------------------------------


def stock(shape: tuple[int, ...], count: int, seed: int) -> Tensor:
    """Random masks (4 count, *shape), True = seen: in turn half images, hidden boxes, random pixels, hidden brush strokes."""
    random = np.random.default_rng(seed)
    height, width = shape[-2:]
    found = []
    for _ in range(count):
        tall, wide = random.integers(height // 4, 3 * height // 4 + 1, 2)
        top, left = random.integers(height - tall + 1), random.integers(width - wide + 1)
        found += [
            views.half(shape, ("top", "bottom", "left", "right")[random.integers(4)]),
            views.box(shape, top, left, tall, wide),
            views.random(shape, random.uniform(0.02, 0.98), seed=int(random.integers(2**31))),
            views.free_form(shape, thickness=6, seed=int(random.integers(2**31))),
        ]
    return torch.from_numpy(np.stack(found))


def seen_pixels(x: Tensor, mask: Tensor) -> Tensor:
    """c of seen pixels: x where the mask (batch, *event) is True, the mask, and a plane of zeros, since it is no thumbnail."""
    return torch.cat([torch.where(mask, x, 0.0), mask[:, :1].to(x.dtype), torch.zeros_like(x[:, :1])], dim=1)


def seen_thumbnail(thumbnail: Tensor) -> Tensor:
    """c of a thumbnail (batch, channel, height / 4, width / 4): the enlarged thumbnail, no mask, and a plane of ones."""
    large = interpolate(thumbnail, scale_factor=FACTOR, mode="nearest")
    return torch.cat([large, torch.zeros_like(large[:, :1]), torch.ones_like(large[:, :1])], dim=1)


# --- networks ------------------------------------------------------------------------------------------------------


class Mixer(nn.Module):
    """The blocks of `MixerGenerator`: (batch, patch, channel) -> the same."""

    def __init__(self, patches: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.over_patches = nn.ModuleList(nn.Linear(patches, patches) for _ in range(blocks))
        self.over_channels = nn.ModuleList(nn.Linear(channels, channels) for _ in range(blocks))

    def forward(self, h: Tensor) -> Tensor:
        for patches, channels in zip(self.over_patches, self.over_channels, strict=True):
            h = h + silu(patches(h.transpose(1, 2)).transpose(1, 2))
            h = h + silu(channels(h))
        return h


class ConditionalFlow(nn.Module):
    """p(z | context): affine couplings that depend on the context, then a shift and a scale that depend on it."""

    def __init__(self, latent_dim: int, context: int, couplings: int) -> None:
        super().__init__()
        half = latent_dim // 2
        self.moments = nn.Linear(context, 2 * latent_dim)
        nn.init.zeros_(self.moments.weight)
        nn.init.zeros_(self.moments.bias)
        self.couplings = nn.ModuleList(AffineCoupling(half + context, half, (64, 64)) for _ in range(couplings))

    def forward(self, noise: Tensor, context: Tensor) -> Tensor:
        """Draws z from standard normal noise, (batch, latent_dim) each."""
        halves = list(noise.chunk(2, dim=1))
        for k, coupling in enumerate(self.couplings):
            halves[k % 2] = coupling(torch.cat([halves[1 - k % 2], context], dim=1), halves[k % 2])
        mean, log_sd = self._moments(context)
        return mean + log_sd.exp() * torch.cat(halves, dim=1)

    def log_density(self, z: Tensor, context: Tensor) -> Tensor:
        """log p(z | context), (batch,)."""
        mean, log_sd = self._moments(context)
        halves, log_det = list(((z - mean) * (-log_sd).exp()).chunk(2, dim=1)), -log_sd.sum(1)
        for k, coupling in reversed(list(enumerate(self.couplings))):
            given = torch.cat([halves[1 - k % 2], context], dim=1)
            halves[k % 2], change = coupling.inverse(given, halves[k % 2])  # type: ignore[operator]
            log_det = log_det + change
        return log_det - 0.5 * (torch.cat(halves, dim=1).square() + math.log(2 * math.pi)).sum(1)

    def _moments(self, context: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_sd = self.moments(context).chunk(2, dim=1)
        return mean, log_sd.clamp(-6.0, 3.0)


class DirectModel(nn.Module):
    """The networks of a completion: p(z | c) and D(z, c).

    :param event_shape: (channel, height, width); height and width divisible by four.
    :param latent_dim: size of z, even.
    :param channels: features per patch.
    :param blocks: number of blocks of the network that reads c, and of the decoder.
    :param couplings: number of couplings of the flow.
    :param context: size of the summary of c on which the flow depends.
    """

    def __init__(
        self, event_shape: tuple[int, ...], latent_dim: int, channels: int, blocks: int, couplings: int, context: int = 128
    ) -> None:
        super().__init__()
        self.event_shape, self.latent_dim = tuple(event_shape), latent_dim
        colours, height, width = event_shape
        self.rows, self.columns = height // 4, width // 4
        patches = self.rows * self.columns
        self.patches = nn.Linear(16 * (colours + 2), channels)
        self.place = nn.Parameter(0.02 * torch.randn(patches, channels))
        self.reader = Mixer(patches, channels, blocks)
        self.context = nn.Linear(patches * channels, context)
        self.prior = ConditionalFlow(latent_dim, context, couplings)
        self.project = nn.Linear(latent_dim, patches * channels)
        self.writer = Mixer(patches, channels, blocks)
        self.pixels = nn.Linear(channels, 16 * colours)
        self.noise = PixelNoise()

    def read(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """c (batch, channel + 2, height, width) -> features (batch, patch, channels), context (batch, context)."""
        planes = seen.shape[1]
        cut = seen.reshape(-1, planes, self.rows, 4, self.columns, 4).permute(0, 2, 4, 1, 3, 5)
        features = self.reader(silu(self.patches(cut.reshape(len(seen), -1, 16 * planes))) + self.place)
        return features, silu(self.context(features.flatten(1)))

    def decode(self, z: Tensor, features: Tensor) -> Tensor:
        """All pixels of x, (batch, *event_shape), also the seen ones."""
        h = self.writer(silu(self.project(z)).unflatten(1, features.shape[1:]) + features)
        x = self.pixels(h).reshape(-1, self.rows, self.columns, self.event_shape[0], 4, 4)
        return saturated(x.permute(0, 3, 1, 4, 2, 5).reshape(-1, *self.event_shape))

    @torch.no_grad()
    def complete(self, seen: Tensor, noise: Tensor) -> Tensor:
        """Completions (draw, batch, *event_shape) without pixel noise, from standard normal noise (draw, batch, latent_dim)."""
        features, context = self.read(seen)
        return torch.stack([self.decode(self.prior(each, context), features) for each in noise])


class ArbitraryConditioning(Family):
    """Trains a `DirectModel` and its encoder on batches of x.

    :param masks: (count, *event_shape), True = seen; every image gets a random one.
    :param thumbnails: share of the images that have a thumbnail instead of a mask.
    """

    masks: Tensor
    generator: DirectModel

    def __init__(
        self, model: DirectModel, encoder: nn.Module, masks: Tensor, thumbnails: float = 0.2, learning_rate: float = 1e-3
    ) -> None:
        super().__init__()
        self.generator, self.encoder, self.latent_dim = model, encoder, model.latent_dim
        self.register_buffer("masks", masks, persistent=False)
        self.thumbnails, self.learning_rate = thumbnails, learning_rate

    def optimizers(self) -> dict[str, Any]:
        return {"negative_elbo": adam(self.encoder, self.generator, learning_rate=self.learning_rate, betas=(0.9, 0.999))}

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        (x,) = batch
        mask = self.masks[torch.randint(len(self.masks), (len(x),), device=x.device)]
        small = torch.rand(len(x), 1, 1, 1, device=x.device) < self.thumbnails
        seen = torch.where(small, seen_thumbnail(avg_pool2d(x, FACTOR)), seen_pixels(x, mask))
        update("negative_elbo", lambda: self.negative_bound(x, seen, small | ~mask).mean())

    def negative_bound(self, x: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
        """The negative bound of the hidden pixels in nats, (batch,)."""
        model = self.generator
        features, context = model.read(seen)
        mean, log_sd = self.encoder(torch.cat([x, seen], dim=1))
        noise = torch.randn_like(mean)
        z = mean + log_sd.exp() * noise
        fit = (hidden * model.noise.log_prob(x, model.decode(z, features))).flatten(1).sum(1)
        entropy = (0.5 * (noise.square() + math.log(2 * math.pi)) + log_sd).sum(1)
        return -fit - entropy - model.prior.log_density(z, context)


# --- weights -------------------------------------------------------------------------------------------------------


def save_direct(path: Path, model: DirectModel, arguments: dict[str, Any], figures: dict[str, Any]) -> None:
    """Write PATH.safetensors, and PATH.json with the arguments of `DirectModel` and the figures."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), with_suffix(path, ".safetensors"))
    record = json.dumps({"arguments": arguments, **figures}, indent=1)
    with_suffix(path, ".json").write_text(record + "\n", encoding="utf-8")


def load_direct(path: Path) -> tuple[DirectModel, dict[str, Any]]:
    """The frozen model and its record."""
    from safetensors.torch import load_file

    record = json.loads(with_suffix(path, ".json").read_text(encoding="utf-8"))
    model = DirectModel(**record["arguments"])
    model.load_state_dict(load_file(with_suffix(path, ".safetensors")))
    return model.eval().requires_grad_(False), record


# --- the script ----------------------------------------------------------------------------------------------------


def held_out_scores(model: DirectModel, images: np.ndarray, draws: int, seed: int) -> dict[str, float]:
    """Mean fair CRPS of the hidden pixels of images (item, *event), by view."""
    x, shape = torch.from_numpy(images), images.shape[1:]
    masks = {"half": views.half(shape, "top"), "left": views.half(shape, "left"), "block": views.centre(shape, shape[-1] // 2)}
    seen = {name: seen_pixels(x, torch.from_numpy(mask).expand_as(x)) for name, mask in masks.items()}
    seen["thumbnail"] = seen_thumbnail(avg_pool2d(x, FACTOR))
    found = {}
    for name, c in seen.items():
        generator = torch.Generator().manual_seed(seed)
        made = model.complete(c, torch.randn(draws, len(x), model.latent_dim, generator=generator))
        scores = score_completions(
            made[:, None].numpy(),
            images,
            ~masks[name] if name in masks else None,
            value_range=(-1.0, 1.0),
            noise=pixel_noise_of(model),
        )
        found[name] = float(scores["crps"].mean())
    return found


def main(options: Options) -> dict[str, Any]:
    if options.threads:
        torch.set_num_threads(options.threads)
    images = load_idx_folder(options.images)[0][:, None]
    kept, held_out = held_out_split(len(images))
    shape = images.shape[1:]
    arguments = {
        "event_shape": list(shape),
        "latent_dim": options.latent_dim,
        "channels": options.channels,
        "blocks": options.blocks,
        "couplings": options.couplings,
    }
    torch.manual_seed(options.seed)
    model = DirectModel(shape, *list(arguments.values())[1:])  # type: ignore[arg-type]
    encoder = DenseEncoder(options.latent_dim, (2 * shape[0] + 2, *shape[1:]), options.widths)
    masks = stock(shape, options.masks, options.seed)
    started = time.process_time()
    trained = train(
        ArbitraryConditioning(model, encoder, masks, learning_rate=options.learning_rate),
        torch.from_numpy(images[kept]),
        num_steps=options.steps,
        batch_size=options.batch,
        seed=options.seed,
        schedule=Falling(options.steps),
        average=options.average,
        prepare=as_floats,
        checkpoint=options.checkpoint,
        accelerator=options.accelerator,
    )
    processor_seconds = time.process_time() - started  # of this call only, if it continued a checkpoint
    final: Any = (trained.average or model).cpu()
    curve = [float(part.mean()) for part in np.array_split(trained.losses["negative_elbo"], min(20, options.steps))]
    scores = held_out_scores(final, from_bytes(images[held_out[: options.held_out]], (-1.0, 1.0)), options.draws, options.seed)
    figures = {
        "command": shlex.join(["python", "examples/arbitrary_conditioning.py", *sys.argv[1:]]),
        "training_data": f"{options.images.name}, {len(kept)} training images",
        "steps": options.steps,
        "seconds": round(trained.seconds, 1),
        "processor_seconds": round(processor_seconds, 1),
        "curve": [round(value, 2) for value in curve],
        "held_out_crps": {name: round(score, 5) for name, score in scores.items()},
    }
    save_direct(options.output, final, arguments, figures)
    print(f"{trained.seconds:.0f} s, bound of the hidden pixels {-curve[-1]:.1f} nats per image; CRPS of held-out images:")
    print("  ".join(f"{name} {score:.4f}" for name, score in scores.items()))
    return {"arguments": arguments, **figures}


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

"""The options of the commands, as dataclasses that tyro reads; a docstring below a field is its help.

Strings stand for objects here and nowhere else. Nothing heavy is imported, so that `cogen --help` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from cogen.models.families.registry import FAMILIES

if TYPE_CHECKING:
    Name = str
else:
    Name = Literal[tuple(FAMILIES)]

ViewName = Literal["half", "box", "centre", "random", "thumbnail", "gray"]


@dataclass
class Foreign:
    """How a generator is read that somebody else trained (docs/generators.md)."""

    module: str | None = None
    """The network that weights in a file go into: MODULE:FUNCTION or FILE.py:FUNCTION, a function or class without arguments
    that returns a torch module. Its code is run."""
    latent_dim: int | None = None
    """Size of z, where it cannot be read off the network."""
    allow_pickle: bool = False
    """Also read .pt, .pth, .ckpt, .bin and .pt2. They run code from the file: allow it for files you trust as a program."""


@dataclass
class Complete:
    """Complete images of which a part is seen: draws from p(z | seen part), pushed through a generator.

    With `--mask` the images are as you have them, with a hole; without it they are whole, and `--view` says what is seen."""

    generator: str = "digits"
    """A shipped generator (see `cogen generators`); the path of a .safetensors file with its .json beside it; a folder or
    hf://USER/REPOSITORY of the Hugging Face hub; or MODULE:FUNCTION or FILE.py:FUNCTION, a function or class without arguments
    that returns a torch module (its code is run). `cogen inspect` says what is inside. An energy, as of `cogen train ebm` or
    `rbm`, completes too: seen pixels stay as they are, and its own sampler draws the others."""
    foreign: tyro.conf.OmitArgPrefixes[Foreign] = field(default_factory=Foreign)
    images: Path | None = None
    """A picture, a folder of pictures, or an .npy/.npz array; the default is the sixteen shipped test images of what the
    generator makes: digits, or with `fashion` and `colour` those."""
    range: tuple[float, float] | None = None
    """The values of an array that are black and white; the default is 0 255 for integers and 0 1 for floats."""
    count: int = 16
    """How many images to complete at the most."""
    mask: str | None = None
    """What is seen of the images: a picture, white where they are seen, for all of them, or a folder with one of the same name
    for each; `alpha` for their opaque part; `nan` for the finite numbers of an array."""
    invert_mask: bool = False
    """White is hidden."""
    truth: Path | None = None
    """The whole images, if there are any, to score the completions by: of the same names. With `--view` they are the images."""
    fit: Literal["crop", "resize", "patch"] | None = None
    """For images of another size than the generator's: complete their middle, all of them at the generator's size, or parts of
    the generator's size one by one."""
    paste: Literal["auto", "yes", "no"] = "auto"
    """Whether written images keep their seen pixels, to the bit; the default is with `--mask`."""
    keep_draws: int = 4
    """How many whole draws of each image to write."""
    label: tuple[str, ...] = ()
    """The class of all images, or one for each, where the generator is conditional: integers from 0 on (or names, if it has
    any), separated by spaces or commas."""
    context: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=PICTURES: the condition images of a generator that takes some, as `--images` takes them: one for all images, or one
    for each. Those of `cogen train pix2pix` and its kin are called `condition`."""
    view: tyro.conf.UseAppendAction[tuple[ViewName, ...]] = ()
    """What is seen: a half; all but a box or the centre; a share of the pixels; a thumbnail (means of 4 x 4 pixels); the luma.
    Repeatable, and beside `--mask`: all of them are seen. The default without a mask is `half`. Images of a thumbnail's size,
    and gray ones for the luma of a colour generator, are what is seen."""
    side: Literal["top", "bottom", "left", "right"] = "top"
    """Of `--view half`: which half is seen."""
    box: tuple[int, int, int, int] | None = None
    """Of `--view box`: top, left, height and width of what is hidden, in pixels of the generator."""
    share: float = 0.25
    """Of `--view random`: the share of the pixels that is seen."""
    algorithm: Literal[
        "annealed-hmc",
        "langevin",
        "parallel-tempering",
        "hmc",
        "nuts",
        "gradient-descent",
        "importance",
        "learned-descent",
    ] = "annealed-hmc"
    """How the posterior is computed. `learned-descent` takes what the predictor beside a generator of `cogen train cgml` makes
    of draws of the prior, as it is."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE: a setting of the algorithm, as in --set num_leapfrog=20 --set step_size=0.05. Repeatable."""
    backend: Literal["numpyro", "pyro"] = "numpyro"
    """Pyro runs its own HMC and NUTS, one chain after another."""
    chains: int = 16
    """Chains per image."""
    warmup: int | None = None
    """Transitions of warm-up: the annealing from the start to the posterior, or adaptation, or descent. The default is what
    `cogen tune` has stored for the generator and the view, with its step sizes and temperatures; if it has nothing, 60."""
    guide: str = "auto"
    """Where annealed HMC starts: from the guide that lies beside the generator, if there is one and it sees such a view; `none`
    for the prior; `predictor` for where the predictor beside it leads (`cogen train cgml`); or the path of a guide that
    `cogen guide` made."""
    samples: int = 5
    """Draws per chain."""
    pilot: int = 0
    """Chains of a run before the run, which adapts step sizes that the run then keeps: its evidence is then unbiased."""
    threshold: float | None = None
    """With `--weighted`: chains are resampled where fewer than this share of them is effective; the default is 0.5."""
    checkpoint: Path | None = None
    """A folder: a run that was stopped goes on from there."""
    weighted: bool = False
    """With annealed HMC: chains are weighted and resampled as they cool, which gives the evidence and the right shares of
    modes, and takes more of both, as in `--chains 32 --warmup 300`. Without it every chain counts the same."""
    certify: bool = False
    """Ask of every image whether the generator does not fit it or the sampler has not arrived (certificate.csv): the p-value of
    the seen part, the rank of its evidence among 79 simulated images, and the bounds of the evidence of a simulated neighbour.
    Takes weighted runs of `--chains` and `--warmup` from the same start, their step sizes adapted by pilots of 8 chains unless
    they were tuned: for sixteen images about eleven times the gradients of completing them."""
    engine: Literal["in-process", "ray"] = "in-process"
    """Where images are completed: in this process, or by workers that Ray starts (pip install 'cogen-ppl[ray]')."""
    workers: int = 2
    """Processes of `--engine ray`. They do not change the draws."""
    items_at_once: int | None = None
    """Images that share a block of compiled code; the default is at most 128 chains and 8 images a block on a CPU."""
    noise: float | Literal["fit"] | None = None
    """Standard deviation of the noise of a pixel, in the generator's units (a thumbnail's is smaller, as of a mean); `fit`
    estimates it from the part that is seen; the default is the generator's own, chosen on held-out data."""
    seed: int = 0
    """Every number of the run follows from it."""
    output: Path = Path("cogen-output")
    """Folder for completed/ (of each image the mean, the standard deviation and draws), report.html, posterior.nc,
    completions.png, annealing.png, metrics.json and run.toml; those of an earlier run are replaced."""
    config: Path | None = None
    """A run.toml: its options are those of this run, but for those that are given beside it."""


@dataclass
class Train:
    """Train a generator on your data, for `cogen complete --generator`. A run that was stopped goes on where it was."""

    family: tyro.conf.Positional[Name]
    """What is trained: see docs/families.md."""
    data: str = "mnist"
    """mnist, fashion-mnist, cifar10 or celeba; a folder of pictures, an .npy or .npz array; or a TABLE.csv (vae only). For
    pix2pix and the other families of pairs a folder of pictures, two images side by side, or an .npz of images, conditions."""
    condition: Literal["right", "left", "centre", "edges", "sketch"] = "right"
    """Of pairs, what x is made of: the right or left half of every picture, and x is the other; or made of whole images: with a
    hidden centre, edges or a sketch (by scikit-image)."""
    missing: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A word that stands for a hole in a table, besides empty entries and those of pandas (NA, NULL, ...). Repeatable; write
    --missing=WORD where it begins with a dash. `cogen fill` remembers it."""
    categorical: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A column of a table whose entries are levels, though they look like numbers or dates. Repeatable."""
    integer: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A column of a table that holds whole numbers, though it has two different ones, or codes such as 007: its holes are
    filled with whole numbers, as are those of all columns of whole numbers. Repeatable."""
    drop: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A column of a table that is not modelled, such as an identifier; `cogen fill` carries it along. Repeatable."""
    folder: Path | None = None
    """Where the files of a known data set lie; default data/NAME."""
    download: bool = False
    """Fetch a known data set that is not there."""
    range: tuple[float, float] | None = None
    """The values of an array that are black and white; the default is 0 255 for integers and 0 1 for floats."""
    size: int | None = None
    """Crop pictures to a square and resize them to this."""
    crop_from: int | None = None
    """Pairs only: resize them to this, and take crops of --size at places that are drawn anew in every batch: 286 of 256."""
    mirror: bool = False
    """Half of the images of every batch are mirrored, left to right: for things that have no handedness."""
    output: Path = Path("generator")
    """Writes OUTPUT.safetensors, OUTPUT.json and OUTPUT.png, OUTPUT-encoder, OUTPUT-predictor and OUTPUT-solver where there is
    one, and OUTPUT-checkpoint/."""
    network: Literal["auto", "dense", "convolutional"] = "auto"
    """Convolutional where height and width divide by four, or else dense."""
    latent_dim: int | None = None
    """Size of z, of rbm the hidden units; the default is the family's: 64 for images, 8 for a table; of pairs 8 for cvae-gan
    and its kin, and none for the others, whose draws differ by dropout, if at all. A RealNVP's is the size of x, and no
    option."""
    widths: tuple[int, ...] | None = None
    """The generator's hidden widths, or its two channel counts; the critic has them in reverse. Of a convolutional glf: the
    features of a patch and the number of blocks, 96 3, and, if fewer, the features that its first layer makes. Of pairs: the
    feature maps of every network's first layer, 64."""
    epochs: float | None = None
    """Passes over the data; the default is the family's, 20, and 200 for pairs. More of them prolong an earlier run, with the
    learning rates of the longer one."""
    batch: int | None = None
    """Items in a batch; the default is the family's, 64, and 1 for pairs."""
    learning_rate: float | None = None
    """Adam's; the default is the family's."""
    average: float | None = None
    """Decay of the moving average of the generator's weights, which is what is written; 0 writes the last weights. The default
    is the family's: 0.999 for images; for a table and for pairs the last weights are written."""
    real_target: float | None = None
    """One-sided label smoothing of a GAN: 0.9 is customary; the default is none, 1."""
    weight: float | None = None
    """Of ALICE's cycle, VEEGAN's latent error, AIM's encoder, or the distance from x where a condition is translated, in the
    generator's loss; the default is the family's."""
    langevin: int | None = None
    """Langevin steps of an energy in each training step, or sweeps of block Gibbs for rbm; the default is the family's."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """bf16-mixed is faster on GPUs, and on CPUs with AMX."""
    accelerator: Literal["cpu", "cuda", "auto"] = "cpu"
    """Where it runs."""
    devices: int = 1
    """How many of them."""
    threads: int = 0
    """Threads for torch; 0 leaves its choice."""
    save_every: int = 1_000
    """Steps between checkpoints."""
    half: bool = False
    """Write the generator's weights in half precision: half the bytes."""
    noise_images: int = 64
    """Held-out images, or pairs, on which the noise scale is chosen."""
    seed: int = 0
    """Weights, batches and latents follow from it."""


@dataclass
class Guide:
    """Train a guide of a generator: what its latent may be, given any part of what it makes. `cogen complete` starts from it.

    It learns from pairs that the generator makes, under masks of all kinds and as thumbnails; no data are needed."""

    generator: str
    """The path of a generator's files, or another that `cogen complete` takes."""
    foreign: tyro.conf.OmitArgPrefixes[Foreign] = field(default_factory=Foreign)
    output: Path | None = None
    """Where to write: OUTPUT.safetensors and OUTPUT.json; the default is GENERATOR-guide, where `cogen complete` finds it."""
    steps: int = 20_000
    """Training steps."""
    batch: int = 256
    """Pairs in a step."""
    learning_rate: float = 1e-3
    """Adam's; it falls to zero over the second half."""
    masks: int = 4_000
    """Masks in stock, a fifth each of halves, hidden boxes, seen boxes, random pixels and brush strokes."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """bf16-mixed is faster on GPUs, and on CPUs with AMX."""
    accelerator: Literal["cpu", "cuda", "auto"] = "cpu"
    """Where it runs."""
    threads: int = 0
    """Threads for torch; 0 leaves its choice."""
    half: bool = False
    """Write the weights in half precision: half the bytes."""
    seed: int = 0
    """Weights, pairs and masks follow from it."""


@dataclass
class Tune:
    """Find how much annealing a view of a generator needs, on items that the generator makes, and store it beside it.

    `cogen complete` then runs with these temperatures and step sizes: frozen, and no longer than it takes."""

    generator: str
    """The path of a generator's files, or another that `cogen complete` takes."""
    foreign: tyro.conf.OmitArgPrefixes[Foreign] = field(default_factory=Foreign)
    view: Literal["half", "box", "centre", "random", "thumbnail", "gray"] = "half"
    """What is seen, as in `cogen complete`."""
    start: Literal["auto", "guide", "prior"] = "auto"
    """Where the annealing starts: from the guide beside the generator, if there is one."""
    temperatures: tuple[int, ...] = (5, 10, 20, 40, 80)
    """Numbers of temperatures to try; the least that arrives is stored."""
    leapfrog: int = 10
    """Gradients at each temperature."""
    items: int = 64
    """Simulated items."""
    chains: int = 8
    """Chains of each."""
    seed: int = 0
    """Every number of the run follows from it."""
    output: Path | None = None
    """Where to write; the default is GENERATOR-tuning.json, where `cogen complete` finds it. Other views in the file stay."""


@dataclass
class Fill:
    """Fill the holes of a table with a generator that `cogen train vae --data TABLE.csv` made."""

    table: tyro.conf.Positional[Path]
    """A CSV file with the columns of the training table, with holes: empty entries, pandas' words, those of the training."""
    generator: str
    """The path of the generator's files."""
    missing: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """One more word that stands for a hole. Repeatable; write --missing=WORD where it begins with a dash."""
    carry: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A column that was not in the training table, such as an identifier: it stays as it is. Repeatable. Those of
    `cogen train --drop` are carried anyway."""
    checkpoint: Path | None = None
    """A folder where the run keeps its state: one that was stopped goes on with the same command."""
    imputations: int = 5
    """How many whole draws to write besides the best guess."""
    chains: int = 32
    """Chains per row."""
    warmup: int = 200
    """Temperatures of the annealing, at most: a row takes as many as it needs, few where the encoder of the training fits."""
    samples: int = 10
    """Draws per chain."""
    seed: int = 0
    """Every number of the run follows from it."""
    output: Path = Path("cogen-filled")
    """Folder for filled.csv, imputation-1.csv and so on (all but the holes byte for byte as it was), and posterior.nc."""


@dataclass
class Diagnose:
    """Print the summary of a posterior that was written, and say in words what looks wrong."""

    posterior: tyro.conf.Positional[Path]
    """A posterior.nc of `cogen complete`, or any NetCDF file of an ArviZ object that `infer` returned."""


@dataclass
class Inspect:
    """Say what is in a file of weights, or in a generator, and whether it can be used as it is. Nothing is written."""

    generator: tyro.conf.Positional[str]
    """As `cogen complete` takes it: a shipped name, a file, a folder, MODULE:FUNCTION or FILE.py:FUNCTION."""
    foreign: tyro.conf.OmitArgPrefixes[Foreign] = field(default_factory=Foreign)


@dataclass
class Generators:
    """List the generators that are shipped, with size, data and licence."""

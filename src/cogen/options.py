"""Options of the commands, as dataclasses for tyro; the docstring below a field is its help text.

Nothing heavy is imported, so that `cogen --help` is fast.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from cogen.conditions import FACTOR
from cogen.models.families.registry import FAMILIES

if TYPE_CHECKING:
    Name = str
else:
    Name = Literal[tuple(FAMILIES)]

CHAINS = 16
"""Chains per image by default."""

Words = Annotated[tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]], tyro.conf.arg(metavar="TEXT [TEXT ...]")]
"""An option that takes several values and can be repeated, as in `--drop id name --drop date`; see `joined`."""


def joined(given: tuple[tuple[str, ...], ...], option: str) -> tuple[str, ...]:
    """The values of an option of type `Words`.

    :raises ValueError: for an option without a value.
    """
    if () in given:
        raise ValueError(f"--{option}: it has no value; write --{option} VALUE")
    return tuple(value for values in given for value in values)


ViewName = Literal["half", "box", "centre", "random", "thumbnail", "gray"]


@dataclass
class Foreign:
    """How to read a generator that was trained elsewhere (docs/generators.md)."""

    module: str | None = None
    """The network for the weights in a file: MODULE:FUNCTION or FILE.py:FUNCTION, a function or class that takes no
    arguments and returns a torch module. Its code is run."""
    latent_dim: int | None = None
    """Size of z, if it cannot be inferred from the network."""
    allow_pickle: bool = False
    """Also read .pt, .pth, .ckpt, .bin and .pt2 files that hold more than tensors. Reading such a file can run code from it:
    allow it only for files that you trust."""


@dataclass
class Complete:
    """Complete images of which a part is seen, by draws from p(z | seen part) pushed through a generator.

    With `--mask` the images have missing parts. Without it they are whole, and `--view` selects what is seen."""

    generator: str = "digits"
    """A shipped generator (see `cogen generators`); the path of a .safetensors file with its .json beside it; a folder or
    hf://USER/REPOSITORY of the Hugging Face hub; or MODULE:FUNCTION or FILE.py:FUNCTION, a function or class that takes no
    arguments and returns a torch module (its code is run). `cogen inspect` shows what a file contains. An energy of `cogen
    train ebm` or `rbm` works too: seen pixels stay fixed, and its own sampler draws the others."""
    foreign: tyro.conf.OmitArgPrefixes[Foreign] = field(default_factory=Foreign)
    images: Path | None = None
    """A picture, a folder of pictures, or an .npy or .npz array. The default is sixteen shipped test images of the kind that
    the generator makes."""
    range: tuple[float, float] | None = None
    """The values of an array that are black and white; the default is 0 255 for integers and 0 1 for floats."""
    negative: bool = False
    """The images are negatives of what the generator makes, such as dark digits on light paper for `digits`. The results have
    the colours of the images."""
    count: int = 16
    """The largest number of images to complete."""
    mask: str | None = None
    """Which pixels are seen: one picture for all images, white where they are seen; a folder with a picture of the same name
    for each image; `alpha` for the opaque part of the images; `nan` for the finite values of an array."""
    invert_mask: bool = False
    """White pixels of the mask are hidden."""
    truth: Path | None = None
    """The whole images, to score the completions: a picture, or a folder with the same names. With `--view` whole
    images are the truth themselves."""
    fit: Literal["crop", "resize", "patch"] | None = None
    """How to complete images of another size than the generator's: `crop` completes their centre, `resize` the whole image
    at the generator's size, `patch` every part of the generator's size separately."""
    paste: Literal["auto", "yes", "no"] = "auto"
    """Whether written images keep their seen pixels exactly. `auto` keeps them with `--mask`."""
    keep_draws: int = 4
    """Number of draws to write for each image."""
    label: tuple[str, ...] = ()
    """The class of all images, or one for each image, if the generator is conditional: integers from 0 on, or class names,
    separated by spaces or commas. `unknown` infers the class of each image and prints the probabilities
    (docs/unknown_class.md): one weighted run for each class, which costs as much as completing that many times more images.
    The defaults are then --weighted --chains 64 --warmup 200 --pilot 16; fewer chains or transitions give larger standard
    errors."""
    context: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=PICTURES: condition images of a generator that takes them: one for all images, or one for each. Generators of
    `cogen train pix2pix` and the other families of pairs call them `condition`. Repeatable."""
    view: tyro.conf.UseAppendAction[tuple[ViewName, ...]] = ()
    """What is seen of whole images: `half`; all but a `box` or the `centre`; `random` pixels; a `thumbnail` (means of 4 x 4
    pixels); `gray` (the luma). Repeatable, also beside `--mask`: all of them are seen. The default without a mask is `half`.
    Images of a thumbnail's size, and gray images for a colour generator, are taken as what is seen."""
    side: Literal["top", "bottom", "left", "right"] = "top"
    """With `--view half`: the half that is seen."""
    box: tuple[int, int, int, int] | None = None
    """With `--view box`: top, left, height and width of the hidden box, in pixels of the generator."""
    share: float = 0.25
    """With `--view random`: the share of the pixels that is seen, between 0 and 1."""
    algorithm: Literal[
        "annealed-hmc",
        "langevin",
        "parallel-tempering",
        "hmc",
        "nuts",
        "gradient-descent",
        "importance",
        "svi",
        "learned-descent",
    ] = "annealed-hmc"
    """The inference algorithm. `svi` fits a normal distribution with independent coordinates. `learned-descent` draws from
    the predictor beside a generator of `cogen train cgml`, without further sampling."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE: a setting of the algorithm, as in --set num_leapfrog=20 --set step_size=0.05. Repeatable."""
    backend: Literal["numpyro", "pyro"] = "numpyro"
    """The library that runs the algorithm. Pyro's own HMC and NUTS run one chain after another."""
    chains: int | None = None
    """Chains per image. The default is 16, with `--label unknown` 64."""
    warmup: int | None = None
    """Warm-up transitions: annealing from the reference distribution to the posterior, adaptation, or optimization. The
    default is the number that `cogen tune` stored for the generator and the view, with its step sizes and temperatures;
    without one 60, 1000 for `svi`, and 200 with `--label unknown`."""
    tuning: Path | None = None
    """A file of `cogen tune --output`, with schedules of annealed HMC (the number of temperatures, their spread and the step
    sizes); the default is the file beside the generator. A schedule is used only for its view, its start and 0.8 to 1.2 times
    its noise scale. A given file without such a schedule is an error."""
    guide: str = "auto"
    """The reference distribution where annealed HMC starts: `auto` uses the guide beside the generator, if there is one that
    was trained for such a view; `none` uses the prior; `predictor` uses the end points of the predictor beside a generator
    of `cogen train cgml`; otherwise the path of a guide that `cogen guide` trained."""
    samples: int = 5
    """Draws per chain."""
    pilot: int = 0
    """Chains of a pilot run that adapts the step sizes. The run itself keeps them fixed, so its evidence is unbiased. 0
    makes no pilot, except with `--label unknown`, where the default is 16."""
    threshold: float | None = None
    """With `--weighted`: chains are resampled when their weight ESS falls below this share of their number; default 0.5."""
    checkpoint: Path | None = None
    """A folder where the run saves its state. The same command resumes an interrupted run."""
    weighted: bool = False
    """With annealed HMC: weight and resample the chains as they cool. This estimates the evidence and the probabilities of
    modes, and needs more chains and temperatures, as in `--chains 32 --warmup 300 --pilot 16`. Without it all chains have
    equal weight."""
    certify: bool = False
    """Test for every image whether the generator fits it and whether the sampler converged (certificate.csv): the p-value of
    the seen part, the rank of its evidence among 79 simulated images, and bounds of the evidence of a similar simulated
    image. This makes weighted runs of `--chains` and `--warmup`, with step sizes from pilots of 8 chains unless tuned ones
    are stored. For sixteen images it costs about eleven times the gradients of completing them."""
    engine: Literal["in-process", "ray"] = "in-process"
    """Where images are completed: in this process, or by Ray workers (pip install 'cogen-ppl[ray]')."""
    workers: int = 2
    """Processes of `--engine ray`. The draws do not depend on it."""
    items_at_once: int | None = None
    """Images per compiled block. The default is at most 128 chains and 8 images a block on a CPU."""
    noise: float | Literal["fit"] | None = None
    """Standard deviation of the noise of a pixel, in the generator's units (scaled for thumbnails and the luma, which are
    means of pixels). `fit` estimates it from the seen part (five times the residual). The default was chosen on held-out data
    when the generator was trained."""
    seed: int = 0
    """Seed of all random numbers."""
    output: Path = Path("cogen-output")
    """Folder for the results: completed/ (the mean, the standard deviation and draws of each image), report.html,
    posterior.nc, completions.png, annealing.png, metrics.json and run.toml. Results of an earlier run in the folder are
    replaced."""
    config: Path | None = None
    """A run.toml of an earlier run: its options are used unless they are given again."""

    @property
    def num_chains(self) -> int:
        """Chains per image; the default is that of images whose class, if any, is given."""
        return CHAINS if self.chains is None else self.chains


@dataclass
class Train:
    """Train a generator on your data, for `cogen complete --generator`. The same command resumes an interrupted run."""

    family: tyro.conf.Positional[Name]
    """What to train: see docs/families.md."""
    data: str = "mnist"
    """mnist, fashion-mnist, cifar10 or celeba; a folder of pictures, with a subfolder for each class if there are classes; an
    .npy array, or an .npz with `images` and, for classes, `labels`; or a TABLE.csv (vae only). Families of pairs (pix2pix and
    others) take a folder of pictures that show two images side by side, or an .npz of images and conditions."""
    condition: Literal["right", "left", "centre", "edges", "sketch"] = "right"
    """Families of pairs: the condition is the right or left half of every picture and x the other half, or it is computed
    from whole images: `centre` hides their centre, `edges` and `sketch` use scikit-image."""
    missing: Words = ()
    """Words that stand for a missing value in a table, besides empty entries and those of pandas (NA, NULL, ...). Write
    --missing=WORD for one that begins with a dash, and repeat the option for each. `cogen fill` uses them too."""
    categorical: Words = ()
    """Columns of a table whose entries are categories although they look like numbers or dates. Give several, or repeat the
    option for each column."""
    integer: Words = ()
    """Columns of a table that hold whole numbers although they have only two values, or codes such as 007. Missing values of
    all columns of whole numbers are filled with whole numbers. Give several, or repeat the option for each column."""
    drop: Words = ()
    """Columns of a table that are not modelled, such as identifiers, dates and free text. `cogen fill` copies them unchanged.
    Give several, or repeat the option for each column."""
    folder: Path | None = None
    """Folder of a known data set; default data/NAME."""
    download: bool = False
    """Download a known data set if it is not there."""
    range: tuple[float, float] | None = None
    """The values of an array that are black and white; the default is 0 255 for integers and 0 1 for floats."""
    size: int | None = None
    """Crop pictures to a square and resize them to this."""
    crop_from: int | None = None
    """Families of pairs: resize pictures to this and take a random crop of --size in every batch, as in 286 and 256."""
    mirror: bool = False
    """Mirror half of the images of every batch, left to right."""
    output: Path = Path("generator")
    """Writes OUTPUT.safetensors, OUTPUT.json, OUTPUT.png and OUTPUT-checkpoint/, and OUTPUT-encoder, OUTPUT-predictor and
    OUTPUT-solver if the family has them."""
    network: Literal["auto", "dense", "convolutional"] = "auto"
    """`auto` is convolutional if height and width are divisible by four, dense otherwise."""
    latent_dim: int | None = None
    """Size of z; for rbm the number of hidden units. The default depends on the family: 64 for images, 8 for a table, for
    pairs 8 for cvae-gan and related families and 0 for the others, which vary by dropout if at all. A RealNVP has as many
    latents as x has values."""
    widths: tuple[int, ...] | None = None
    """The generator's hidden widths, or its two channel counts; the critic uses them in reverse. A convolutional glf takes
    the features of a patch, the number of blocks (96 3) and optionally the features of its first layer. Families of pairs
    take one number, the feature maps of the first layer (64)."""
    epochs: float | None = None
    """Passes over the data; the default is the family's, usually 20, and 200 for pairs. For a table the default is 20, or more
    for at least 3,000 steps. A larger number continues an earlier run, with the learning-rate schedule of the longer run."""
    batch: int | None = None
    """Items in a batch; the default is the family's, usually 64, and 1 for pairs."""
    learning_rate: float | None = None
    """Learning rate of Adam; the default is the family's."""
    average: float | None = None
    """Decay of the moving average of the generator's weights, which are the weights that are written. 0 writes the last
    weights. The default is the family's: 0.999 for images, 0 for tables and pairs."""
    real_target: float | None = None
    """One-sided label smoothing of a GAN: 0.9 is customary; the default is 1, no smoothing."""
    weight: float | None = None
    """Weight of a term of the generator's loss: ALICE's cycle, VEEGAN's latent error, AIM's encoder, or the distance from x
    of the families of pairs. The default is the family's."""
    langevin: int | None = None
    """Langevin steps of an energy per training step, or sweeps of block Gibbs for rbm; the default is the family's."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """bf16-mixed is faster on GPUs, and on CPUs with AMX."""
    accelerator: Literal["cpu", "cuda", "auto"] = "cpu"
    """The device to train on."""
    devices: int = 1
    """Number of devices."""
    threads: int = 0
    """Threads of torch; 0 uses torch's default."""
    save_every: int = 1_000
    """Steps between checkpoints."""
    half: bool = False
    """Write the generator's weights in half precision, in half the bytes."""
    noise_images: int = 64
    """Held-out images or pairs used to choose the noise scale."""
    seed: int = 0
    """Seed of weights, batches and latents."""


@dataclass
class Guide:
    """Train a guide for a generator: an approximate posterior of z given any part of x, where `cogen complete` starts.

    It learns from pairs (z, x) simulated by the generator, under many masks and as thumbnails; no data are needed."""

    generator: str
    """The path of a generator's files, or any other generator that `cogen complete` takes."""
    foreign: tyro.conf.OmitArgPrefixes[Foreign] = field(default_factory=Foreign)
    output: Path | None = None
    """Writes OUTPUT.safetensors and OUTPUT.json; the default is GENERATOR-guide, where `cogen complete` finds it."""
    steps: int = 20_000
    """Training steps."""
    batch: int = 256
    """Simulated pairs per step."""
    learning_rate: float = 1e-3
    """Learning rate of Adam; it falls to zero over the second half."""
    masks: int = 4_000
    """Number of training masks: a fifth each of halves, hidden boxes, seen boxes, random pixels and brush strokes."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """bf16-mixed is faster on GPUs, and on CPUs with AMX."""
    accelerator: Literal["cpu", "cuda", "auto"] = "cpu"
    """The device to train on."""
    threads: int = 0
    """Threads of torch; 0 uses torch's default."""
    half: bool = False
    """Write the weights in half precision, in half the bytes."""
    seed: int = 0
    """Seed of weights, pairs and masks."""


@dataclass
class Tune:
    """Find the annealing schedule that a view of a generator needs, on simulated items, and store it beside the generator.

    `cogen complete` then uses these temperatures and step sizes without adaptation."""

    generator: str
    """The path of a generator's files, or any other generator that `cogen complete` takes."""
    foreign: tyro.conf.OmitArgPrefixes[Foreign] = field(default_factory=Foreign)
    view: Literal["half", "box", "centre", "random", "thumbnail", "gray"] = "half"
    """What is seen, as in `cogen complete`."""
    factor: int = FACTOR
    """With `--view thumbnail`: how many times smaller than the generator's images the thumbnails are."""
    noise: float | None = None
    """As in `cogen complete`: the standard deviation of the noise of a pixel. The default is the generator's own."""
    start: Literal["auto", "guide", "prior"] = "auto"
    """The reference distribution: `auto` uses the guide beside the generator if `cogen complete` would start from it."""
    temperatures: tuple[int, ...] = (5, 10, 20, 40, 80)
    """Numbers of temperatures to try. The smallest whose completions are as good as those of the largest is stored."""
    leapfrog: int = 10
    """Leapfrog steps (gradients) at each temperature."""
    items: int = 64
    """Simulated items."""
    chains: int = 8
    """Chains per item."""
    seed: int = 0
    """Seed of all random numbers."""
    output: Path | None = None
    """Where to write; the default is GENERATOR-tuning.json, where `cogen complete` finds it. Schedules of
    other views, starts and noise scales are kept."""


@dataclass
class Fill:
    """Fill the missing values of a table with a generator that `cogen train vae --data TABLE.csv` trained."""

    table: tyro.conf.Positional[Path]
    """A CSV file with the columns of the training table and missing values: empty entries, those of pandas (NA, NULL, ...),
    and the words given at training."""
    generator: str
    """The path of the generator's files."""
    missing: Words = ()
    """More words that stand for a missing value. Write --missing=WORD for one that begins with a dash, and repeat the option
    for each."""
    carry: Words = ()
    """Columns that were not in the training table, such as identifiers: they are copied unchanged. Give several, or repeat the
    option for each column. Columns of `cogen train --drop` are copied anyway."""
    checkpoint: Path | None = None
    """A folder where the run saves its state. The same command resumes an interrupted run."""
    imputations: int = 5
    """Number of tables to write besides filled.csv, each with a draw of all missing entries."""
    chains: int = 32
    """Chains per row."""
    warmup: int = 200
    """The largest number of temperatures of the annealing. A row uses as many as it needs, few if the encoder fits it."""
    samples: int = 10
    """Draws per chain."""
    seed: int = 0
    """Seed of all random numbers."""
    output: Path = Path("cogen-filled")
    """Folder for filled.csv, uncertainty.csv (a line for each missing entry), imputation-1.csv and so on, and posterior.nc. In
    filled.csv and the imputations only the missing values differ from the input."""


@dataclass
class Diagnose:
    """Print the summary and the diagnostics of a stored posterior."""

    posterior: tyro.conf.Positional[Path]
    """A posterior.nc or the output folder of `cogen complete`, or any NetCDF file of an ArviZ object that `infer` returned."""


@dataclass
class Inspect:
    """Show what a file of weights or a generator contains and whether it can be used as it is. Nothing is written."""

    generator: tyro.conf.Positional[str]
    """A generator as `cogen complete` takes it: a shipped name, a file, a folder, MODULE:FUNCTION or FILE.py:FUNCTION."""
    foreign: tyro.conf.OmitArgPrefixes[Foreign] = field(default_factory=Foreign)


@dataclass
class Generators:
    """List the shipped generators, with size, data and licence."""

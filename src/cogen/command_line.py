"""The command line: `cogen complete`, `train`, `fill`, `diagnose` and `generators`.

Options are dataclasses that tyro reads; strings become objects in `completion`. What a user can get wrong ends in one line and
exit code 2. Nothing heavy is imported before it is needed, so that `cogen --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass
class Complete:
    """Complete images of which a part is seen: draws from p(z | seen part), pushed through a generator."""

    generator: str = "mnist"
    """A shipped generator (see `cogen generators`), or the path of a .safetensors file with its .json beside it."""
    images: Path | None = None
    """A picture, a folder of pictures, or an .npy/.npz array; the default is the sixteen test digits that are shipped."""
    range: tuple[float, float] | None = None
    """The values of an array that are black and white; the default is 0 255 for integers and 0 1 for floats."""
    count: int = 16
    """How many images to complete at the most."""
    label: int | None = None
    """The class, where the generator is conditional."""
    view: Literal["half", "box", "centre", "random", "thumbnail", "gray"] = "half"
    """What is seen: the top half; all but a box or the centre; a random quarter of the pixels; a thumbnail; the luma."""
    algorithm: Literal["annealed-hmc", "hmc", "nuts", "gradient-descent", "importance"] = "annealed-hmc"
    """How the posterior is computed."""
    backend: Literal["numpyro", "pyro"] = "numpyro"
    """Pyro runs its own HMC and NUTS, one chain after another."""
    chains: int = 32
    """Chains per image."""
    warmup: int = 300
    """Transitions of warm-up: the annealing from the prior to the posterior, or adaptation, or descent."""
    samples: int = 20
    """Draws per chain."""
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
    """Folder for posterior.nc, completions.png, annealing.png and metrics.json; those of an earlier run are replaced."""


@dataclass
class Train:
    """Train a generator on your data, for `cogen complete --generator`. A run that was stopped goes on where it was."""

    family: tyro.conf.Positional[
        Literal[
            "gan", "saturating-gan", "cgan", "wgan", "wgan-gp", "fgan", "unrolled-gan", "vae", "cvae", "realnvp", "ali",
            "bigan", "alice", "veegan", "aim", "aim-minus",
        ]
    ]  # fmt: skip
    """What is trained: see docs/families.md."""
    data: str = "mnist"
    """mnist, fashion-mnist, cifar10 or celeba; a folder of pictures, an .npy or .npz array; or a TABLE.csv (vae only)."""
    missing: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A word that stands for a hole in a table, besides empty entries and those of pandas (NA, NULL, ...). Repeatable; write
    --missing=WORD where it begins with a dash. `cogen fill` remembers it."""
    categorical: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A column of a table whose entries are levels, though they look like numbers or dates. Repeatable."""
    folder: Path | None = None
    """Where the files of a known data set lie; default data/NAME."""
    download: bool = False
    """Fetch a known data set that is not there."""
    range: tuple[float, float] | None = None
    """The values of an array that are black and white; the default is 0 255 for integers and 0 1 for floats."""
    size: int | None = None
    """Crop pictures to a square and resize them to this."""
    output: Path = Path("generator")
    """Writes OUTPUT.safetensors, OUTPUT.json and OUTPUT.png, OUTPUT-encoder where there is one, and OUTPUT-checkpoint/."""
    network: Literal["auto", "dense", "convolutional"] = "auto"
    """Convolutional where height and width divide by four, or else dense."""
    latent_dim: int | None = None
    """Size of z: 64 for images, 8 for a table (a RealNVP's is the size of x)."""
    widths: tuple[int, ...] | None = None
    """The generator's hidden widths, or its two channel counts; the critic has them in reverse."""
    epochs: float = 20.0
    """Passes over the data."""
    batch: int = 64
    """Images in a batch."""
    learning_rate: float | None = None
    """Adam's; the default is the family's."""
    average: float = 0.999
    """Decay of the moving average of the generator's weights, which is what is written; 0 writes the last weights."""
    real_target: float = 1.0
    """One-sided label smoothing of a GAN: 0.9 is customary."""
    weight: float | None = None
    """Of ALICE's cycle, VEEGAN's latent error, or AIM's encoder in the generator's loss; the default is the family's."""
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
    noise_images: int = 64
    """Held-out images on which the noise scale is chosen."""
    seed: int = 0
    """Weights, batches and latents follow from it."""


@dataclass
class Fill:
    """Fill the holes of a table with a generator that `cogen train vae --data TABLE.csv` made."""

    table: tyro.conf.Positional[Path]
    """A CSV file with the columns of the training table, with holes: empty entries, pandas' words, those of the training."""
    generator: str
    """The path of the generator's files."""
    missing: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """One more word that stands for a hole. Repeatable; write --missing=WORD where it begins with a dash."""
    imputations: int = 5
    """How many whole draws to write besides the best guess."""
    chains: int = 32
    """Chains per row."""
    warmup: int = 200
    """Transitions of the annealing from the prior to the posterior."""
    samples: int = 20
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
class Generators:
    """List the generators that are shipped, with size, data and licence."""


Command = (
    Annotated[Complete, tyro.conf.subcommand("complete")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Fill, tyro.conf.subcommand("fill")]
    | Annotated[Diagnose, tyro.conf.subcommand("diagnose")]
    | Annotated[Generators, tyro.conf.subcommand("generators")]
)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; exit with 2 for what the user got wrong, 130 after Ctrl-C."""
    command = tyro.cli(Command, prog="cogen", args=arguments, description="Co-generation as posterior inference.")  # type: ignore[call-overload]
    try:
        _run(command)
    except KeyboardInterrupt:
        on = "the same command goes on from the last checkpoint, if one was written"
        written = on if isinstance(command, Train) else "nothing was written"
        sys.exit(_complain(f"interrupted; {written}", 130))
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        if os.environ.get("COGEN_TRACEBACK"):
            raise
        sys.exit(_complain(_one_line(error), 2))


def _run(command: Complete | Train | Fill | Diagnose | Generators) -> None:
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning, module="arviz")
    warnings.showwarning = lambda message, *_, **__: _complain(f"warning: {message}", 0)  # type: ignore[assignment]
    match command:
        case Complete():
            from cogen.completion import complete

            complete(command)
        case Train():
            from cogen.training import train_family

            train_family(command)
        case Fill():
            from cogen.tables import fill

            fill(command)
        case Diagnose():
            from cogen.completion import diagnose

            diagnose(command.posterior)
        case Generators():
            from cogen.models.storage.generators import shipped_generators

            for name, config in shipped_generators().items():
                shape = " x ".join(map(str, config.event_shape))
                print(
                    f"{name:12} {config.bytes / 2**20:.2f} MiB, latent {config.latent_dim}, makes {shape}: {config.description}"
                )
                print(f"{'':12} trained on {config.training_data}; licence: {config.licence}")


def _complain(message: str, code: int) -> int:
    print(f"cogen: {message}", file=sys.stderr)
    return code


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    main()

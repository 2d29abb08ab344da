"""The command line: `cogen complete`, `train`, `guide`, `tune`, `fill`, `diagnose`, `inspect` and `generators`.

User errors are reported in one line with exit code 2. Heavy imports happen when they are needed, so `cogen --help` is fast.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated

import tyro

from cogen.configuration import with_configuration
from cogen.options import Complete, Diagnose, Fill, Generators, Guide, Inspect, Train, Tune

Command = (
    Annotated[Complete, tyro.conf.subcommand("complete")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Guide, tyro.conf.subcommand("guide")]
    | Annotated[Tune, tyro.conf.subcommand("tune")]
    | Annotated[Fill, tyro.conf.subcommand("fill")]
    | Annotated[Diagnose, tyro.conf.subcommand("diagnose")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Generators, tyro.conf.subcommand("generators")]
)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; exit with 2 after a user error, with 130 after Ctrl-C."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        given = with_configuration(given)
    except (ValueError, OSError) as error:
        sys.exit(_print_error(_one_line(error), 2))
    if given == ["--version"]:
        print(f"cogen {version('cogen-ppl')}")
        return
    if {"-h", "--help"} & set(given):
        _join_help_lines()
    try:
        _interpret(given)
    except BrokenPipeError:  # as in cogen complete --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _interpret(given: list[str]) -> None:
    """Read the options and run the command."""
    command = tyro.cli(Command, prog="cogen", args=given, description="Co-generation as posterior inference.")
    try:
        _run(command)
    except KeyboardInterrupt:
        on = "the same command resumes from the last checkpoint, if one was written"
        kept = isinstance(command, Train | Guide) or (isinstance(command, Fill | Complete) and command.checkpoint is not None)
        written = on if kept else "nothing was written"
        if isinstance(command, Fill | Complete) and not kept:
            written += "; use --checkpoint FOLDER for a run that can be resumed"
        sys.exit(_print_error(f"interrupted; {written}", 130))
    except BrokenPipeError:
        raise
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        if os.environ.get("COGEN_TRACEBACK"):
            raise
        sys.exit(_print_error(_one_line(error), 2))


def help_texts(options: type) -> dict[str, str]:
    """The help texts of a class of options, by field, one line each."""
    import docstring_parser

    parameters = docstring_parser.parse_from_object(options).params
    return {each.arg_name: " ".join(each.description.split()) for each in parameters if each.description}


def _join_help_lines() -> None:
    """Put the help texts of options into `:param` fields of their class.

    docstring_parser keeps the indentation of attribute docstrings, and tyro then prints a line break at each of their lines.
    """
    from cogen.options import Foreign

    for options in (Complete, Train, Guide, Tune, Fill, Diagnose, Inspect, Foreign):
        fields = [f":param {name}: {text}" for name, text in help_texts(options).items()]
        options.__doc__ = "\n".join([*(options.__doc__ or "").splitlines(), "", *fields])


def _run(command: Complete | Train | Guide | Tune | Fill | Diagnose | Inspect | Generators) -> None:
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning, module="arviz")
    warnings.showwarning = lambda message, *_, **__: _print_error(f"warning: {message}", 0)  # type: ignore[assignment]
    match command:
        case Complete():
            from cogen.completion import complete

            complete(command)
        case Train():
            from cogen.models.families.recipe import Kind
            from cogen.pairs import train_on_pairs
            from cogen.tables import train_on_table
            from cogen.training import check, kind_of, train_on_images

            check(command)
            {Kind.TABLE: train_on_table, Kind.PAIRS: train_on_pairs}.get(kind_of(command), train_on_images)(command)
        case Guide():
            from cogen.guides import train_guide

            train_guide(command)
        case Tune():
            from cogen.tuning import tune

            tune(command)
        case Fill():
            from cogen.tables import fill

            fill(command)
        case Diagnose():
            from cogen.completion import diagnose

            diagnose(command.posterior)
        case Inspect():
            from cogen.inspection import inspect_generator

            inspect_generator(command)
        case Generators():
            from cogen.models.storage.generators import shipped_generators

            for name, config in shipped_generators().items():
                shape = " x ".join(map(str, config.event_shape))
                print(
                    f"{name:12} {config.bytes / 2**20:.2f} MiB, latent {config.latent_dim}, makes {shape}: {config.description}"
                )
                print(f"{'':12} trained on {config.training_data}; licence: {config.licence}")


def _print_error(message: str, code: int) -> int:
    print(f"cogen: {message}", file=sys.stderr)
    return code


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    message = " ".join(str(error).split()) or type(error).__name__
    return f"--seed {message.removeprefix('seed=')}" if message.startswith("seed=") else message


if __name__ == "__main__":
    main()

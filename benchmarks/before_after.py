"""Compare the speed of this checkout with that of another one: the same work in both, in alternation, on one machine.

    git worktree add ../before COMMIT
    python benchmarks/before_after.py ../before --output docs/before_after.json

Each side is a process that imports the package and benchmarks of its checkout and compiles. In every round both do the same
work directly after each other, in alternating order. The ratio of a row is the geometric mean over rounds of seconds here /
seconds there, with its standard error. Work that needs a new process every time (a first call of `infer`, the steps of the
trainer) is done in new processes, also in alternation.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

HERE = Path(__file__).resolve().parents[1]


@dataclass
class Options:
    other: Annotated[Path, tyro.conf.Positional]
    """The other checkout."""
    transitions: int = 20
    """Transitions of every kernel per round."""
    rounds: int = 15
    process_rounds: int = 5
    """Rounds of work that needs new processes."""
    training_steps: int = 8
    """Training steps of the convolutional networks; the dense ones make twenty times as many."""
    output: Path | None = None
    """JSON file for the record."""


# --- the work, in a process of either checkout -----------------------------------------------------------------------


def kernels(transitions: int) -> dict[str, Callable[[], float]]:
    """Functions that do a piece of work and return its seconds."""
    import numpyro.infer
    import peer_samplers as peers
    import speed

    from cogen.inference import AnnealedHMC

    def timed(work: Callable[[], object]) -> Callable[[], float]:
        def seconds() -> float:
            start = time.perf_counter()
            work()
            return time.perf_counter() - start

        return seconds

    def per_gradient(program: peers.Program, numbers: peers.Numbers) -> Callable[[], float]:
        """Seconds per gradient, since the random keys of two checkouts, and with them the temperatures, may differ."""

        def seconds() -> float:
            outcome, took = program(1, numbers)
            return took / float(outcome.gradients)

        return seconds

    dense, _ = speed.conditioned("mnist", 16)
    convolutional, _ = speed.conditioned("mnist_dcgan", 4)
    one, _ = speed.conditioned("mnist", 1)
    hmc = functools.partial(numpyro.infer.HMC, step_size=0.01, num_steps=10, trajectory_length=None, adapt_step_size=False)
    numbers = peers.Numbers(leapfrog=5, ess=0.5, step=0.1, acceptance=0.65, follows=1.0, mass=0.0)
    adaptive = peers.annealed(peers.model_of(one), 256, peers.LIMIT, peers.adaptive(1))
    annealed = AnnealedHMC(num_leapfrog=10)
    return {
        "speed.py: AnnealedHMC, dense": timed(speed.through_inference(dense, annealed, 32, transitions)),
        "speed.py: AnnealedHMC, convolutional": timed(speed.through_inference(convolutional, annealed, 32, transitions)),
        "speed.py: NumPyro's HMC, dense": timed(speed.through_inference(dense, hmc, 32, transitions)),
        "speed.py: PyroAnnealedHMC, convolutional": timed(speed.through_pyro(convolutional, 32, 10, transitions)),
        "peers.py: adaptive AnnealedHMC, image": per_gradient(peers.Program(adaptive, numbers), numbers),
    }


def calls_of_infer() -> dict[str, float]:
    """Seconds of the first call in a process, and of a second call with other data."""
    import torch

    from cogen.inference import AnnealedHMC, infer
    from cogen.models import CoGenerator, views

    torch.manual_seed(0)
    model = CoGenerator(torch.nn.Linear(4, 4), latent_dim=4, views={"seen": views.Identity(scale=0.1)})
    took = {}
    for name in ("infer, 4 x 4 linear generator: first call", "infer, 4 x 4 linear generator: second call"):
        seen = model.condition(seen=np.random.default_rng(len(took)).standard_normal((1, 4)).astype(np.float32))
        start = time.perf_counter()
        infer(seen, AnnealedHMC(), num_warmup=100, num_samples=50, num_chains=16, seed=0, progress=False)
        took[name] = time.perf_counter() - start
    return took


def work(what: str, transitions: int) -> None:
    """Answer each line of standard input with a line of JSON: names of pieces of work, with their seconds."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # redirect the output of the work to standard error
    if what == "infer":
        print(json.dumps(calls_of_infer()), file=answer, flush=True)
        return
    pieces = kernels(transitions)
    for piece in pieces.values():
        piece()
    print(json.dumps(list(pieces)), file=answer, flush=True)
    for line in sys.stdin:
        print(json.dumps(pieces[line.rstrip("\n")]()), file=answer, flush=True)


# --- the comparison -------------------------------------------------------------------------------------------------


def process(checkout: Path, *arguments: str, **streams: Any) -> subprocess.Popen[str]:
    folders = os.pathsep.join(str(checkout / folder) for folder in ("src", "benchmarks"))
    environment = {**os.environ, "PYTHONPATH": folders, "PYTHONSAFEPATH": "1"}
    return subprocess.Popen([sys.executable, *arguments], env=environment, text=True, **streams)


def worker(checkout: Path, *arguments: str) -> subprocess.Popen[str]:
    return process(checkout, __file__, "--work", *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def answer(side: subprocess.Popen[str], question: str | None = None) -> Any:
    assert side.stdin
    assert side.stdout
    if question is not None:
        print(question, file=side.stdin, flush=True)
    line = side.stdout.readline()
    if not line:
        raise RuntimeError(f"a process ended without an answer: {shlex.join(map(str, side.args))}")  # type: ignore[arg-type]
    return json.loads(line)


def steps_of_training(checkout: Path, steps: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "record.json"
        script = str(checkout / "benchmarks" / "training.py")
        arguments = ("--rounds", "1", "--steps", str(steps), "--output", str(found))
        if process(checkout, script, *arguments, stdout=subprocess.DEVNULL).wait():
            raise RuntimeError(f"{script} failed")
        rows = json.loads(found.read_text(encoding="utf-8"))["rows"]
    return {f"training.py: {row['family']}, {row['networks']}": row["milliseconds"] / 1e3 for row in rows}


def first_calls(checkout: Path) -> dict[str, float]:
    side = worker(checkout, "infer")
    found: dict[str, float] = answer(side)
    side.wait()
    return found


def in_turns(rounds: int, here: Callable[[], dict[str, float]], there: Callable[[], dict[str, float]]) -> dict[str, np.ndarray]:
    """The seconds of every piece of work, (2, round): here and there."""
    found = []
    for turn in range(rounds):
        pair = {}
        for index in (0, 1) if turn % 2 else (1, 0):
            pair[index] = (here, there)[index]()
        found.append(pair)
    return {name: np.array([[pair[i][name] for pair in found] for i in (0, 1)]) for name in found[0][0]}


def main(options: Options) -> None:
    other = options.other.resolve()
    if not (other / "src" / "cogen").is_dir():
        raise SystemExit(f"{options.other}: this is not a checkout of cogen")
    seconds: dict[str, np.ndarray] = {}
    sides = [worker(checkout, "kernels", str(options.transitions)) for checkout in (HERE, other)]
    names = [answer(side) for side in sides]
    for name in names[0]:
        ask = [lambda side=side, name=name: {name: answer(side, name)} for side in sides]
        seconds |= report(in_turns(options.rounds, *ask))
    for side in sides:
        side.communicate()
    seconds |= report(in_turns(options.process_rounds, lambda: first_calls(HERE), lambda: first_calls(other)))
    steps = options.training_steps
    seconds |= report(
        in_turns(options.process_rounds, lambda: steps_of_training(HERE, steps), lambda: steps_of_training(other, steps))
    )
    if options.output:
        commits = [
            subprocess.run(["git", "rev-parse", "HEAD"], cwd=c, capture_output=True, text=True, check=True).stdout.strip()
            for c in (HERE, other)
        ]
        record = {
            "command": shlex.join(["python", "benchmarks/before_after.py", *sys.argv[1:]]),
            "commits": dict(zip(("here", "there"), commits, strict=True)),
            "seconds": {name: dict(zip(("here", "there"), pair.tolist(), strict=True)) for name, pair in seconds.items()},
            "ratios": {
                name: dict(zip(("ratio", "standard_error"), ratio(*pair), strict=True)) for name, pair in seconds.items()
            },
        }
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def ratio(here: np.ndarray, there: np.ndarray) -> tuple[float, float]:
    """The geometric mean over rounds (round,), and its standard error."""
    logs = np.log(here / there)
    mean = float(np.exp(logs.mean()))
    return mean, mean * float(logs.std(ddof=1)) / len(logs) ** 0.5


def report(seconds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for name, (here, there) in seconds.items():
        mean, error = ratio(here, there)
        print(
            f"{name:52} {np.median(there):9.4g} s to {np.median(here):9.4g} s, ratio {mean:.3f} (s.e. {error:.3f})", flush=True
        )
    return seconds


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], int(sys.argv[3]) if sys.argv[3:] else 0)
    else:
        main(tyro.cli(Options, description=__doc__))

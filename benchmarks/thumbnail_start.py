"""Where the annealing of thumbnails of several sizes should start: at the guide, which was trained for one size, or the prior.

    python benchmarks/thumbnail_start.py --output docs/thumbnail_start_digits.json
    python benchmarks/thumbnail_start.py --generator fashion --output docs/thumbnail_start_fashion.json

`cogen tune` runs for each factor and start. Both starts complete the same simulated images with the same numbers of gradients,
so their CRPS are compared at equal cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from records import write_record

from cogen.compiled_before import remember_compiled
from cogen.models import load_generator, load_guide
from cogen.options import Tune
from cogen.tuning import tuned


@dataclass
class Options:
    generator: str = "digits"
    factors: tuple[int, ...] = (2, 4, 7)
    temperatures: tuple[int, ...] = (8, 16, 32, 64)
    items: int = 48
    chains: int = 8
    leapfrog: int = 10
    seed: int = 0
    output: Path | None = None


def main(options: Options) -> None:
    remember_compiled()
    generator, guide = load_generator(options.generator), load_guide(options.generator)
    assert guide is not None
    rows: list[dict[str, Any]] = []
    for factor in options.factors:
        for start, reference in (("guide", guide), ("prior", None)):
            print(f"\nthumbnails of factor {factor} from the {start}")
            asked = Tune(
                generator=options.generator,
                view="thumbnail",
                factor=factor,
                temperatures=options.temperatures,
                items=options.items,
                chains=options.chains,
                leapfrog=options.leapfrog,
                seed=options.seed,
            )
            found = tuned(asked, generator, reference)
            row = {"generator": options.generator, "factor": factor, "start": start, "chosen": found.temperatures}
            rows += [row | each for each in found.figures["rows"]]
    write_record(options.output, rows=rows)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

"""What a run keeps of its transitions, and the groups of results that are made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from cogen.inference.items import ItemModel, site_dims
from cogen.inference.warmup_path import WarmupPath, common_points, side_by_side

Groups = dict[str, dict[str, tuple[tuple[str, ...], np.ndarray]]]


class Records(NamedTuple):
    """Of transitions, each array (transition, item, ...); of one transition of one item, without these axes."""

    sites: dict[str, Any]
    """Constrained values of the latent sites, (chain, *shape)."""
    statistics: dict[str, Any]
    """By their ArviZ names, (chain,)."""
    path: dict[str, Any]
    """Scalars that tell how the warm-up goes."""
    n_steps: Any
    """Gradient evaluations of all chains."""


def statistics_of(info: Any, exact: bool, weighted: bool = True) -> dict[str, Any]:
    """What is kept of the info of a transition. Of draws beta is one; chains that did not start from exact draws have neither
    weights nor evidence, and those that all count the same no populations either."""
    left_out = {"beta"} if exact and weighted else {"beta", "log_weight", "population_log_evidence"}
    left_out |= set() if weighted else {"population", "ancestor"}
    return {name: value for name, value in info._asdict().items() if value is not None and name not in left_out}


def facts_of(facts: dict[str, Any], exact: bool) -> dict[str, Any]:
    """What the results remember of a kernel: of chains that did not start from exact draws, no kind of evidence."""
    return facts if exact else {**facts, "evidence_kind": ""}


@dataclass
class BlockRecords:
    """What is kept of a block of items."""

    path: WarmupPath
    draws: list[dict[str, dict[str, np.ndarray]]] = field(default_factory=list)
    """Chunk by chunk: sites and statistics, (draw, item, chain, ...) each."""
    gradients: Any = 0
    """(item,): evaluations since the first transition."""

    @property
    def num_draws(self) -> int:
        return sum(len(next(iter(chunk["sites"].values()))) for chunk in self.draws)

    def add(self, records: Records, made: int, warming: bool) -> None:
        self.gradients = self.gradients + np.asarray(records.n_steps[:made], np.int64).sum(axis=0)
        if warming:
            self.path.extend(records.path, made)
        elif made:
            self.draws.append({"sites": dict(records.sites), "statistics": dict(records.statistics)})

    def to_arrays(self) -> dict[str, Any]:
        """As a nested mapping of arrays, for a checkpoint."""
        drawn = self.drawn() if self.draws else {}
        return {"path": self.path.to_arrays(), "drawn": drawn, "gradients": np.asarray(self.gradients)}

    def restore(self, stored: dict[str, Any]) -> None:
        """Take what `to_arrays` gave."""
        self.path.restore(stored["path"])
        self.draws, self.gradients = [stored["drawn"]] if stored.get("drawn") else [], stored["gradients"]

    def drawn(self) -> dict[str, dict[str, np.ndarray]]:
        """All draws, (draw, item, chain, ...) each."""
        first = self.draws[0]
        return {
            kind: {name: np.concatenate([chunk[kind][name] for chunk in self.draws]) for name in first[kind]} for kind in first
        }


def groups_of(blocks: Sequence[BlockRecords], counts: Sequence[int], items: ItemModel | None) -> Groups:
    """The groups of results of blocks with so many items each (the rest is filling)."""
    item = () if items is None else ("item",)
    lead = ("chain", "draw", *item)
    groups: Groups = {"posterior": {}, "sample_stats": {}, "warmup_sample_stats": {}}

    def own(values: np.ndarray, axis: int) -> np.ndarray:
        return values if item else values.take(0, axis)

    parts = [block.drawn() for block in blocks]
    for kind, group in (("sites", "posterior"), ("statistics", "sample_stats")):
        for name in parts[0][kind]:
            value = np.concatenate([part[kind][name][:, :n] for part, n in zip(parts, counts, strict=True)], axis=1)
            value = own(np.moveaxis(value, 2, 0), 2)  # (chain, draw, [item,] ...)
            dims = site_dims(items, name, value.ndim - len(lead)) if kind == "sites" else ()
            groups[group][name] = ((*lead, *dims), value)
    transitions, paths = common_points([block.path for block in blocks])
    if transitions.size:
        groups["warmup_sample_stats"]["transition"] = (("draw",), transitions)
    for name in paths[0][0].keys() - {"transition"} if transitions.size else ():
        stacked = [np.stack([point[name] for point in path])[:, :n] for path, n in zip(paths, counts, strict=True)]
        groups["warmup_sample_stats"][name] = (("draw", *item), own(np.concatenate(stacked, axis=1), 1))
    for name, value in kept_whole(blocks, counts).items():
        groups["warmup_sample_stats"][f"ladder_{name}"] = (("warmup_transition", *item), own(value, 1))
    if items is not None:
        groups.update({name: dict(group) for name, group in items.result_groups().items()})
    return groups


def kept_whole(blocks: Sequence[BlockRecords], counts: Sequence[int]) -> dict[str, np.ndarray]:
    """What is kept of every transition of the warm-up, (transition, item) each."""
    parts = [
        {name: value[:, :n] for name, value in block.path.ladder().items()} for block, n in zip(blocks, counts, strict=True)
    ]
    return {name: side_by_side([part[name] for part in parts]) for name in parts[0]}

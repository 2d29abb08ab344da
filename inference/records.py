"""What a run records of its transitions, and the result groups made from the records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from cogen.inference.items import ItemModel, site_dims
from cogen.inference.warmup_path import WarmupPath, common_points, side_by_side

Groups = dict[str, dict[str, tuple[tuple[str, ...], np.ndarray]]]


class Records(NamedTuple):
    """Records of transitions: arrays (transition, item, ...). Those of a single transition of one item lack these axes."""

    sites: dict[str, Any]
    """Constrained values of the latent sites, (chain, *shape)."""
    statistics: dict[str, Any]
    """Sample statistics by their ArviZ names, (chain,)."""
    path: dict[str, Any]
    """Scalars that describe the progress of the warm-up."""
    n_steps: Any
    """Gradient evaluations over all chains."""


def statistics_of(info: Any, exact: bool, weighted: bool = True) -> dict[str, Any]:
    """The recorded fields of a transition's info.

    At draws beta is one. Chains that did not start from exact draws have neither weights nor evidence; chains with equal
    weights have no populations either.
    """
    left_out = {"beta"} if exact and weighted else {"beta", "log_weight", "population_log_evidence"}
    left_out |= set() if weighted else {"population", "ancestor"}
    return {name: value for name, value in info._asdict().items() if value is not None and name not in left_out}


def facts_of(facts: dict[str, Any], exact: bool) -> dict[str, Any]:
    """Kernel attributes stored in the results; without exact starting draws the evidence kind is empty."""
    return facts if exact else {**facts, "evidence_kind": ""}


@dataclass
class BlockRecords:
    """The records of a block of items."""

    path: WarmupPath
    keep_warmup: int = 0
    """Chains whose positions during the warm-up are kept."""
    positions: WarmupPath = field(default_factory=WarmupPath)
    """The positions of these chains at the transitions of ``path``: sites (item, chain, *shape)."""
    draws: list[dict[str, dict[str, np.ndarray]]] = field(default_factory=list)
    """The sites and statistics of each chunk, arrays (draw, item, chain, ...)."""
    gradients: Any = 0
    """Gradient evaluations since the first transition, (item,)."""

    @property
    def num_draws(self) -> int:
        return sum(len(next(iter(chunk["sites"].values()))) for chunk in self.draws)

    def add(self, records: Records, made: int, warming: bool) -> None:
        self.gradients = self.gradients + np.asarray(records.n_steps[:made], np.int64).sum(axis=0)
        if warming:
            self.path.extend(records.path, made)
            if self.keep_warmup:
                self.positions.extend({name: value[:, :, : self.keep_warmup] for name, value in records.sites.items()}, made)
        elif made:
            self.draws.append({"sites": dict(records.sites), "statistics": dict(records.statistics)})

    def to_arrays(self) -> dict[str, Any]:
        """The records as a nested mapping of arrays, for a checkpoint."""
        drawn = self.drawn() if self.draws else {}
        kept = {"positions": self.positions.to_arrays()} if self.keep_warmup else {}
        return {"path": self.path.to_arrays(), "drawn": drawn, "gradients": np.asarray(self.gradients), **kept}

    def restore(self, stored: dict[str, Any]) -> None:
        """Restore the records from the output of `to_arrays`."""
        self.path.restore(stored["path"])
        if self.keep_warmup:
            self.positions.restore(stored["positions"])
        self.draws, self.gradients = [stored["drawn"]] if stored.get("drawn") else [], stored["gradients"]

    def drawn(self) -> dict[str, dict[str, np.ndarray]]:
        """The concatenated draws of all chunks, arrays (draw, item, chain, ...)."""
        first = self.draws[0]
        return {
            kind: {name: np.concatenate([chunk[kind][name] for chunk in self.draws]) for name in first[kind]} for kind in first
        }


def groups_of(blocks: Sequence[BlockRecords], counts: Sequence[int], items: ItemModel | None) -> Groups:
    """Assemble the result groups of all blocks.

    :param counts: the number of items of each block; the rest is padding.
    """
    item = () if items is None else ("item",)
    lead = ("chain", "draw", *item)
    groups: Groups = {"posterior": {}, "sample_stats": {}, "warmup_sample_stats": {}, "warmup_posterior": {}}

    def own(values: np.ndarray, axis: int) -> np.ndarray:
        return values if item else values.take(0, axis)

    parts = [block.drawn() for block in blocks]
    for kind, group in (("sites", "posterior"), ("statistics", "sample_stats")):
        for name in parts[0][kind]:
            value = np.concatenate([part[kind][name][:, :n] for part, n in zip(parts, counts, strict=True)], axis=1)
            value = own(np.moveaxis(value, 2, 0), 2)  # (chain, draw, [item,] ...)
            dims = site_dims(items, name, value.ndim - len(lead)) if kind == "sites" else ()
            groups[group][name] = ((*lead, *dims), value)
    for name, value in _along([block.path for block in blocks], counts).items():
        dims = ("draw",) if name == "transition" else ("draw", *item)
        groups["warmup_sample_stats"][name] = (dims, value if name == "transition" else own(value, 1))
    for name, value in _along([block.positions for block in blocks], counts).items():
        if name == "transition":
            groups["warmup_posterior"][name] = (("draw",), value)
            continue
        value = own(np.moveaxis(value, 2, 0), 2)  # (chain, draw, [item,] ...)
        groups["warmup_posterior"][name] = ((*lead, *site_dims(items, name, value.ndim - len(lead))), value)
    for name, value in kept_whole(blocks, counts).items():
        groups["warmup_sample_stats"][f"ladder_{name}"] = (("warmup_transition", *item), own(value, 1))
    if items is not None:
        groups.update({name: dict(group) for name, group in items.result_groups().items()})
    return groups


def _along(paths: Sequence[WarmupPath], counts: Sequence[int]) -> dict[str, np.ndarray]:
    """The points of warm-up paths: ``transition`` (draw,), and the recorded arrays (draw, item, ...); empty without points."""
    transitions, points = common_points(list(paths))
    found = {"transition": transitions} if transitions.size else {}
    for name in points[0][0].keys() - {"transition"} if transitions.size else ():
        stacked = [np.stack([point[name] for point in path])[:, :n] for path, n in zip(points, counts, strict=True)]
        found[name] = np.concatenate(stacked, axis=1)
    return found


def kept_whole(blocks: Sequence[BlockRecords], counts: Sequence[int]) -> dict[str, np.ndarray]:
    """The statistics recorded at every warm-up transition, arrays (transition, item)."""
    parts = [
        {name: value[:, :n] for name, value in block.path.ladder().items()} for block, n in zip(blocks, counts, strict=True)
    ]
    return {name: side_by_side([part[name] for part in parts]) for name in parts[0]}

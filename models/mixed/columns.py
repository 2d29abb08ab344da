"""Rows of a mixed table as a view: what is seen of continuous, binary and categorical columns, hole by hole.

The generator of a table makes the parameters of every column's distribution, in the order of the columns: one number for a
continuous column, one for a binary one, K for a categorical one of K levels. Given them the columns are independent,

    continuous:   y ~ Normal(mean, scale), in the schema's standardised units
    binary:       y ~ Bernoulli(1 / (1 + exp(-logit)))
    categorical:  y ~ Categorical(softmax(logits))

so what ties them together is the latent. Data have one number per column, as `Schema.encode` makes them, and NaN in the
holes; every row may have its own. What is drawn of the view, the ``posterior_predictive`` of `infer(..., keep_x=True)`, are
whole rows:

    model = CoGenerator(generator, views={"row": MixedColumns.of(generator)})
    posterior = infer(model.condition(row=rows), AnnealedHMC(), ..., keep_x=True)
    drawn = schema.decode(posterior["posterior_predictive"]["row"].values)  # {column: (chain, draw, item)}

References:
    Nazabal, Olmos, Ghahramani, Valera. Handling incomplete heterogeneous data using VAEs. Pattern Recognition 2020
        (section 3: one likelihood for each kind of column, holes left out of the product).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cogen.models.data.column_parameters import NEVER, parameter_places
from cogen.models.data.tables import Schema
from cogen.models.likelihoods import Normal, Scale
from cogen.models.views import View


def level_probabilities(schema: Schema, parameters: np.ndarray) -> dict[str, np.ndarray]:
    """The probabilities of the levels of each binary and categorical column, (..., level), given parameters (..., parameter).

    The mean over posterior draws of x is the probability that the posterior gives to each level.
    """
    parameters = np.asarray(parameters, dtype=np.float64)
    where = parameter_places(schema)
    if parameters.shape[-1:] != (where.size,):
        raise ValueError(f"the parameters have shape {parameters.shape}; {_parameters_of(schema)}")
    fixed = np.broadcast_to([0.0, NEVER], (*parameters.shape[:-1], 2))
    logits = np.concatenate([parameters, fixed], axis=-1)[..., where.logits]  # (..., discrete, level)
    weight = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=NEVER))
    shares = weight / weight.sum(axis=-1, keepdims=True)
    columns = [schema.columns[at] for at in where.discrete]
    return {column.name: shares[..., at, : len(column.levels)] for at, column in enumerate(columns)}


@dataclass(frozen=True, eq=False)
class MixedNoise:
    """The columns' distributions given their parameters, as one elementwise distribution of batch shape (item, column).

    :param scale: of the continuous columns: positive numbers (continuous,), a distribution over one, or None without such.
    """

    schema: Schema
    scale: Scale | None

    def pyro(self, location: Tensor, scale: Any) -> Any:
        from cogen.models.mixed.rows_torch import MixedRows

        return MixedRows(location, 1.0 if scale is None else scale, self.schema)

    def numpyro(self, location: Any, scale: Any) -> Any:
        from cogen.models.mixed.rows_jax import MixedRows

        return MixedRows(location, 1.0 if scale is None else scale, self.schema)

    def check(self, values: np.ndarray) -> str | None:
        """What is wrong with rows (item, column), NaN where hidden, or None."""
        for at in parameter_places(self.schema).discrete:
            column, entries = self.schema.columns[at], values[:, at]
            levels = len(column.levels)
            wrong = ~np.isnan(entries) & ~np.isin(entries, np.arange(levels))
            if wrong.any():
                item = int(np.argmax(wrong))
                codes = "0 or 1" if levels == 2 else f"a whole number from 0 to {levels - 1}"
                return (
                    f"row {item} holds {entries[item]:g} in column {column.name!r}, which is {column.kind}: give {codes}, the"
                    f" number of one of its levels ({', '.join(column.levels)}), as Schema.encode does, or NaN for a hole"
                )
        return None


class MixedColumns(View):
    """Rows of a table, of which every entry is seen or a hole (NaN).

    :param schema: the columns; the generator makes their parameters in this order.
    :param scale: standard deviation of the continuous columns around their means, in standardised units: a number, a number
        by name of the column, or a distribution over one positive number (sampled with z as the site ``<view>_scale``).
    :param mask: boolean (column,) or (item, column), True = seen; entries that it hides are holes, whatever they are.

    >>> from cogen.models import CoGenerator
    >>> schema = Schema.of({"age": [20, 30, 40], "smokes": ["no", "yes", "no"]})
    >>> model = CoGenerator(nn.Linear(3, 2), latent_dim=3, views={"row": MixedColumns(schema, scale=0.5)})
    >>> seen = model.condition(row=schema.encode({"age": [30, None], "smokes": [None, "yes"]}))
    >>> seen.item_data["row"]["mask"].tolist()
    [[True, False], [False, True]]

    Raises ValueError for scales that are missing, not positive or of no continuous column, and a mask of another shape or one
    that hides everything; TypeError for a mask that is not boolean.
    """

    holes = True

    def __init__(
        self,
        schema: Schema,
        *,
        scale: float | Mapping[str, float] | torch.distributions.Distribution | None = None,
        mask: np.ndarray | Tensor | None = None,
    ) -> None:
        super().__init__(likelihood=MixedNoise(schema, _scales(schema, scale)))
        self.schema = schema
        if mask is not None:
            mask = torch.as_tensor(mask)
            if mask.dtype != torch.bool:
                raise TypeError(f"a mask is boolean, True = seen; this one is {mask.dtype}")
            if mask.ndim not in (1, 2) or mask.shape[-1] != len(schema.columns):
                raise ValueError(
                    f"the mask has shape {tuple(mask.shape)}, the table has {len(schema.columns)} columns: give (column,) or"
                    " (item, column)"
                )
            if not bool(mask.any()):
                raise ValueError("the mask hides every column, so nothing is left to condition on; show at least one")
            self.mask = mask

    @classmethod
    def of(cls, generator: nn.Module, *, mask: np.ndarray | Tensor | None = None) -> MixedColumns:
        """The view of the table that a saved generator was trained on, with the noise scales found there.

        Raises ValueError for a generator whose configuration holds no schema.
        """
        stored = getattr(getattr(generator, "config", None), "schema", None)
        if stored is None:
            raise ValueError(
                f"this {type(generator).__name__} carries no schema of a table: give MixedColumns(schema, scale=...)"
            )
        return cls(Schema.from_json(stored), scale=stored.get("noise_scale") or None, mask=mask)

    def forward(self, x: Tensor) -> Tensor:
        return x

    def shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        if event_shape != (parameter_places(self.schema).size,):
            raise ValueError(f"the generator makes an x of shape {event_shape}; {_parameters_of(self.schema)}")
        return (len(self.schema.columns),)

    def check(self, values: np.ndarray, seen: np.ndarray) -> str | None:
        return self.likelihood.check(np.where(seen, values, np.nan))


def _scales(schema: Schema, scale: Any) -> Scale | None:
    """One number for each continuous column, or the distribution over a common one."""
    names = [schema.names[at] for at in parameter_places(schema).continuous]
    if not names:
        if scale:
            raise ValueError(f"scale={scale}: the table has no continuous column, so there is no noise scale; leave it out")
        return None
    if scale is None:
        raise ValueError(f"the columns {', '.join(names)} are continuous: give the scale of their noise, scale=...")
    if isinstance(scale, Mapping):
        if strange := [name for name in scale if name not in names]:
            raise ValueError(f"scale names {strange[0]!r}, which is no continuous column; these are {', '.join(names)}")
        if missing := [name for name in names if name not in scale]:
            raise ValueError(f"scale leaves out the continuous column {missing[0]!r}; give a number for each")
        scale = torch.tensor([float(scale[name]) for name in names])
    elif not isinstance(scale, torch.distributions.Distribution):
        scale = torch.full((len(names),), float(scale))
    return Normal(scale).scale  # which refuses what is not positive


def _parameters_of(schema: Schema) -> str:
    return f"the {len(schema.columns)} columns of the table have {parameter_places(schema).size} parameters"

"""Rows of a mixed table as a view: continuous, binary and categorical columns with missing entries.

The generator of a table makes the parameters of every column's distribution, in the order of the columns: one for a continuous
column, one for a binary column, K for a categorical column of K levels. Given the parameters the columns are independent,

    continuous:   y ~ Normal(mean, scale), in the schema's standardised units
    binary:       y ~ Bernoulli(1 / (1 + exp(-logit)))
    categorical:  y ~ Categorical(softmax(logits))

so that all dependence is through the latent. Data have one value per column, as encoded by `Schema.encode`, and NaN where
missing, which may differ between rows. Draws of the view, the ``posterior_predictive`` of `infer(..., keep_x=True)`, are
complete rows:

    model = CoGenerator(generator, views={"row": MixedColumns.of(generator)})
    posterior = infer(model.condition(row=rows), AnnealedHMC(), ..., keep_x=True)
    drawn = schema.decode(posterior["posterior_predictive"]["row"].values)  # {column: (chain, draw, item)}

References:
    Nazabal, Olmos, Ghahramani, Valera. Handling incomplete heterogeneous data using VAEs. Pattern Recognition 2020
        (section 3: one likelihood for each kind of column, the product over seen entries).
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

    The mean over posterior draws of x is the posterior probability of each level.
    """
    parameters = np.asarray(parameters, dtype=np.float64)
    where = parameter_places(schema)
    if parameters.shape[-1:] != (where.size,):
        raise ValueError(f"the parameters have shape {parameters.shape}, but {_parameters_of(schema)}")
    fixed = np.broadcast_to([0.0, NEVER], (*parameters.shape[:-1], 2))
    logits = np.concatenate([parameters, fixed], axis=-1)[..., where.logits]  # (..., discrete, level)
    weight = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=NEVER))
    shares = weight / weight.sum(axis=-1, keepdims=True)
    columns = [schema.columns[at] for at in where.discrete]
    return {column.name: shares[..., at, : len(column.levels)] for at, column in enumerate(columns)}


@dataclass(frozen=True, eq=False)
class MixedNoise:
    """The columns' distributions given their parameters, as one elementwise distribution of batch shape (item, column).

    :param scale: standard deviation of the continuous columns: positive, (continuous,); a distribution over a common value; or
        None without continuous columns.
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
        """The reason why rows (item, column), NaN where hidden, are invalid, or None."""
        for at in parameter_places(self.schema).discrete:
            column, entries = self.schema.columns[at], values[:, at]
            levels = len(column.levels)
            wrong = ~np.isnan(entries) & ~np.isin(entries, np.arange(levels))
            if wrong.any():
                item = int(np.argmax(wrong))
                codes = "0 or 1" if levels == 2 else f"an integer from 0 to {levels - 1}"
                return (
                    f"row {item} holds {entries[item]:g} in column {column.name!r}, which is {column.kind}: give {codes}, the"
                    f" code of a level ({', '.join(column.levels)}) as in Schema.encode, or NaN if missing"
                )
        return None


class MixedColumns(View):
    """Rows of a table in which every entry is seen or missing (NaN).

    :param schema: the columns; the generator makes their parameters in this order.
    :param scale: standard deviation of the continuous columns around their means, in standardised units: a float, floats by
        column name, or a distribution over a common positive value (sampled with z as the site ``<view>_scale``).
    :param mask: boolean (column,) or (item, column), True = seen; hidden entries are missing, whatever their values.
    :raises ValueError: for scales that are missing, not positive or of a column that is not continuous, a mask of another
        shape, or a mask that hides everything.
    :raises TypeError: for a mask that is not boolean.

    >>> from cogen.models import CoGenerator
    >>> schema = Schema.of({"age": [20, 30, 40], "smokes": ["no", "yes", "no"]})
    >>> model = CoGenerator(nn.Linear(3, 2), latent_dim=3, views={"row": MixedColumns(schema, scale=0.5)})
    >>> seen = model.condition(row=schema.encode({"age": [30, None], "smokes": [None, "yes"]}))
    >>> seen.item_data["row"]["mask"].tolist()
    [[True, False], [False, True]]
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
            mask = mask if isinstance(mask, Tensor) else torch.as_tensor(np.require(mask, requirements="W"))
            if mask.dtype != torch.bool:
                raise TypeError(f"the mask must be boolean, True = seen, but is {mask.dtype}")
            if mask.ndim not in (1, 2) or mask.shape[-1] != len(schema.columns):
                raise ValueError(
                    f"the mask has shape {tuple(mask.shape)}, but the table has {len(schema.columns)} columns: give (column,)"
                    " or (item, column)"
                )
            if not bool(mask.any()):
                raise ValueError("the mask hides every column; show at least one")
            self.mask = mask

    @classmethod
    def of(cls, generator: nn.Module, *, mask: np.ndarray | Tensor | None = None) -> MixedColumns:
        """The view of the training table of a saved generator, with its noise scales.

        :raises ValueError: for a generator whose configuration has no schema.
        """
        stored = getattr(getattr(generator, "config", None), "schema", None)
        if stored is None:
            raise ValueError(f"this {type(generator).__name__} has no table schema: use MixedColumns(schema, scale=...)")
        return cls(Schema.from_json(stored), scale=stored.get("noise_scale") or None, mask=mask)

    def forward(self, x: Tensor) -> Tensor:
        return x

    def shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        if event_shape != (parameter_places(self.schema).size,):
            raise ValueError(f"the generator's x has shape {event_shape}, but {_parameters_of(self.schema)}")
        return (len(self.schema.columns),)

    def check(self, values: np.ndarray, seen: np.ndarray) -> str | None:
        return self.likelihood.check(np.where(seen, values, np.nan))


def _scales(schema: Schema, scale: Any) -> Scale | None:
    """The scale of each continuous column, or the distribution over a common scale."""
    names = [schema.names[at] for at in parameter_places(schema).continuous]
    if not names:
        if scale:
            raise ValueError(f"scale={scale}: the table has no continuous column; omit scale")
        return None
    if scale is None:
        raise ValueError(f"the columns {', '.join(names)} are continuous: give their noise scale, scale=...")
    if isinstance(scale, Mapping):
        if unknown := [name for name in scale if name not in names]:
            raise ValueError(f"scale names {unknown[0]!r}, but the continuous columns are {', '.join(names)}")
        if missing := [name for name in names if name not in scale]:
            raise ValueError(f"scale lacks the continuous column {missing[0]!r}; give a scale for each")
        scale = torch.tensor([float(scale[name]) for name in names])
    elif not isinstance(scale, torch.distributions.Distribution):
        scale = torch.full((len(names),), float(scale))
    return Normal(scale).scale  # checks that scales are positive


def _parameters_of(schema: Schema) -> str:
    return f"the {len(schema.columns)} columns of the table have {parameter_places(schema).size} parameters"

"""The encoder of rows with missing entries, q(z | seen entries): the guide of a generator of tables.

    q(z | y_S) = Normal(mean(y_S, S), sd(y_S, S)),        S the seen columns

It is trained with the generator (`cogen.models.families.tabular_vae`), and is the start of the annealing of `cogen fill`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from cogen.models.data.column_parameters import parameter_places
from cogen.models.data.tables import Schema
from cogen.models.networks.architectures import DenseEncoder

if TYPE_CHECKING:
    from cogen.models.cogenerator import CoGenerator


class RowEncoder(nn.Module):
    """Rows (item, column), NaN where missing, -> mean and log standard deviation of q(z | seen entries), by a perceptron.

    Its inputs are continuous values (0 if missing), one-hot levels (all 0 if missing), and whether each column is missing.
    """

    levels: Tensor

    def __init__(self, schema: Schema, latent_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        where = parameter_places(schema)
        self.continuous, self.discrete = where.continuous.tolist(), where.discrete.tolist()
        self.schema = schema
        self.register_buffer("levels", torch.arange(where.logits.shape[1], dtype=torch.float32), persistent=False)
        features = len(schema.columns) + len(self.continuous) + where.logits.size
        self.network = DenseEncoder(latent_dim, (features,), hidden)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        holes = torch.isnan(rows)
        values = torch.where(holes, torch.zeros_like(rows), rows)[:, self.continuous]
        one_hot = (rows[:, self.discrete, None] == self.levels).to(rows.dtype)  # NaN equals no level
        return self.network(torch.cat([values, one_hot.flatten(1), holes.to(rows.dtype)], dim=1))

    def moments(self, seen: CoGenerator) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | seen entries), each (item, latent), of the rows of a conditioned `CoGenerator`.

        :raises ValueError: for a model that is not conditioned on one view of the columns, `MixedColumns`.
        """
        data = seen.item_data
        if len(data) != 1:
            raise ValueError(
                f"the encoder needs a model conditioned on one view, but this one is conditioned on {list(data) or 'none'}"
            )
        ((name, entry),) = data.items()
        columns = len(self.schema.columns)
        if "mask" not in entry or entry["value"].shape[1:] != (columns,):
            raise ValueError(
                f"view {name!r} has shape {entry['value'].shape[1:]}, but the encoder takes rows of {columns} columns:"
                " condition on MixedColumns"
            )
        rows = np.where(entry["mask"], entry["value"], np.float32(np.nan))
        with torch.no_grad():
            mean, log_sd = self(torch.from_numpy(rows).to(self.levels.device))
        return mean.cpu(), log_sd.exp().cpu()

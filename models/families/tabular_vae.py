"""A variational autoencoder of mixed tables with missing entries: the decoder is a generator of the columns' parameters.

For the seen entries y_S of a row, of any columns,

    log p(y_S) >= E_q(z | y_S) sum over S of log p(y_j | G(z)) - KL(q(z | y_S) || Normal(0, 1))

with the columns' distributions of `cogen.models.mixed.columns`, and one noise scale per continuous column, learned with the
networks. The encoder's input is the values, with zeros for missing entries, and the mask of missing entries. Training tables
may have missing entries, and further entries of a batch are hidden at random, a different fraction in each row, so that the
encoder is an amortised guide q(z | y_S) for any S.

The bound of a row with further hidden entries is that of the remaining entries, log p(y_S), which has the same maximum. If the
loss included the entries hidden from the encoder, q(z | y_S) would become the normalised geometric mean of the posteriors given
whole rows, exp E log p(z | y), which is narrower than p(z | y_S).

`TabularVAE.model` and `TabularVAE.guide` are the Pyro model and guide of rows. Annealing starts from the encoder's posterior:

    seen = CoGenerator(vae.generator, latent_dim=..., views={"row": MixedColumns(schema, scale=vae.scales)}).condition(row=rows)
    infer(seen, AnnealedHMC(initial=vae.start(seen)), ...)

References:
    Nazabal, Olmos, Ghahramani, Valera. Handling incomplete heterogeneous data using VAEs. Pattern Recognition 2020 (eq. 4: the
        bound over what is seen).
    Ma, Tschiatschek, Palla, Hernandez-Lobato, Nowozin, Zhang. EDDI: efficient dynamic discovery of high-value information
        with partial VAE. ICML 2019 (section 3.2: random holes, drawn anew for each batch).
    Burda, Grosse, Salakhutdinov. Importance weighted autoencoders. ICLR 2016 (equation 8: `log_likelihood`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cogen.inference.signatures import JSON
from cogen.models.data.column_parameters import parameter_places
from cogen.models.data.tables import Schema
from cogen.models.families.family import Batch, Family, Update
from cogen.models.families.recipe import Kind, Recipe
from cogen.models.families.sizes import TableSizes
from cogen.models.families.vae import kl_to_standard_normal
from cogen.models.mixed.columns import MixedNoise
from cogen.models.mixed.row_encoder import RowEncoder
from cogen.models.networks.architectures import DenseGenerator
from cogen.models.networks.encoders import normal_start, pyro_normal_start
from cogen.models.storage.encoders import EncoderConfig
from cogen.models.storage.generators import GeneratorConfig

if TYPE_CHECKING:
    from cogen.inference import GuideStart, PyroGuideStart
    from cogen.models.cogenerator import CoGenerator


class About(TypedDict, total=False):
    """The descriptive fields of a configuration."""

    name: str
    training_data: str
    licence: str
    description: str
    figures: Mapping[str, JSON]


class TabularVAE(Family):
    """An encoder of rows with missing entries, and a `DenseGenerator` of the columns' parameters.

    :param schema: the columns.
    :param latent_dim: size of z.
    :param hidden: widths of the generator's hidden layers; the encoder has them in reverse.
    :param extra_holes: fraction of the rows of a batch in which further entries are hidden, in [0, 1]; the fraction of hidden
        entries of each row is uniform in (0, 1).
    :param smallest_scale: lower bound of the noise scales, in standardised units, in (0, 1); the density of an exactly
        reproduced column is infinite.
    :param learning_rate: learning rate of AdamW.
    :param betas: betas of AdamW.
    :param weight_decay: weight decay of AdamW, on the weights of both networks.
    :raises ValueError: for settings out of range.

    >>> from cogen.models.training.trainer import train
    >>> columns = {"age": [20, 30, 40, None], "smokes": ["no", "yes", "no", "?"]}
    >>> schema = Schema.of(columns)
    >>> vae = TabularVAE(schema, latent_dim=2, hidden=(8,))
    >>> training = train(vae, vae.rows(schema.encode(columns)[:3]), num_steps=3, batch_size=2, seed=0, progress=False)
    >>> vae.config().schema["noise_scale"].keys()
    dict_keys(['age'])
    """

    encoder: RowEncoder
    generator: DenseGenerator

    def __init__(
        self,
        schema: Schema,
        latent_dim: int,
        *,
        hidden: Sequence[int] = (64, 64),
        extra_holes: float = 0.5,
        smallest_scale: float = 0.05,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= extra_holes <= 1.0:
            raise ValueError(f"extra_holes={extra_holes}: the fraction of rows must be in [0, 1]")
        if not 0.0 < smallest_scale < 1.0:
            raise ValueError(
                f"smallest_scale={smallest_scale}: it must be in (0, 1), in units of a column's standard deviation"
            )
        if latent_dim < 1:
            raise ValueError(f"latent_dim={latent_dim}: it must be at least 1")
        if any(width < 1 for width in hidden):
            raise ValueError(f"hidden={tuple(hidden)}: the widths of hidden layers must be at least 1")
        where = parameter_places(schema)
        self.schema, self.latent_dim, self.hidden = schema, latent_dim, tuple(hidden)
        self.extra_holes, self.smallest_scale = extra_holes, smallest_scale
        self.learning_rate, self.betas, self.weight_decay = learning_rate, betas, weight_decay
        self.encoder = RowEncoder(schema, latent_dim, self.hidden[::-1])
        self.generator = DenseGenerator(latent_dim, (where.size,), self.hidden, bounded=False)
        self.log_excess = nn.Parameter(torch.zeros(len(where.continuous)))
        """The logarithm of each noise scale minus ``smallest_scale``."""

    def optimizers(self) -> dict[str, Optimizer]:
        groups = [{"params": [*self.encoder.parameters(), *self.generator.parameters()], "weight_decay": self.weight_decay}]
        if self.log_excess.numel():
            groups.append({"params": [self.log_excess], "weight_decay": 0.0})
        return {"negative_elbo": torch.optim.AdamW(groups, self.learning_rate, self.betas, fused=True)}

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        rows = self.with_more_holes(batch[0])
        update("negative_elbo", lambda: self.negative_elbo(rows).mean())

    def rows(self, values: np.ndarray) -> Tensor:
        """Check encoded rows (item, column), NaN where missing, and return them for `train`, in float32.

        :raises ValueError: for another number of columns, infinite values, invalid level codes, or a column or a row without
            seen entries.
        """
        values = np.array(values, dtype=np.float32)
        if values.ndim != 2 or values.shape[1] != len(self.schema.columns) or len(values) == 0:
            raise ValueError(
                f"the rows have shape {values.shape}, but the table has {len(self.schema.columns)} columns"
                f" ({', '.join(self.schema.names)}): give (item, column), as returned by Schema.encode"
            )
        if np.isinf(values).any():
            item, at = np.argwhere(np.isinf(values))[0]
            raise ValueError(
                f"row {item} holds {values[item, at]} in column {self.schema.names[at]!r}: give a finite value, or NaN"
            )
        if reason := MixedNoise(self.schema, None).check(values):
            raise ValueError(reason)
        seen = ~np.isnan(values)
        if not seen.any(axis=0).all():
            name = self.schema.names[int(np.argmin(seen.any(axis=0)))]
            raise ValueError(f"column {name!r} is missing in all rows, so it cannot be learned; remove it from the schema")
        if not seen.any(axis=1).all():
            raise ValueError(f"row {int(np.argmin(seen.any(axis=1)))} has no seen entries; remove such rows")
        return torch.from_numpy(values)

    def with_more_holes(self, rows: Tensor) -> Tensor:
        """Rows of which some have a random fraction of their entries hidden."""
        share = torch.rand(len(rows), 1, device=rows.device)
        chosen = torch.rand(len(rows), 1, device=rows.device) < self.extra_holes
        hidden = chosen & (torch.rand(rows.shape, device=rows.device) < share)
        return rows.masked_fill(hidden, math.nan)

    def negative_elbo(self, rows: Tensor) -> Tensor:
        """The negative evidence lower bound of the seen entries of each row, with one draw of z, in nats: (item,)."""
        mean, log_sd = self.encoder(rows)
        z = mean + log_sd.exp() * torch.randn_like(mean)
        return kl_to_standard_normal(mean, log_sd) - self._log_density(z, rows)

    def log_likelihood(self, rows: Tensor, num_draws: int = 500) -> Tensor:
        """Importance-sampling lower bound of log p(seen entries) of each row, with the encoder as proposal: (item,).

        The difference of two of them estimates log p(hidden | seen).
        """
        with torch.no_grad():
            mean, log_sd = self.encoder(rows)
            proposal = torch.distributions.Normal(mean, log_sd.exp())
            z = proposal.sample(torch.Size([num_draws]))  # (draw, item, latent)
            prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
            log_weight = prior + self._log_density(z, rows) - proposal.log_prob(z).sum(-1)
        return log_weight.logsumexp(0) - math.log(num_draws)

    @property
    def scale(self) -> Tensor:
        """The noise scales of the continuous columns in standardised units, (continuous,)."""
        return self.smallest_scale + self.log_excess.exp()

    @property
    def scales(self) -> dict[str, float]:
        """`scale` by column name, the ``scale`` of `MixedColumns`."""
        names = [self.schema.names[at] for at in parameter_places(self.schema).continuous]
        return dict(zip(names, self.scale.double().tolist(), strict=True))

    def config(self, **about: Unpack[About]) -> GeneratorConfig:
        """The configuration of the generator, for `save_generator(path, vae.generator, vae.config(name=...))`.

        ``schema`` holds the columns' noise scales; ``noise_scale`` is their root mean square (1 without continuous columns),
        and ``value_range`` the range of the parameters over 4,096 draws of z.

        :param about: name, training_data, licence, description, figures.
        """
        with torch.no_grad():
            z = torch.randn(4096, self.latent_dim, generator=torch.Generator().manual_seed(0)).to(self.log_excess.device)
            made, scales = self.generator(z), self.scales
        return GeneratorConfig(
            architecture="DenseGenerator",
            arguments={
                "latent_dim": self.latent_dim,
                "event_shape": [parameter_places(self.schema).size],
                "hidden": list(self.hidden),
                "bounded": False,
            },
            latent_dim=self.latent_dim,
            event_shape=(parameter_places(self.schema).size,),
            value_range=(float(made.min()), float(made.max())),
            noise_scale=math.sqrt(sum(s**2 for s in scales.values()) / len(scales)) if scales else 1.0,
            schema={**self.schema.to_json(), "noise_scale": scales},
            **about,
        )

    def encoder_config(self, **about: Unpack[About]) -> EncoderConfig:
        """The configuration of the encoder, for `save_encoder`; ``about`` as in `config`."""
        config = self.config()
        return EncoderConfig(
            architecture="RowEncoder",
            arguments={"schema": self.schema.to_json(), "latent_dim": self.latent_dim, "hidden": list(self.hidden[::-1])},
            latent_dim=self.latent_dim,
            event_shape=(len(self.schema.columns),),
            value_range=config.value_range,
            **about,
        )

    # --- as a Pyro program -------------------------------------------------------------------------------------

    def model(self, rows: Tensor) -> None:
        """The Pyro model of rows (item, column), NaN where missing: sites ``z`` and ``row`` in the plate ``item``."""
        import pyro
        import pyro.distributions as dist

        pyro.module("vae", self)  # includes the noise scales
        seen = ~rows.isnan()
        with pyro.plate("item", len(rows), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(rows), self.latent_dim, device=rows.device), 1.0).to_event(1))
            pyro.sample("row", self._likelihood(z).mask(seen).to_event(1), obs=rows.nan_to_num())

    def guide(self, rows: Tensor) -> None:
        """The encoder as the Pyro guide of `model`."""
        import pyro
        import pyro.distributions as dist

        pyro.module("vae", self)
        mean, log_sd = self.encoder(rows)
        with pyro.plate("item", len(rows), dim=-1):
            pyro.sample("z", dist.Normal(mean, log_sd.exp()).to_event(1))

    def start(self, seen: CoGenerator, *, prior_share: float = 0.1) -> GuideStart:
        """The encoder's posterior of the rows of a conditioned `CoGenerator`, for ``AnnealedHMC(initial=...)``."""
        return normal_start(*self.encoder.moments(seen), prior_share)

    def pyro_start(self, seen: CoGenerator, *, prior_share: float = 0.1) -> PyroGuideStart:
        """`start` for ``PyroAnnealedHMC(initial=...)``."""
        return pyro_normal_start(*self.encoder.moments(seen), prior_share)

    def _likelihood(self, z: Tensor) -> Any:
        """The distribution of rows given z (..., latent): batch shape (..., column)."""
        from cogen.models.mixed.rows_torch import MixedRows

        made = self.generator(z.flatten(0, -2)).unflatten(0, z.shape[:-1])
        return MixedRows(made.to(self.scale.dtype), self.scale, self.schema, validate_args=False)  # no density in bfloat16

    def _log_density(self, z: Tensor, rows: Tensor) -> Tensor:
        """log p(seen entries of the rows | z): (..., item)."""
        log_density = self._likelihood(z).log_prob(rows.nan_to_num())
        return torch.where(rows.isnan(), 0.0, log_density).sum(-1)


# --- recipe --------------------------------------------------------------------------------------------------------


def _build(sizes: TableSizes, rates: Mapping[str, Any], *, extra_holes: float = 0.5, weight_decay: float = 0.0) -> TabularVAE:
    settings: dict[str, Any] = {"extra_holes": extra_holes, "weight_decay": weight_decay}
    return TabularVAE(sizes.schema, sizes.latent_dim, hidden=sizes.widths or (64, 64), **settings, **rates)


RECIPE = Recipe(
    _build,
    takes=frozenset({Kind.TABLE}),
    least_steps=3_000,
    latent_dim=8,
    reads=frozenset({"latent_dim", "widths"}),
    average=0.0,
)
"""The stored configuration is `TabularVAE.config`. No weights are averaged, since the noise scales fit the current weights.

Held-out rows of three tables, of 225 rows and 7 columns, 225 and 20, and 1,800 and 20, chose ``least_steps``: from 600 to 3,000
steps the log density of an entry rises by 0.2 to 0.4 nats. With 6,000 it changes by 0.02, -0.1 and 0.02: small tables with many
columns overfit."""

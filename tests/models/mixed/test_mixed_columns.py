"""Rows of mixed columns: their densities column by column, the two libraries, holes, a posterior that quadrature knows."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions
import numpyro.infer.util
import pyro
import pyro.distributions
import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Categorical, Normal

from cogen.diagnostics import log_evidence
from cogen.inference import AnnealedHMC, PyroAnnealedHMC, infer
from cogen.models import CoGenerator, load_generator, save_generator
from cogen.models.data.column_parameters import parameter_places
from cogen.models.data.tables import Column, Schema
from cogen.models.mixed import rows_jax, rows_torch
from cogen.models.mixed.columns import MixedColumns, level_probabilities
from cogen.models.networks.architectures import DenseGenerator
from cogen.models.storage.generators import GeneratorConfig

SCHEMA = Schema(
    (
        Column("colour", "categorical", levels=("blue", "green", "red")),
        Column("age", "continuous", 40.0, 12.0),
        Column("smokes", "binary", levels=("no", "yes")),
        Column("city", "categorical", levels=("a", "b", "c", "d")),
        Column("income", "continuous", 3000.0, 800.0),
    )
)
SIZE = 3 + 1 + 1 + 4 + 1
SCALE = {"income": 0.7, "age": 0.3}
ROWS = np.array([[2, 0.5, 1, 0, -1.2], [0, -0.1, 0, 3, 0.4], [1, 1.3, 1, 2, 0.0]], np.float32)
HOLED = np.array([[2, np.nan, 1, np.nan, -1.2], [np.nan, -0.1, np.nan, 3, 0.4], [1, 1.3, 1, 2, 0.0]], np.float32)
RNG = np.random.default_rng(0)
PARAMETERS = RNG.normal(size=(3, SIZE)).astype(np.float32)


def by_hand(parameters: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The log density of each entry, from the columns' own distributions."""
    p, y = torch.as_tensor(parameters).double(), torch.as_tensor(rows).double()
    columns = [
        Categorical(logits=p[..., :3]).log_prob(y[..., 0]),
        Normal(p[..., 3], 0.3).log_prob(y[..., 1]),
        Bernoulli(logits=p[..., 4]).log_prob(y[..., 2]),
        Categorical(logits=p[..., 5:9]).log_prob(y[..., 3]),
        Normal(p[..., 9], 0.7).log_prob(y[..., 4]),
    ]
    return torch.stack(columns, dim=-1).numpy()


class Line(nn.Module):
    """The parameters W z + b."""

    def __init__(self, latent: int = 2, size: int = SIZE) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(latent, size)

    def forward(self, z):
        return self.linear(z)


TRANSLATED: dict = {}


def make(**options) -> CoGenerator:
    model = CoGenerator(Line(), latent_dim=2, views={"row": MixedColumns(SCHEMA, **({"scale": SCALE} | options))})
    model._jax = TRANSLATED  # the same generator and operator each time: translated once
    return model


def log_joints(model: CoGenerator, z: np.ndarray, **sites: np.ndarray) -> tuple[float, float]:
    values = {"z": z, **sites}
    conditioned = pyro.condition(lambda: model(), data={name: torch.as_tensor(v) for name, v in values.items()})
    ours = float(pyro.poutine.trace(conditioned).get_trace().log_prob_sum())
    theirs, _ = numpyro.infer.util.log_density(model.numpyro, (), {}, {name: jnp.asarray(v) for name, v in values.items()})
    return ours, float(theirs)


# --- densities -----------------------------------------------------------------------------------------------------


def test_the_places_of_the_parameters():
    where = parameter_places(SCHEMA)
    assert where.size == SIZE
    assert where.first.tolist() == [0, 3, 4, 5, 9]
    assert where.means.tolist() == [3, 9]
    assert where.logits.tolist() == [[0, 1, 2, 11], [10, 4, 11, 11], [5, 6, 7, 8]]


def test_densities_are_those_of_the_columns():
    scale = MixedColumns(SCHEMA, scale=SCALE).likelihood.scale
    torch.testing.assert_close(scale, torch.tensor([0.3, 0.7]))
    expected = by_hand(PARAMETERS, ROWS)
    ours = rows_torch.MixedRows(torch.as_tensor(PARAMETERS), scale, SCHEMA)
    theirs = rows_jax.MixedRows(jnp.asarray(PARAMETERS), scale.numpy(), SCHEMA)
    assert tuple(ours.batch_shape) == theirs.batch_shape == (3, 5)
    np.testing.assert_allclose(ours.log_prob(torch.as_tensor(ROWS)), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(theirs.log_prob(ROWS), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda d, y: d.log_prob(y))(theirs, ROWS), expected, rtol=1e-5, atol=1e-6)
    several = ours.expand((2, 3, 5)).log_prob(torch.as_tensor(ROWS))
    np.testing.assert_allclose(several, np.stack([expected] * 2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["continuous", "binary", "categorical"])
def test_tables_of_one_kind(kind):
    schema = Schema(tuple(column for column in SCHEMA.columns if column.kind == kind))
    which = [at for at, column in enumerate(SCHEMA.columns) if column.kind == kind]
    own = {"continuous": [3, 9], "binary": [4], "categorical": [0, 1, 2, 5, 6, 7, 8]}[kind]
    scale = SCALE if kind == "continuous" else None
    model = CoGenerator(lambda z: z, latent_dim=len(own), views={"row": MixedColumns(schema, scale=scale)})
    z = PARAMETERS[:, own]
    conditioned = model.condition(row=ROWS[:, which])
    joint, _ = numpyro.infer.util.log_density(conditioned.numpyro, (), {}, {"z": jnp.asarray(z)})
    prior = Normal(0.0, 1.0).log_prob(torch.as_tensor(z)).sum()
    assert float(joint) == pytest.approx(float(prior) + by_hand(PARAMETERS, ROWS)[:, which].sum(), rel=1e-5)


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_draws_have_the_moments_of_the_columns(backend):
    count, parameters = 20_000, PARAMETERS[:1]
    scale = np.array([0.3, 0.7], np.float32)
    if backend == "torch":
        torch.manual_seed(0)
        drawn = rows_torch.MixedRows(torch.as_tensor(parameters), torch.as_tensor(scale), SCHEMA).sample((count,)).numpy()
    else:
        drawn = np.asarray(rows_jax.MixedRows(parameters, scale, SCHEMA).sample(jax.random.key(0), (count,)))
    assert drawn.shape == (count, 1, 5)
    drawn = drawn[:, 0]
    np.testing.assert_allclose(drawn[:, [1, 4]].mean(0), parameters[0, [3, 9]], atol=0.02)
    np.testing.assert_allclose(drawn[:, [1, 4]].std(0), scale, rtol=0.03)
    shares = level_probabilities(SCHEMA, parameters[0])
    for at, name in ((0, "colour"), (2, "smokes"), (3, "city")):
        found = np.bincount(drawn[:, at].astype(int), minlength=len(shares[name])) / count
        np.testing.assert_allclose(found, shares[name], atol=0.015)


def test_level_probabilities_are_the_softmax_and_the_sigmoid():
    shares = level_probabilities(SCHEMA, PARAMETERS[None])
    p = torch.as_tensor(PARAMETERS[None])
    np.testing.assert_allclose(shares["colour"], p[..., :3].softmax(-1), rtol=1e-5)
    np.testing.assert_allclose(shares["smokes"][..., 1], p[..., 4].sigmoid(), rtol=1e-5)
    np.testing.assert_allclose(shares["city"], p[..., 5:9].softmax(-1), rtol=1e-5)
    with pytest.raises(ValueError, match=r"shape \(3, 4\), but the 5 columns of the table have 10 parameters"):
        level_probabilities(SCHEMA, np.zeros((3, 4)))


# --- holes and masks -----------------------------------------------------------------------------------------------

MASKS = {
    "whole rows": (ROWS, None),
    "holes": (HOLED, None),
    "one mask": (ROWS, np.array([True, True, False, False, True])),
    "a mask for each row": (ROWS, ~np.isnan(HOLED)),
    "a mask and holes": (HOLED, np.array([True, False, True, True, True])),
}


@pytest.mark.parametrize("name", MASKS)
def test_the_log_joints_of_both_libraries_are_the_sum_over_what_is_seen(name):
    rows, mask = MASKS[name]
    model = make(mask=mask).condition(row=rows)
    z = RNG.normal(size=(3, 2)).astype(np.float32)
    seen = ~np.isnan(rows) & (True if mask is None else mask)
    density = by_hand(model.decode(z), np.where(seen, rows, 0))
    expected = float(Normal(0.0, 1.0).log_prob(torch.as_tensor(z)).sum()) + density[seen].sum()
    assert log_joints(model, z) == pytest.approx((expected, expected), rel=1e-5)
    np.testing.assert_array_equal(model.item_data["row"]["mask"], seen)
    np.testing.assert_array_equal(np.isnan(model.result_groups()["observed_data"]["row"][1]), ~seen)


def test_what_a_mask_hides_may_be_anything():
    spoiled = np.where(np.isnan(HOLED), np.inf, HOLED)
    spoiled[1, 2] = 17.5
    z = RNG.normal(size=(3, 2)).astype(np.float32)
    spoiled_model = make(mask=~np.isnan(HOLED)).condition(row=spoiled)
    assert log_joints(spoiled_model, z) == pytest.approx(log_joints(make().condition(row=HOLED), z))


def test_one_scale_for_all_and_a_scale_that_is_inferred():
    z = RNG.normal(size=(3, 2)).astype(np.float32)
    wide, same = (log_joints(make(scale=s).condition(row=HOLED), z) for s in (0.5, {"age": 0.5, "income": 0.5}))
    assert wide == pytest.approx(same)
    prior = pyro.distributions.LogNormal(-1.0, 0.5)
    model = make(scale=prior).condition(row=HOLED)
    ours, theirs = log_joints(model, z, row_scale=np.full(3, 0.5, np.float32))
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert ours == pytest.approx(wide[0] + 3 * float(prior.log_prob(torch.tensor(0.5))), rel=1e-5)


def test_a_model_that_is_not_conditioned_draws_rows():
    model = make(scale=pyro.distributions.LogNormal(-1.0, 0.5))
    assert tuple(pyro.poutine.trace(model).get_trace(num_items=4).nodes["row"]["value"].shape) == (4, 5)
    twin = numpyro.handlers.trace(numpyro.handlers.seed(model.numpyro, 0)).get_trace(num_items=4)
    assert twin["row"]["value"].shape == (4, 5)
    drawn = model.simulate(model.decode(np.zeros((50, 2))), {}, seed=0)["row"]
    assert drawn.shape == (50, 5)
    assert set(SCHEMA.decode(drawn)["smokes"]) == {"no", "yes"}


# --- a posterior that is known -------------------------------------------------------------------------------------

SMALL = Schema(
    (
        Column("x", "continuous"),
        Column("on", "binary", levels=("0", "1")),
        Column("y", "continuous"),
        Column("kind", "categorical", levels=("a", "b", "c")),
    )
)
SMALL_SCALE = {"x": 0.5, "y": 0.3}
SMALL_ROWS = np.array([[0.8, 1, np.nan, np.nan], [np.nan, 0, 0.5, 2]], np.float32)


class Steep(nn.Module):
    """Two latents; the means are linear in them, and the logits are steep enough to bend the posterior."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 6)
        weight = [[1.0, 0.0], [1.0, 3.0], [0.7, 0.7], [0.0, 0.0], [1.0, -1.0], [-2.0, 0.5]]
        self.linear.weight.data = torch.tensor(weight)
        self.linear.bias.data = torch.tensor([0.1, -0.5, 0.0, 0.0, 0.2, -0.3])

    def forward(self, z):
        return self.linear(z)


def quadrature(row: np.ndarray) -> dict[str, float]:
    """The posterior's figures from a grid over both latents."""
    line = np.linspace(-5, 5, 401)
    z = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    with torch.no_grad():
        p = Steep().double()(torch.as_tensor(z))
    log_joint = Normal(0.0, 1.0).log_prob(torch.as_tensor(z)).sum(-1)
    terms = {
        0: lambda v: Normal(p[:, 0], 0.5).log_prob(v),
        1: lambda v: Bernoulli(logits=p[:, 1]).log_prob(v),
        2: lambda v: Normal(p[:, 2], 0.3).log_prob(v),
        3: lambda v: Categorical(logits=p[:, 3:]).log_prob(v),
    }
    for at, term in terms.items():
        if not np.isnan(row[at]):
            log_joint = log_joint + term(torch.tensor(row[at], dtype=torch.float64))
    weight, z = (log_joint - log_joint.logsumexp(0)).exp(), torch.as_tensor(z)
    found = {
        "evidence": float(log_joint.logsumexp(0)) + 2 * np.log(line[1] - line[0]),
        "z_0": weight @ z[:, 0],
        "z_1": weight @ z[:, 1],
        "sd_1": (weight @ z[:, 1] ** 2 - (weight @ z[:, 1]) ** 2).sqrt(),
        "x": weight @ p[:, 0],
        "y": weight @ p[:, 2],
        "on": weight @ p[:, 1].sigmoid(),
        "kind is b": weight @ p[:, 3:].softmax(-1)[:, 1],
    }
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize("kernel", [AnnealedHMC, PyroAnnealedHMC])
def test_the_posterior_is_that_of_quadrature(kernel):
    model = CoGenerator(Steep(), latent_dim=2, views={"row": MixedColumns(SMALL, scale=SMALL_SCALE)})
    posterior = infer(
        pyro.condition(model, data={"row": torch.as_tensor(SMALL_ROWS)}),
        kernel(num_leapfrog=4),
        num_warmup=30,
        num_samples=10,
        num_chains=256,
        seed=0,
        keep_x=True,
        progress=False,
    )
    z, drawn = posterior["posterior"]["z"].values, posterior["posterior_predictive"]["row"].values
    assert drawn.shape == (256, 10, 2, 4)
    entries = SMALL.decode(drawn)
    shares = level_probabilities(SMALL, posterior["posterior"]["x"].values)
    evidence = log_evidence(posterior)["estimate"].values
    for item, row in enumerate(SMALL_ROWS):
        truth = quadrature(row)
        found = {
            "z_0": z[:, :, item, 0].mean(),
            "z_1": z[:, :, item, 1].mean(),
            "sd_1": z[:, :, item, 1].std(),
            "x": drawn[:, :, item, 0].mean(),
            "y": drawn[:, :, item, 2].mean(),
            "on": (entries["on"][:, :, item] == "1").mean(),
            "kind is b": shares["kind"][:, :, item, 1].mean(),
        }
        assert found == pytest.approx({name: truth[name] for name in found}, abs=0.06)  # 256 chains
        assert (entries["kind"][:, :, item] == "b").mean() == pytest.approx(truth["kind is b"], abs=0.06)
        assert evidence[item] == pytest.approx(truth["evidence"], abs=0.15)


# --- generators on disk, and refusals ------------------------------------------------------------------------------


def saved(folder, **changes):
    """A generator that was saved with its schema, loaded again."""
    config = {
        "architecture": "DenseGenerator",
        "arguments": {"latent_dim": 2, "event_shape": [SIZE], "hidden": [4], "bounded": False},
        "latent_dim": 2,
        "event_shape": (SIZE,),
        "value_range": (-5, 5),
        "noise_scale": 0.5,
        "schema": {**SCHEMA.to_json(), "noise_scale": SCALE},
    }
    save_generator(folder / "table", DenseGenerator(2, (SIZE,), (4,), bounded=False), GeneratorConfig(**(config | changes)))
    return load_generator(folder / "table")


def test_the_view_of_a_saved_generator(tmp_path):
    generator = saved(tmp_path)
    view = MixedColumns.of(generator, mask=~np.isnan(HOLED))
    assert view.schema == SCHEMA
    torch.testing.assert_close(view.likelihood.scale, torch.tensor([0.3, 0.7]))
    model = CoGenerator(generator, views={"row": view}).condition(row=HOLED)
    assert log_joints(model, np.zeros((3, 2), np.float32))[0] < 0
    with pytest.raises(ValueError, match=r"this DenseGenerator has no table schema: use MixedColumns"):
        MixedColumns.of(saved(tmp_path, schema=None))
    with pytest.raises(ValueError, match="schema is 'age'; it must be a mapping"):
        saved(tmp_path, schema="age")


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({}, ValueError, "age, income are continuous: give their noise scale"),
        (
            {"scale": {"age": 0.3, "weight": 0.1}},
            ValueError,
            "names 'weight', but the continuous columns are age, inc",
        ),
        ({"scale": {"age": 0.3, "smokes": 0.1}}, ValueError, "names 'smokes', but the continuous columns are"),
        ({"scale": {"age": 0.3}}, ValueError, "lacks the continuous column 'income'"),
        ({"scale": {"age": 0.3, "income": -1.0}}, ValueError, r"noise scale .* must be positive"),
        ({"scale": float("nan")}, ValueError, r"noise scale .* must be positive"),
        ({"scale": 1.0, "mask": np.ones(5)}, TypeError, r"boolean, True = seen, but is torch\.float64"),
        ({"scale": 1.0, "mask": np.ones(4, bool)}, ValueError, r"mask has shape \(4,\), but the table has 5 columns"),
        ({"scale": 1.0, "mask": np.zeros((2, 5), bool)}, ValueError, "hides every column.*show at least one"),
    ],
)
def test_views_that_cannot_be(options, error, said):
    with pytest.raises(error, match=said):
        MixedColumns(SCHEMA, **options)


def test_a_table_without_continuous_columns_has_no_scale():
    with pytest.raises(ValueError, match=r"scale=0\.5: the table has no continuous column"):
        MixedColumns(Schema(SCHEMA.columns[:1]), scale=0.5)


def test_a_generator_of_something_else_is_refused():
    with pytest.raises(
        ValueError, match=r"view 'row': .* x has shape \(7,\), but the 5 columns of the table have 10 parameters"
    ):
        CoGenerator(Line(size=7), latent_dim=2, views={"row": MixedColumns(SCHEMA, scale=1.0)})


def changed(item: int, at: int, value: float) -> np.ndarray:
    rows = HOLED.copy()
    rows[item, at] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (HOLED[:, :4], r"have shape \(3, 4\), expected \(item, 5\)"),
        (HOLED[0], "the item axis comes first"),
        (changed(1, 1, np.inf), r"item 1 is inf at \(1,\), a seen entry"),
        (changed(2, 2, 0.5), r"row 2 holds 0\.5 in column 'smokes', which is binary: give 0 or 1, the code of .*\(no, yes\)"),
        (changed(1, 0, 3), r"row 1 holds 3 in column 'colour', which is categorical: give an integer from 0 to 2"),
        (changed(1, 3, -1), "row 1 holds -1 in column 'city'"),
        (changed(0, 0, 1.5), r"row 0 holds 1\.5 in column 'colour'.* or NaN if missing"),
    ],
)
def test_rows_that_do_not_fit(rows, said):
    with pytest.raises(ValueError, match=said):
        make().condition(row=rows)


def test_a_row_that_shows_nothing_warns():
    rows = HOLED.copy()
    rows[1] = np.nan
    with pytest.warns(UserWarning, match=r"hides everything of items \[1\]"):
        make().condition(row=rows)


def test_masks_must_be_as_many_as_the_rows():
    with pytest.raises(ValueError, match="2 masks for 3 items"):
        make(mask=~np.isnan(HOLED[:2])).condition(row=HOLED)

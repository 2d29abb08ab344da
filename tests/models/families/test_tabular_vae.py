"""The autoencoder of mixed tables: its bound, its holes, its guide, and that training finds what made the rows."""

import math

import numpy as np
import pyro
import pyro.infer
import pyro.optim
import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Normal

from cogen.inference import AnnealedHMC, PyroAnnealedHMC, infer
from cogen.models import CoGenerator, load_generator, save_generator
from cogen.models.data.tables import Column, Schema
from cogen.models.families.tabular_vae import TabularVAE
from cogen.models.mixed.columns import MixedColumns
from cogen.models.training.learning_rates import Falling
from cogen.models.training.trainer import train

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SCHEMA = Schema(
    (
        Column("a", "continuous"),
        Column("kind", "categorical", levels=("x", "y", "z")),
        Column("on", "binary", levels=("no", "yes")),
        Column("b", "continuous"),
    )
)
NAN = math.nan
ROWS = torch.tensor([[0.3, 2, 1, -1.0], [NAN, 0, NAN, 0.5], [1.2, NAN, 0, NAN], [0.0, 1, 1, 0.0]])


def make(latent: int = 2, **options) -> TabularVAE:
    torch.manual_seed(0)
    return TabularVAE(SCHEMA, latent, **({"hidden": (8,)} | options))


def two_kinds(count: int, seed: int) -> np.ndarray:
    """Rows of two kinds that all columns tell apart; the numbers scatter by 0.3 and 0.6 around their kind's."""
    rng = np.random.default_rng(seed)
    second = rng.random(count) < 0.5
    return np.stack(
        [
            np.where(second, 1.0, -1.0) + 0.3 * rng.normal(size=count),
            np.where(second, 2, rng.integers(0, 2, count)),
            rng.random(count) < np.where(second, 0.9, 0.1),
            np.where(second, -0.8, 0.8) + 0.6 * rng.normal(size=count),
        ],
        axis=1,
    ).astype(np.float32)


def with_holes(rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    hidden = np.random.default_rng(seed).random(rows.shape) < share
    hidden[np.arange(len(rows)), np.arange(len(rows)) % rows.shape[1]] = False
    return np.where(hidden, np.float32(NAN), rows)


# --- the bound -----------------------------------------------------------------------------------------------------


def test_the_bound_of_a_generator_that_does_not_look_at_z():
    """Then E_q log p(y | z) is one number, and the bound has a closed form: the columns' densities and the KL."""
    vae = make()
    last = vae.generator.layers[-1]
    last.weight.data.zero_()
    last.bias.data = torch.tensor([0.2, 0.5, -0.5, 1.0, -0.3, 0.1])
    vae.log_excess.data = torch.tensor([-0.5, 0.3])
    scale = 0.05 + torch.tensor([-0.5, 0.3]).exp()
    torch.testing.assert_close(vae.scale.detach(), scale)
    logits = torch.tensor([0.5, -0.5, 1.0])
    filled = ROWS.nan_to_num()
    density = torch.stack(
        [
            Normal(0.2, scale[0]).log_prob(filled[:, 0]),
            Categorical(logits=logits).log_prob(filled[:, 1]),
            Bernoulli(logits=torch.tensor(-0.3)).log_prob(filled[:, 2]),
            Normal(0.1, scale[1]).log_prob(filled[:, 3]),
        ],
        dim=1,
    )
    seen = torch.where(ROWS.isnan(), 0.0, density).sum(1)
    mean, log_sd = vae.encoder(ROWS)
    kl = torch.distributions.kl_divergence(Normal(mean, log_sd.exp()), Normal(torch.zeros(2), 1.0)).sum(1)
    torch.testing.assert_close(vae.negative_elbo(ROWS), kl - seen)
    torch.testing.assert_close(vae.log_likelihood(ROWS, 50_000), seen.detach(), atol=0.02, rtol=0)


def test_the_bound_is_that_of_pyro():
    vae = make()
    pyro.clear_param_store()
    torch.manual_seed(1)
    ours = torch.stack([vae.negative_elbo(ROWS).sum() for _ in range(400)]).detach()
    loss = pyro.infer.Trace_ELBO(num_particles=400, vectorize_particles=False)
    theirs = loss.loss(vae.model, vae.guide, ROWS)
    assert ours.mean() == pytest.approx(theirs, abs=5 * float(ours.std()) * math.sqrt(2 / 400))


def test_pyro_can_train_it():
    vae = make(hidden=(16, 16))
    rows = vae.rows(with_holes(two_kinds(200, seed=1), 0.3, seed=3))
    before = vae.scale.detach().clone()
    pyro.clear_param_store()
    torch.manual_seed(0)
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 2e-2}), pyro.infer.Trace_ELBO())
    losses = [svi.step(rows) / len(rows) for _ in range(60)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.5
    assert (vae.scale < before).all()


def test_the_likelihood_is_that_of_quadrature():
    vae = make(latent=1)
    line = torch.linspace(-6, 6, 4001)[:, None]
    with torch.no_grad():
        log_joint = Normal(0.0, 1.0).log_prob(line) + vae._log_density(line[:, None].expand(-1, 4, -1), ROWS)
    expected = log_joint.logsumexp(0) + math.log(12 / 4000)
    torch.manual_seed(0)
    torch.testing.assert_close(vae.log_likelihood(ROWS, 20_000), expected, atol=0.02, rtol=0)


def test_nothing_is_learned_from_a_hole():
    vae = make()
    rows = ROWS.clone()
    rows[:, 1] = NAN
    vae.negative_elbo(rows).sum().backward()
    gradient = vae.generator.layers[-1].bias.grad
    assert (gradient[1:4] == 0).all()
    assert (gradient[[0, 4, 5]] != 0).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in vae.parameters())


def test_the_encoder_tells_a_hole_from_a_zero_and_levels_apart():
    vae = make()
    rows = torch.zeros(7, 4)
    rows[1:5] = rows[1:5].masked_fill(torch.eye(4, dtype=torch.bool), NAN)
    rows[5, 1], rows[6, 1] = 1, 2
    mean, _ = vae.encoder(rows)
    assert torch.pdist(mean).min() > 1e-4


def test_extra_holes_are_a_share_of_the_rows_each_its_own():
    vae = make(extra_holes=0.4)
    rows = torch.ones(4_000, 4).index_fill(1, torch.tensor([2]), NAN)
    torch.manual_seed(0)
    holes = vae.with_more_holes(rows).isnan()
    assert holes[:, 2].all()
    assert holes[:, [0, 1, 3]].float().mean() == pytest.approx(0.4 * 0.5, abs=0.02)
    # of three entries with a uniform share of holes each number of holes is equally likely: all three in a quarter of the rows
    assert holes.all(1).float().mean() == pytest.approx(0.4 / 4, abs=0.02)
    assert not make(extra_holes=0.0).with_more_holes(torch.ones(100, 4)).isnan().any()


# --- training ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    torch.set_num_threads(1)
    vae = make(hidden=(16, 16), learning_rate=1e-2)
    held_out = torch.from_numpy(two_kinds(200, seed=2))
    before = -float(vae.log_likelihood(held_out).mean())
    rows = vae.rows(with_holes(two_kinds(600, seed=1), 0.3, seed=3))
    train(vae, rows, num_steps=600, batch_size=64, seed=0, schedule=Falling(600), progress=False)
    return vae, held_out, before


def test_training_lowers_the_held_out_negative_log_likelihood(trained):
    """Of rows that it has never seen whole: almost to that of the mixture that made them."""
    vae, held_out, before = trained
    y = held_out.double()

    def kind(mean_a, logits, probability, mean_b):
        each = Normal(mean_a, 0.3).log_prob(y[:, 0]) + Normal(mean_b, 0.6).log_prob(y[:, 3])
        levels = torch.tensor(logits).double().log()[y[:, 1].long()]
        return each + levels + Bernoulli(torch.tensor(probability).double()).log_prob(y[:, 2])

    both = torch.stack([kind(-1.0, [0.5, 0.5, 1e-9], 0.1, 0.8), kind(1.0, [1e-9, 1e-9, 1.0], 0.9, -0.8)])
    truth = -float((both.logsumexp(0) - math.log(2)).mean())
    after = -float(vae.log_likelihood(held_out).mean())
    assert after < before - 2
    assert after == pytest.approx(truth, abs=0.35)
    assert vae.scale.tolist() == pytest.approx([0.3, 0.6], abs=0.1)
    assert vae.scales == pytest.approx(dict(zip(("a", "b"), vae.scale.tolist(), strict=True)))


def test_the_encoder_is_a_guide_for_rows_with_holes(trained):
    """The bound of rows of which one column is seen is near their likelihood."""
    vae, held_out, _ = trained
    for column in range(4):
        rows = torch.full_like(held_out, NAN)
        rows[:, column] = held_out[:, column]
        torch.manual_seed(0)
        bound = -torch.stack([vae.negative_elbo(rows).mean().detach() for _ in range(50)]).mean()
        likelihood = vae.log_likelihood(rows, 2_000).mean()
        assert bound == pytest.approx(float(likelihood), abs=0.3)


@pytest.mark.parametrize("kernel", [AnnealedHMC, PyroAnnealedHMC])
def test_annealing_from_the_encoder_fills_rows(trained, kernel):
    vae, _, _ = trained
    model = CoGenerator(vae.generator, latent_dim=2, views={"row": MixedColumns(SCHEMA, scale=vae.scales)})
    rows = np.array([[1.0, NAN, NAN, NAN], [NAN, 0, NAN, NAN]], np.float32)
    seen = model.condition(row=rows)
    start = (vae.start if kernel is AnnealedHMC else vae.pyro_start)(seen, prior_share=0.2)
    posterior = infer(
        seen,
        kernel(num_leapfrog=3, initial=start),
        num_warmup=15,
        num_samples=5,
        num_chains=64,
        seed=0,
        keep_x=True,
        progress=False,
    )
    drawn = posterior["posterior_predictive"]["row"].values  # (chain, draw, item, column)
    z = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made = vae.generator(z)
        for item, row in enumerate(torch.from_numpy(rows)):
            weight = vae._log_density(z, row.expand(len(z), -1)).softmax(0)
            expected = [weight @ made[:, 0], weight @ made[:, 1:4].softmax(-1)[:, 2], weight @ made[:, 4].sigmoid()]
            expected.append(weight @ made[:, 5])
            found = [drawn[:, :, item, 0], drawn[:, :, item, 1] == 2, drawn[:, :, item, 2], drawn[:, :, item, 3]]
            hidden = np.flatnonzero(row.isnan())
            assert [found[k].mean() for k in hidden] == pytest.approx(
                [float(expected[k]) for k in hidden], abs=0.15
            )  # 64 chains


def test_the_starts_are_the_encoders_moments(trained):
    vae, _, _ = trained
    seen = CoGenerator(vae.generator, latent_dim=2, views={"row": MixedColumns(SCHEMA, scale=1.0)}).condition(row=ROWS.numpy())
    with torch.no_grad():
        mean, log_sd = vae.encoder(ROWS)
    start = vae.start(seen)
    np.testing.assert_allclose(start.params["loc"], mean[:, None], rtol=1e-5)
    np.testing.assert_allclose(start.params["scale"], log_sd.exp()[:, None], rtol=1e-5)
    flat = vae.pyro_start(seen).bind(4, 2)._flat[0]
    torch.testing.assert_close(flat.mean, mean)


def test_the_generator_is_saved_with_its_schema(trained, tmp_path):
    vae, held_out, _ = trained
    save_generator(tmp_path / "table", vae.generator, vae.config(name="two kinds", figures={"rows": 600}))
    generator = load_generator(tmp_path / "table")
    assert generator.config.name == "two kinds"
    assert generator.config.schema["noise_scale"] == pytest.approx(vae.scales)
    low, high = generator.config.value_range
    assert low < high
    view = MixedColumns.of(generator)
    assert view.schema == SCHEMA
    model = CoGenerator(generator, views={"row": view}).condition(row=held_out[:3].numpy())
    np.testing.assert_allclose(model.decode(np.ones((1, 2))), vae.generator(torch.ones(1, 2)).detach(), rtol=1e-5)


def test_a_training_that_was_killed_goes_on(tmp_path):
    rows = make().rows(two_kinds(100, seed=0))
    settings = {"batch_size": 20, "seed": 0, "progress": False}
    straight, interrupted = make(), make()
    train(straight, rows, num_steps=12, **settings)
    train(interrupted, rows, num_steps=5, checkpoint=tmp_path, **settings)
    again = make()
    train(again, rows, num_steps=12, checkpoint=tmp_path, **settings)
    for ours, theirs in zip(again.parameters(), straight.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_table_without_continuous_columns():
    schema = Schema(SCHEMA.columns[1:3])
    torch.manual_seed(0)
    vae = TabularVAE(schema, 2, hidden=(8,), learning_rate=1e-2)
    rows = vae.rows(two_kinds(200, seed=0)[:, 1:3])
    before = -float(vae.log_likelihood(rows).mean())
    train(vae, rows, num_steps=60, batch_size=50, seed=0, progress=False)
    assert -float(vae.log_likelihood(rows).mean()) < before
    assert vae.scales == {}
    assert MixedColumns(schema).likelihood.scale is None
    assert vae.config().schema["noise_scale"] == {}


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"extra_holes": 1.5}, r"extra_holes=1\.5: .* must be in \[0, 1\]"),
        ({"smallest_scale": 0.0}, r"smallest_scale=0\.0: it must be in \(0, 1\)"),
        ({"latent": 0}, "latent_dim=0"),
        ({"hidden": (8, -5)}, r"hidden=\(8, -5\): the widths of hidden layers must be at least 1"),
    ],
)
def test_settings_that_cannot_be(options, said):
    with pytest.raises(ValueError, match=said):
        make(**options)


def changed(item: int, at: int, value: float) -> np.ndarray:
    rows = ROWS.numpy().copy()
    rows[item, at] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (ROWS.numpy()[:, :3], r"shape \(4, 3\), but the table has 4 columns \(a, kind, on, b\)"),
        (ROWS.numpy()[0], r"shape \(4,\), .* give \(item, column\)"),
        (ROWS.numpy()[:0], r"shape \(0, 4\)"),
        (changed(1, 0, np.inf), "row 1 holds inf in column 'a'"),
        (changed(3, 1, 3), "row 3 holds 3 in column 'kind', which is categorical: give an integer from 0 to 2"),
        (changed(0, 2, 0.5), r"row 0 holds 0\.5 in column 'on', which is binary: give 0 or 1"),
        (np.where(np.arange(4) == 3, np.nan, ROWS.numpy()), "column 'b' is missing in all rows, .* remove it"),
        (np.where(np.arange(4)[:, None] == 2, np.nan, ROWS.numpy()), "row 2 has no seen entries; remove such rows"),
    ],
)
def test_rows_that_cannot_be_learned_from(rows, said):
    with pytest.raises(ValueError, match=said):
        make().rows(rows)


def test_a_start_is_for_rows_of_one_view():
    vae = make()
    model = CoGenerator(vae.generator, latent_dim=2, views={"row": MixedColumns(SCHEMA, scale=1.0)})
    with pytest.raises(ValueError, match="conditioned on none"):
        vae.start(model)
    schema = Schema(SCHEMA.columns[:1])
    fewer = CoGenerator(torch.nn.Linear(2, 1), latent_dim=2, views={"a": MixedColumns(schema, scale=1.0)})
    with pytest.raises(ValueError, match=r"view 'a' has shape \(1,\), but the encoder takes rows of 4 columns"):
        vae.start(fewer.condition(a=np.zeros((2, 1))))

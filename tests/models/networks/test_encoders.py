"""Encoders: what one does with them, training on masked pairs, and the start of an annealing."""

import dataclasses
import json

import numpy as np
import pyro
import pytest
import torch
from torch import nn

from cogen.diagnostics import log_evidence
from cogen.inference import AnnealedHMC, PyroAnnealedHMC, infer
from cogen.models import CoGenerator, EncoderGuide, views
from cogen.models.families.amortized import Amortized
from cogen.models.networks.architectures import DenseEncoder, DenseGenerator
from cogen.models.networks.encoders import MaskedEncoder, arithmetic, interpolate, neighbours, reconstruct
from cogen.models.storage.encoders import EncoderConfig, load_encoder, save_encoder
from cogen.models.training.trainer import train

pytestmark = pytest.mark.usefixtures("one_torch_thread")


class Known(nn.Module):
    """z is the first two columns of x, known to within 0.5."""

    def forward(self, x):
        return x[:, :2], torch.full((len(x), 2), 0.5).log()


class Copy(nn.Module):
    """x = (z, 0)."""

    def forward(self, z):
        return torch.cat([z, torch.zeros(len(z), 1)], dim=1)


X = torch.tensor([[1.0, 2.0, 0.0], [3.0, -1.0, 0.0]])


def test_reconstruct_and_neighbours():
    torch.testing.assert_close(reconstruct(Copy(), Known(), X), X)
    torch.manual_seed(0)
    near = neighbours(Copy(), Known(), X, 4_000)
    assert near.shape == (2, 4_000, 3)
    torch.testing.assert_close(near.mean(1), X, atol=0.05, rtol=0)  # six standard errors
    torch.testing.assert_close(near[..., :2].std(1), torch.full((2, 2), 0.5), atol=0.05, rtol=0)


def test_interpolation_starts_and_ends_where_it_should_and_stays_on_the_sphere():
    first, last = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 2.0, 0.0]])
    way = interpolate(Copy(), Known(), first, last, 5)
    assert way.shape == (1, 5, 3)
    torch.testing.assert_close(way[0, [0, -1]], torch.cat([first, last]))
    torch.testing.assert_close(way.norm(dim=-1), torch.full((1, 5), 2.0))


def test_arithmetic_adds_the_difference_of_means():
    add, subtract = torch.tensor([[1.0, 0.0, 0.0], [3.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    found = arithmetic(Copy(), Known(), X, add=add, subtract=subtract, amount=0.5)
    torch.testing.assert_close(found[:, :2], X[:, :2] + 0.5 * torch.tensor([2.0, -1.0]))


# --- masks, and a posterior that is known --------------------------------------------------------------------------

NOISE = 0.3
MASKS = torch.tensor([[True, False, False], [False, True, True], [True, True, True]])


def linear() -> tuple[DenseGenerator, torch.Tensor]:
    """x = W z, with two latents and three columns."""
    torch.manual_seed(3)
    generator = DenseGenerator(2, (3,), hidden=(), bounded=False)
    with torch.no_grad():
        generator.layers[-1].bias.zero_()
    return generator, generator.layers[-1].weight.detach()


def posterior_mean(weight: torch.Tensor, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    seen = weight[mask]
    precision = torch.eye(2) + seen.T @ seen / NOISE**2
    return torch.linalg.solve(precision, seen.T @ x[mask]) / NOISE**2, precision


def test_an_amortised_encoder_learns_the_posterior_under_every_mask():
    generator, weight = linear()
    encoder = MaskedEncoder(DenseEncoder(2, (6,), (64, 64)))
    family = Amortized(generator, encoder, 2, views=[views.Mask(MASKS, scale=NOISE)], learning_rate=3e-3)
    before = [p.clone() for p in generator.parameters()]
    train(family, torch.zeros(1_024, 1), num_steps=1_000, batch_size=128, seed=0, progress=False)
    assert all(map(torch.equal, before, generator.parameters()))
    x = torch.tensor([0.7, -0.4, 0.9])
    for mask in MASKS:
        mean, log_sd = (moment[0].detach() for moment in encoder(x[None], mask[None]))
        expected, precision = posterior_mean(weight, x, mask)
        torch.testing.assert_close(mean, expected, atol=0.12, rtol=0)
        # maximum likelihood of a factorised normal: the marginal standard deviations
        torch.testing.assert_close(log_sd.exp(), precision.inverse().diagonal().sqrt(), atol=0.08, rtol=0.1)
        elsewhere = torch.where(mask, x, torch.tensor(99.0))  # what is hidden does not matter
        torch.testing.assert_close(encoder(elsewhere[None], mask[None])[0][0], mean)


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_annealing_from_the_encoder_has_the_evidence_of_annealing_from_the_prior(backend):
    generator, weight = linear()
    x = np.array([[0.7, -0.4, np.nan], [-1.0, 0.3, np.nan]], np.float32)
    seen = CoGenerator(
        generator, latent_dim=2, views={"part": views.Mask(np.array([True, True, False]), scale=NOISE)}
    ).condition(part=x)
    encoder = MaskedEncoder(DenseEncoder(2, (6,), (16,)))  # fresh: a poor guide must cost nothing but time
    guide = EncoderGuide(encoder, seen)
    kernel = AnnealedHMC(initial=guide.start(0.3)) if backend == "numpyro" else PyroAnnealedHMC(initial=guide.pyro_start(0.3))
    posterior = infer(seen, kernel, num_warmup=60, num_samples=1, num_chains=256, seed=0, progress=False)
    found = log_evidence(posterior)
    covariance = weight[:2] @ weight[:2].T + NOISE**2 * torch.eye(2)
    known = torch.distributions.MultivariateNormal(torch.zeros(2), covariance).log_prob(torch.from_numpy(x[:, :2]))
    np.testing.assert_allclose(np.asarray(found["estimate"]), known.numpy(), atol=0.3)


def test_the_guide_says_what_does_not_fit():
    generator, _ = linear()
    part = {
        "part": views.Mask(np.array([True, True, False]), scale=NOISE),
        "sum": views.Columns(["a"], of=("a", "b", "c"), scale=1.0),
    }
    model = CoGenerator(generator, latent_dim=2, views=part)
    with pytest.raises(ValueError, match="is for whole x: train a MaskedEncoder"):
        EncoderGuide(DenseEncoder(2, (3,)), model.condition(part=np.zeros((1, 3))))
    with pytest.raises(ValueError, match=r"but x has shape .*: use views"):
        EncoderGuide(DenseEncoder(2, (3,)), model.condition(sum=np.zeros((1, 1))))
    with pytest.raises(ValueError, match="an encoder needs a model conditioned on one view"):
        EncoderGuide(DenseEncoder(2, (3,)), model)
    with pytest.raises(ValueError, match="the encoder has 5 latents, but the model has 2"):
        EncoderGuide(MaskedEncoder(DenseEncoder(5, (6,))), model.condition(part=np.zeros((1, 3))))


def test_it_is_the_guide_of_pyro_s_svi():
    generator, _ = linear()
    seen = CoGenerator(generator, latent_dim=2, views={"all": views.Identity(scale=NOISE)}).condition(all=np.zeros((2, 3)))
    guide = EncoderGuide(DenseEncoder(2, (3,)), seen)
    pyro.clear_param_store()
    loss = pyro.infer.SVI(seen, guide, pyro.optim.SGD({"lr": 0.0}), pyro.infer.Trace_ELBO()).evaluate_loss()
    assert np.isfinite(loss)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "views is empty"),
        ([views.Mask(torch.ones(0, 3) > 0, scale=NOISE)], "a view holds zero masks"),
        ([views.Identity(scale=pyro.distributions.HalfNormal(1.0))], "the noise scale of Identity is inferred"),
    ],
)
def test_bad_views_are_refused(bad, message):
    generator, _ = linear()
    with pytest.raises(ValueError, match=message):
        Amortized(generator, MaskedEncoder(DenseEncoder(2, (6,))), 2, views=bad)


# --- on disk -------------------------------------------------------------------------------------------------------

CONFIG = EncoderConfig("MaskedDenseEncoder", {"latent_dim": 2, "event_shape": (6,), "hidden": (4,)}, 2, (3,), (-1.0, 1.0))


def test_an_encoder_is_stored_and_read_again(tmp_path):
    encoder = MaskedEncoder(DenseEncoder(2, (6,), (4,)))
    save_encoder(tmp_path / "half-0.5", encoder, CONFIG)
    again = load_encoder(tmp_path / "half-0.5")
    assert again.config == load_encoder(tmp_path / "half-0.5.safetensors").config
    x, mask = torch.randn(3, 3), torch.rand(3, 3) < 0.5
    torch.testing.assert_close(again(x, mask)[0], encoder(x, mask)[0])


def test_what_is_wrong_with_an_encoder_s_files_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_encoder(tmp_path / "none")
    save_encoder(tmp_path / "e", MaskedEncoder(DenseEncoder(2, (6,), (5,))), CONFIG)
    with pytest.raises(ValueError, match=r"e.safetensors does not fit MaskedEncoder: .* has shape \(5, 6\), expected \(4, 6\)"):
        load_encoder(tmp_path / "e")
    (tmp_path / "e.json").write_text((tmp_path / "e.json").read_text().replace("MaskedDenseEncoder", "Oracle"))
    with pytest.raises(ValueError, match="unknown architecture 'Oracle'; known are"):
        load_encoder(tmp_path / "e")
    (tmp_path / "e.json").write_text("[]")
    with pytest.raises(ValueError, match=r"e.json contains a list, but a configuration is a JSON object"):
        load_encoder(tmp_path / "e")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_dim": 3}, r"latent_dim is 3, but the architecture returns 2 numbers per x"),
        ({"latent_dim": 0}, "latent_dim is 0; it must be a positive integer"),
        ({"event_shape": (4,)}, r"MaskedDenseEncoder with its arguments does not fit event_shape \(4,\), latent_dim 2"),
        ({"value_range": (1.0, -1.0)}, r"value_range is .*; it must be two finite numbers, the lower first"),
        ({"colour": 1}, "unexpected keyword argument 'colour'"),
    ],
)
def test_a_wrong_configuration_of_an_encoder_is_named(tmp_path, changes, message):
    save_encoder(tmp_path / "e", MaskedEncoder(DenseEncoder(2, (6,), (4,))), CONFIG)
    (tmp_path / "e.json").write_text(json.dumps(dataclasses.asdict(CONFIG) | changes))
    with pytest.raises(ValueError, match=rf"e\.json: .*{message}"):
        load_encoder(tmp_path / "e")

"""One contract for every family: what it trains, what it leaves alone, that it is repeatable, stored, and conditioned.

A falling adversarial loss means nothing, so a short training must bring the samples nearer to held-out data, by the energy
distance of fresh samples to held-out data. Families of pairs (x, condition) are judged by both together.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch
from numpyro import handlers

from cogen.inference.torch.short_run import ShortRun
from cogen.models import Array, CoGenerator, EncoderGuide, GeneratorConfig, load_generator, save_generator, views
from cogen.models.families.aim import AIM
from cogen.models.families.ali import ALI, JointCritic
from cogen.models.families.alice import ALICE
from cogen.models.families.alternating import AlternatingBackPropagation
from cogen.models.families.bicyclegan import BicycleGAN
from cogen.models.families.cgml import CGML
from cogen.models.families.context_encoder import ContextEncoder
from cogen.models.families.coopnets import CoopNets
from cogen.models.families.family import Family, Updates
from cogen.models.families.fgan import KL
from cogen.models.families.gan import GAN, NonSaturating, Saturating
from cogen.models.families.glf import GLF, LatentFlowGenerator
from cogen.models.families.glo import GLO, WhitenedGenerator
from cogen.models.families.pix2pix import Pix2Pix, Regression
from cogen.models.families.realnvp import RealNVP, RealNVPGenerator
from cogen.models.families.sizes import PairSizes
from cogen.models.families.unrolled import UnrolledGAN
from cogen.models.families.vae import VAE
from cogen.models.families.veegan import VEEGAN
from cogen.models.families.wgan import Clipping, GradientPenalty
from cogen.models.networks.architectures import Conditioned, DenseCritic, DenseEncoder, DenseGenerator
from cogen.models.networks.encoders import FeatureEncoder, head
from cogen.models.networks.energies import DenseEnergy
from cogen.models.training.trainer import train

pytestmark = pytest.mark.usefixtures("one_torch_thread")

LATENT, COLUMNS = 2, ("x1", "x2")
ARGUMENTS = {"latent_dim": LATENT, "event_shape": (2,), "hidden": (32, 32), "bounded": False}
FLOW_ARGUMENTS = {"architecture": "DenseGenerator", "arguments": ARGUMENTS, "couplings": 4, "hidden": (16,)}
WHITENED_ARGUMENTS = {"architecture": "DenseGenerator", "latent_dim": LATENT, "arguments": ARGUMENTS}
ARCHITECTURES = {
    "realnvp": ("RealNVPGenerator", {"event_shape": (2,), "hidden": (32,)}),
    "glf": ("LatentFlowGenerator", FLOW_ARGUMENTS),
    "glo": ("WhitenedGenerator", WHITENED_ARGUMENTS),
}
"""Of the families whose generator is no `DenseGenerator`."""
RATE = {"learning_rate": 2e-3, "betas": (0.5, 0.9)}


def generator() -> DenseGenerator:
    return DenseGenerator(**ARGUMENTS)


def critic() -> DenseCritic:
    return DenseCritic((2,), (64, 64))


def encoder() -> FeatureEncoder:
    return FeatureEncoder(critic().features, head(64, LATENT))


FAMILIES: dict[str, Callable[[], Family]] = {
    "gan": lambda: GAN(generator(), critic(), LATENT, NonSaturating(0.1), **RATE),
    "smoothed": lambda: GAN(generator(), critic(), LATENT, NonSaturating(0.1, real_target=0.9), **RATE),
    "saturating": lambda: GAN(generator(), critic(), LATENT, Saturating(0.1), **RATE),
    "wgan": lambda: GAN(generator(), critic(), LATENT, Clipping(0.1), **RATE),
    "wgan-gp": lambda: GAN(generator(), critic(), LATENT, GradientPenalty(1.0), **RATE),
    "fgan": lambda: GAN(generator(), critic(), LATENT, KL(), learning_rate=1e-3),
    "unrolled": lambda: UnrolledGAN(generator(), critic(), LATENT, unroll=2, **RATE),
    "vae": lambda: VAE(DenseEncoder(LATENT, (2,), (32, 32)), generator(), LATENT, learning_rate=5e-3),
    "glf": lambda: GLF(DenseEncoder(LATENT, (2,), (32, 32)), LatentFlowGenerator(**FLOW_ARGUMENTS), LATENT, learning_rate=5e-3),
    "glo": lambda: GLO(WhitenedGenerator(**WHITENED_ARGUMENTS), LATENT, 2_000, learning_rate=5e-3),
    "realnvp": lambda: RealNVP(RealNVPGenerator((2,), hidden=(32,)), learning_rate=5e-3),
    "ali": lambda: ALI(generator(), encoder(), JointCritic((2,), LATENT), LATENT, **RATE),
    "bigan": lambda: ALI(generator(), encoder(), JointCritic((2,), LATENT), LATENT, stochastic=False, **RATE),
    "alice": lambda: ALICE(generator(), encoder(), JointCritic((2,), LATENT), LATENT, **RATE),
    "veegan": lambda: VEEGAN(
        generator(),
        torch.nn.Sequential(critic().features, torch.nn.Linear(64, LATENT)),
        JointCritic((2,), LATENT),
        LATENT,
        **RATE,
    ),
    "aim": lambda: AIM(generator(), critic(), head(64, LATENT), LATENT, NonSaturating(0.1), **RATE),
    "aim-minus": lambda: AIM(generator(), critic(), head(64, LATENT), LATENT, NonSaturating(0.1), unit_variance=True, **RATE),
    "aim, noisy": lambda: AIM(generator(), critic(), head(64, LATENT), LATENT, NonSaturating(0.1), noise=0.1, **RATE),
    "abp": lambda: AlternatingBackPropagation(generator(), LATENT, 2_000, learning_rate=5e-3),
    "coopnets": lambda: CoopNets(
        generator(), DenseEnergy((2,), (32, 32)), LATENT, ShortRun.langevin(4, 0.3, reference_scale=3.0), **RATE
    ),
    "aim, KL": lambda: AIM(generator(), critic(), head(64, LATENT), LATENT, KL(), learning_rate=1e-3),
}


SIZES = PairSizes((1, 8, 8), (2, 8, 8), LATENT, width=4)
FILLED = replace(SIZES, fills=True)


def two_games(critic: bool = True, random_critic: bool = True, **weights: float) -> BicycleGAN:
    critics = {"critic": SIZES.critic() if critic else None, "random_critic": SIZES.critic() if random_critic else None}
    return BicycleGAN(SIZES.unet(0.0), SIZES.encoder(), LATENT, **critics, **weights, **RATE)


OF_PAIRS: dict[str, Callable[[], Family]] = {
    "pix2pix": lambda: Pix2Pix(SIZES.unet(0.5), SIZES.critic(), LATENT, **RATE),
    "unet-l1": lambda: Regression(SIZES.unet(0.5), LATENT, **RATE),
    "cvae-gan": lambda: two_games(random_critic=False),
    "cvae-gan++": lambda: two_games(latent_weight=0.0),
    "clr-gan": lambda: two_games(critic=False),
    "bicyclegan": two_games,
    "coopnets-unet": lambda: CoopNets(
        FILLED.unet(0.5), FILLED.energy(), LATENT, ShortRun.langevin(2, 0.1), fills=True, weight=1.0, **RATE
    ),
    "context-encoder": lambda: ContextEncoder(FILLED.encoder_decoder(), FILLED.critic(of_pairs=False), LATENT, **RATE),
    "cgml": lambda: CGML(SIZES.spherical(), SIZES.predictor(), LATENT, num_steps=5, **RATE),
}


def pairs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of which a half is bright, upper or lower as the condition's edge says, by chance more or less; its centre is
    hidden."""
    random = torch.Generator().manual_seed(seed)
    upper = torch.where(torch.arange(8) < 4, 1.0, -1.0)[None, None, :, None].expand(count, 1, 8, 8)
    which = torch.randint(2, (count, 1, 1, 1), generator=random) * 2.0 - 1.0
    x = (0.4 + 0.4 * torch.rand(count, 1, 1, 1, generator=random)) * which * upper
    seen = torch.ones(1, 8, 8)
    seen[:, 2:6, 2:6] = -1
    return x, torch.cat([which * upper * (seen > 0), seen.expand(count, 1, 8, 8)], dim=1)


def batch(name: str, count: int, seed: int) -> tuple[torch.Tensor, ...]:
    return pairs(count, seed) if name in OF_PAIRS else (data(count, seed),)


def stepped(name: str, count: int, seed: int) -> tuple[torch.Tensor, ...]:
    """A batch as a step takes it."""
    return (*batch(name, count, seed), *([torch.arange(count)] if name in ("abp", "glo") else []))


def data(count: int, seed: int) -> torch.Tensor:
    """Two Gaussians, away from where any generator begins."""
    random = torch.Generator().manual_seed(seed)
    sign = torch.randint(2, (count, 1), generator=random) * 2.0 - 1.0
    return torch.tensor([2.0, -1.0]) + sign * torch.tensor([0.8, 0.4]) + 0.2 * torch.randn(count, 2, generator=random)


def energy_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'|, zero for one distribution (Szekely and Rizzo 2013)."""

    def mean(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        return torch.cdist(p, q).mean()

    return float(2 * mean(a, b) - mean(a, a) - mean(b, b))


def made(family: Family) -> torch.Tensor:
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(7)
        return family.eval().generator(torch.randn(1_000, LATENT))


@pytest.fixture(params=[*FAMILIES, *OF_PAIRS])
def name(request) -> str:
    return request.param


def fresh(name: str) -> Family:
    torch.manual_seed(0)
    return (FAMILIES | OF_PAIRS)[name]()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_short_training_brings_samples_nearer_to_held_out_data(name):
    family, held_out = fresh(name), data(1_000, seed=1)
    before = energy_distance(made(family), held_out)
    trained = train(family, data(2_000, seed=0), num_steps=250, batch_size=64, seed=0, progress=False)
    after = energy_distance(made(family), held_out)
    assert after < 0.4 * before, (before, after)
    assert all(len(values) == 250 and np.isfinite(values).all() for values in trained.losses.values())
    assert all(p.requires_grad for p in family.parameters())


@pytest.mark.parametrize("name", OF_PAIRS)
def test_a_short_training_brings_what_is_hidden_nearer_to_held_out_pairs(name):
    family, (x, condition) = fresh(name), pairs(200, seed=1)

    def distance() -> float:
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(7)
            made = family.eval().generator(torch.randn(200, LATENT), condition)
        both = (torch.cat([each[:, :, 2:6, 2:6].flatten(1), condition[:, 0, 0]], dim=1) for each in (made, x))
        return energy_distance(*both)

    before = distance()
    trained = train(family, pairs(400, seed=0), num_steps=60, batch_size=8, seed=0, progress=False)
    assert distance() < 0.4 * before, (before, distance())
    assert all(len(values) == 60 and np.isfinite(values).all() for values in trained.losses.values())
    assert all(p.requires_grad for p in family.parameters())


def test_a_loss_reaches_what_its_optimiser_owns_and_nothing_else(name):
    family = fresh(name).train()
    optimizers = family.optimizers()
    owned = {which: {id(p) for g in o.param_groups for p in g["params"]} for which, o in optimizers.items()}
    everything = {id(p) for p in family.parameters()}
    assert set().union(*owned.values()) == everything  # nothing is left untrained,
    assert sum(map(len, owned.values())) == len(everything)  # and nothing is trained twice
    updates = Updates(family, optimizers)
    seen = set()

    def watched(which, loss):
        before = {id(p): p.detach().clone() for p in family.parameters()}
        value = updates(which, loss)
        moved = {id(p) for p in family.parameters() if not torch.equal(before[id(p)], p)}
        assert moved
        assert moved <= owned[which], which
        seen.add(which)
        return value

    family.step(stepped(name, 32 * family.batches_per_step, seed=2), watched, 0)
    assert seen == set(optimizers)


def test_the_same_seed_gives_the_same_run(name):
    weights = []
    for _ in range(2):
        family = fresh(name)
        train(family, batch(name, 200, seed=0), num_steps=6, batch_size=16, seed=3, progress=False)
        torch.randn(5)  # what happens outside does not matter
        weights.append([p.detach().clone() for p in family.parameters()])
    assert all(map(torch.equal, *weights))


def test_it_trains_in_mixed_precision(name):
    options = {"num_steps": 6, "batch_size": 16, "seed": 3, "precision": "bf16-mixed", "progress": False}
    trained = train(fresh(name), batch(name, 200, seed=0), **options)
    assert all(np.isfinite(values).all() for values in trained.losses.values())


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_stored_and_conditioned_in_both_ppls(name, tmp_path):
    family = fresh(name).eval()
    architecture, arguments = ARCHITECTURES.get(name, ("DenseGenerator", ARGUMENTS))
    config = GeneratorConfig(
        architecture=architecture,
        arguments=arguments,
        latent_dim=LATENT,
        event_shape=(2,),
        value_range=(-5, 5),
        noise_scale=0.1,
    )
    save_generator(tmp_path / "two", family.generator, config)
    loaded = load_generator(tmp_path / "two")
    z = torch.randn(5, LATENT)
    torch.testing.assert_close(loaded(z), family.generator(z))
    model = CoGenerator(loaded, views={"x2": views.Columns(["x2"], of=COLUMNS, scale=0.1)})
    seen = model.condition(x2=np.zeros((3, 1), np.float32))
    substituted = {"z": torch.randn(3, LATENT)}
    in_torch = pyro.poutine.trace(pyro.poutine.condition(seen, data=substituted)).get_trace().log_prob_sum()
    in_jax = handlers.trace(handlers.substitute(seen.numpyro, data={"z": substituted["z"].numpy()})).get_trace()
    total = sum(float(site["fn"].log_prob(site["value"]).sum()) for site in in_jax.values() if site["type"] == "sample")
    assert total == pytest.approx(float(in_torch), rel=1e-4)


@pytest.mark.parametrize("name", ["bicyclegan", "context-encoder", "cgml"])  # each of the networks
def test_a_translation_is_stored_and_conditioned_in_both_ppls_given_its_condition(name, tmp_path):
    family, (x, condition) = fresh(name).eval(), pairs(3, seed=5)
    architecture = {
        "bicyclegan": SIZES.unet_architecture(0.0),
        "context-encoder": FILLED.encoder_decoder_architecture(),
        "cgml": SIZES.spherical_architecture(),
    }[name]
    about = {"latent_dim": LATENT, "event_shape": (1, 8, 8), "value_range": (-1, 1), "noise_scale": 0.1}
    config = GeneratorConfig(*architecture, contexts={"condition": Array((2, 8, 8), (-1, 1))}, **about)
    save_generator(tmp_path / "two", family.generator, config)
    loaded, z = load_generator(tmp_path / "two"), torch.randn(3, LATENT)
    torch.testing.assert_close(loaded(z, condition), family.generator(z, condition))
    view = views.Mask(views.half((1, 8, 8), "top"), scale=0.1)
    seen = CoGenerator(loaded, views={"top": view}).condition(top=x.numpy()).given(condition=condition.numpy())
    in_torch = pyro.poutine.trace(pyro.poutine.condition(seen, data={"z": z})).get_trace().log_prob_sum()
    in_jax = handlers.trace(handlers.substitute(seen.numpyro, data={"z": z.numpy()})).get_trace()
    total = sum(float(site["fn"].log_prob(site["value"]).sum()) for site in in_jax.values() if site["type"] == "sample")
    assert total == pytest.approx(float(in_torch), rel=1e-4)


@pytest.mark.parametrize("name", [n for n in FAMILIES if n in ("vae", "ali", "bigan", "alice", "veegan", "aim", "aim-minus")])
def test_its_encoder_is_a_guide(name):
    family = fresh(name).eval()
    model = CoGenerator(family.generator, latent_dim=LATENT, views={"all": views.Identity(scale=0.1)})
    guide = EncoderGuide(family.encoder, model.condition(all=data(4, seed=5).numpy()))
    mean, log_sd = family.encoder(data(4, seed=5))
    torch.testing.assert_close(guide.mean, mean.detach())
    site = pyro.poutine.trace(guide).get_trace().nodes["z"]
    torch.testing.assert_close(site["fn"].base_dist.scale, log_sd.detach().clamp(-6, 3).exp())
    with handlers.seed(rng_seed=0):
        assert handlers.trace(guide.numpyro).get_trace()["z"]["value"].shape == (4, LATENT)


@pytest.mark.parametrize("kind", ["gan", "vae"])
def test_with_labels_the_generator_makes_what_is_asked_for(kind):
    """Class 0 lies at the left, class 1 at the right."""
    torch.manual_seed(0)
    conditional = Conditioned(DenseGenerator(LATENT + 2, (2,), (32, 32), bounded=False), 2)
    if kind == "gan":
        family: Family = GAN(conditional, Conditioned(DenseCritic((4,), (64, 64)), 2), LATENT, NonSaturating(0.1), **RATE)
    else:
        family = VAE(Conditioned(DenseEncoder(LATENT, (4,), (32, 32)), 2), conditional, LATENT, learning_rate=5e-3)
    label = torch.arange(1_000) % 2
    x = torch.stack([4.0 * label - 2.0, torch.zeros(1_000)], 1) + 0.3 * torch.randn(1_000, 2)
    trained = train(family, (x, label), num_steps=300, batch_size=64, seed=0, average=0.9, progress=False)
    with torch.no_grad():
        for generator in (family.eval().generator, trained.average):
            left, right = (generator.given(k)(torch.randn(200, LATENT))[:, 0].mean() for k in (0, 1))
            assert left < -1
            assert right > 1
    with pytest.raises(ValueError, match="label 2: the classes are 0 to 1"):
        conditional.given(2)

"""What is no function of each item alone is refused when a model is made, and what is one passes, whatever its rounding."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from numpyro import handlers
from torch import nn
from torch.nn import functional

from cogen.models import Array, CoGenerator, load_generator, views
from cogen.models.families.glf import LatentFlowGenerator
from cogen.models.families.realnvp import RealNVPGenerator
from cogen.models.frozen import frozen
from cogen.models.item_by_item import POINTS, check_function, check_module
from cogen.models.networks.architectures import DcganGenerator, DenseGenerator, MixerGenerator
from cogen.models.storage.generators import shipped_generators


class After(nn.Module):
    """A linear layer and a function of what it makes."""

    def __init__(self, function, inputs=3, outputs=6):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.function = nn.Linear(inputs, outputs), function

    def forward(self, z):
        return self.function(self.linear(z))


class Counting(nn.Module):
    """Another value at every call."""

    def __init__(self):
        super().__init__()
        self.linear, self.calls = nn.Linear(3, 2), 0

    def forward(self, z):
        self.calls += 1
        return self.linear(z) * self.calls


class OwnNoise(nn.Module):
    """Noise that torch's global seed does not reach."""

    def __init__(self):
        super().__init__()
        self.linear, self.random = nn.Linear(3, 2), torch.Generator().manual_seed(0)

    def forward(self, z):
        h = self.linear(z)
        return h + 0.1 * torch.randn(h.shape, generator=self.random)


class CutLatent(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, z):
        return self.linear(torch.cat([z[:, :2], z[:, 2:].detach()], 1))


class InPlace(nn.Module):
    def forward(self, z):
        return z.mul_(2)


def batch_norm():
    return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 4))


def seeded_noise(h):
    return h + torch.randn(h.shape, generator=torch.Generator().manual_seed(3))


def reseeding(h):
    torch.manual_seed(3)
    return h + torch.randn(h.shape[1])


@torch.no_grad()
def without_graph(h):
    return torch.tanh(h)


def in_pieces(h):
    h = h.clone()
    h[:, 0] = h[:, 1] - h[:, 1].mean()
    return h


def chosen_in_place(h):
    total = torch.zeros(())
    total += h.sum()
    return h if total > 0 else -h


WRONG = {
    "batch norm without statistics": (batch_norm(), "on a batch of 6 but not on one item .*batch norm without"),
    "centred": (After(lambda h: h - h.mean(0)), "mixes the items of a batch: the value of an item changes by .*h.mean"),
    "centred a little": (After(lambda h: h - 0.01 * h.mean(0)), "mixes the items"),
    "one column centred": (After(in_pieces), "mixes the items"),
    "softmax over the batch": (After(lambda h: functional.softmax(h, 0)), "mixes the items"),
    "gradient mixed": (After(lambda h: h + (h.mean(0) - h.mean(0).detach())), "the gradient of an item depends on the others"),
    "noise": (
        After(lambda h: h + torch.randn_like(h)),
        r"different values for the same z.*\(torch.randn_like, test_item_by_item.py:\d+\)",
    ),
    "faint noise": (After(lambda h: h + 0.01 * torch.randn(6)), "different values for the same z"),
    "dropout at all times": (After(lambda h: functional.dropout(h, 0.5)), r"different values .*torch.nn.functional.dropout"),
    "a distribution": (After(lambda h: torch.distributions.Normal(h, 0.1).rsample()), "different values .*part of the latent"),
    "noise of its own": (OwnNoise(), "different values for the same z"),
    "noise of the batch's shape": (After(seeded_noise), "mixes the items .*noise of the batch's shape"),
    "seeds": (After(reseeding), "seeds torch's global generator"),
    "a state": (Counting(), "draws random numbers or keeps a state"),
    "branch on a sum": (
        After(lambda h: h if h.sum() > 0 else -h),
        r"Python number .*Tensor.__bool__, test_item_by_item.py:\d+.*where",
    ),
    "branch on what was added": (After(chosen_in_place), "Python number"),
    "a rare branch": (After(lambda h: h if h.max() < 1e6 else -h), "Python number"),
    "a number": (After(lambda h: h * float(h.norm())), "Python number .*__float__"),
    "max of Python": (After(lambda h: h + max(h.sum(), torch.zeros(()))), "Python number"),
    "an index": (After(lambda h: h[:, : 1 + int(h[0].argmax())]), "Python number"),
    "detach": (After(lambda h: h.detach()), "depends on z, but its gradient is zero"),
    "no_grad": (After(without_graph), "depends on z, but its gradient is zero"),
    "NumPy": (After(lambda h: torch.from_numpy(np.tanh(h.detach().numpy()))), "depends on z, but its gradient is zero"),
    "rounded": (After(lambda h: torch.round(3 * h)), r"the function has steps \(round, argmax\)"),
    "integers": (After(lambda h: h.argmax(1, keepdim=True)), "returns torch.int64"),
    "detach of a half": (
        After(lambda h: h[:, :3].tanh() + h[:, 3:].detach().tanh()),
        "a wrong gradient",
    ),
    "detach of one latent": (CutLatent(), "depends on 1 of the 3 entries of z, but its gradient is zero"),
    "its input changed in place": (InPlace(), "its gradient, .* cannot be computed.*in-place"),
    "several outputs": (After(lambda h: (h, h)), "returns tuple"),
    "batch axis lost": (After(lambda h: h.sum(1, keepdim=True).squeeze()), r"batch of 1 into shape \(\)"),
    "batch axis folded": (After(lambda h: h.reshape(-1, 3)), r"batch of 6 into shape \(12, 3\)"),
    "not finite": (After(lambda h: h * float("nan")), "no finite value"),
}


@pytest.mark.parametrize("name", WRONG)
def test_generators_that_are_no_function_of_each_z_are_refused(name):
    module, message = WRONG[name]
    random = torch.random.get_rng_state()
    with pytest.raises(ValueError, match=message) as caught:
        CoGenerator(module, latent_dim=3, views={"all": views.Identity(scale=0.1)})
    assert str(caught.value).startswith("the generator ")
    assert "\n" not in str(caught.value)
    if name not in ("seeds",):
        assert torch.equal(random, torch.random.get_rng_state())


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4, bias=False)

    def forward(self, z):
        h = self.linear(z)
        if bool(h.sum() > 0):
            return h
        return 2 * h


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_branch_inside_a_script_is_found_by_the_numbers():
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="mixes the items"):
        check_module(torch.jit.script(Branch()), torch.randn(POINTS, 3), "it", "z")


class ContextInPlace(nn.Module):
    def forward(self, z, a, b):
        return z + a + b.mul_(2)


def test_a_context_that_is_changed_in_place_is_named():
    with pytest.raises(ValueError, match=r"^the generator changes the context 'b' in place.*as in b = 2 \* b$"):
        CoGenerator(
            ContextInPlace(),
            latent_dim=3,
            contexts={"a": Array((3,)), "b": Array((3,))},
            views={"all": views.Identity(scale=0.1)},
        )


class InPlaceUnderGradients(nn.Module):
    def forward(self, z, a):
        return z + (a.mul_(2) if torch.is_grad_enabled() else 2 * a)


def test_a_check_leaves_contexts_as_they_were():
    context = torch.ones(POINTS, 3)
    check_module(InPlaceUnderGradients(), torch.randn(POINTS, 3), "it", "z", {"a": context})
    assert torch.equal(context, torch.ones(POINTS, 3))


def half_precision():
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), After(lambda h: h.bfloat16().float(), 16, 4))


ONE = nn.Parameter(torch.ones(1))
RIGHT = {
    "dense": lambda: DenseGenerator(8, (1, 8, 8)),
    "convolutional": lambda: DcganGenerator(8, (3, 16, 16)),
    "flow": lambda: RealNVPGenerator((8,)),
    "mixer": lambda: MixerGenerator(8, (1, 8, 8), channels=8, blocks=2),
    "pixels with a noise": lambda: LatentFlowGenerator(
        "DenseGenerator", {"latent_dim": 8, "event_shape": (1, 8, 8), "hidden": (16,), "bounded": False}, noise=True
    ),
    "dropout and batch norm": lambda: nn.Sequential(
        nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.ReLU(), nn.Linear(6, 4)
    ),
    "kinks": lambda: nn.Sequential(nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 9), nn.LeakyReLU(0.2), nn.Linear(9, 2)),
    "clamped": lambda: After(lambda h: (5 * h).clamp(-1, 1), 8),
    "a wild function": lambda: nn.Sequential(After(lambda h: (20 * h).sin(), 8, 64), nn.Linear(64, 3)),
    "far from zero": lambda: After(lambda h: 1e4 + h, 8),
    "of two scales": lambda: After(lambda h: h * torch.tensor([1e5, 1e5, 1, 1, 1, 1]), 8),
    "constant": lambda: After(lambda h: 0 * h, 8),
    "constant in some latents": lambda: After(lambda h: h, 8).requires_grad_(False),
    "branch on a weight": lambda: After(lambda h: h if ONE > 0 else -h, 8),
    "a distribution's mean": lambda: After(lambda h: torch.distributions.Normal(h, 1.0, validate_args=True).mean, 8),
    "chosen item by item": lambda: After(lambda h: torch.where(h.sum(1, keepdim=True) > 0, h, 0.5 * h), 8),
    "half precision inside": half_precision,
    "quantised, with a gradient": lambda: After(lambda h: h + ((20 * h).round() / 20 - h).detach(), 8),
}


@pytest.mark.parametrize("name", RIGHT)
def test_functions_of_each_item_pass(name):
    for seed in range(5):
        torch.manual_seed(seed)
        module = RIGHT[name]()
        if name == "constant in some latents":
            module.linear.weight[:, 2:5] = 0
        assert len(check_module(frozen(module), torch.randn(POINTS, 8), "it", "z")) == POINTS


@pytest.mark.parametrize("name", shipped_generators())
def test_the_shipped_generators_pass(name):
    CoGenerator(load_generator(name), views={"all": views.Identity(scale=0.1)})


# --- views ---------------------------------------------------------------------------------------------------------


class Custom(views.View):
    def __init__(self, function):
        super().__init__(scale=0.1)
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x - x.mean(0), "view 'odd' mixes the items"),
        (lambda x: x + torch.randn_like(x), "view 'odd' returns different values for the same x"),
        (lambda x: x if x.sum() > 0 else -x, "view 'odd' converts a tensor that depends on x to a Python number"),
        (lambda x: x.detach(), "view 'odd' depends on x, but its gradient is zero"),
    ],
)
def test_views_that_are_no_function_of_each_x_are_refused(function, message):
    with pytest.raises(ValueError, match=message):
        CoGenerator(DenseGenerator(2, (3,)), latent_dim=2, views={"odd": Custom(function)})


def test_a_view_is_used_in_evaluation_mode():
    view = Custom(nn.Dropout(0.5))
    model = CoGenerator(DenseGenerator(2, (3,)), latent_dim=2, views={"dropped": view})
    x = torch.ones(4, 3)
    torch.testing.assert_close(model.views["dropped"](x), x)
    assert view.function.training


# --- JAX functions -------------------------------------------------------------------------------------------------

WEIGHT = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
KEY = jax.random.key(0)

WRONG_IN_JAX = {
    "centred": (lambda z: z @ WEIGHT - (z @ WEIGHT).mean(0), "mixes the items"),
    "one value chosen for all": (lambda z: jnp.where(z.sum() > 0, 1.0, -1.0) * (z @ WEIGHT), "mixes the items"),
    "branch": (lambda z: z @ WEIGHT if z.sum() > 0 else z, "needs the value of z while JAX traces it"),
    "noise of the batch's shape": (lambda z: z @ WEIGHT + jax.random.normal(KEY, (len(z), 4)), "mixes the items"),
    "noise of NumPy's": (
        lambda z: z @ WEIGHT + np.random.default_rng().normal(size=4).astype("f"),
        "different values for the same z",
    ),
    "stop_gradient": (lambda z: jax.lax.stop_gradient(z @ WEIGHT), "its gradient is zero"),
    "half of it stopped": (lambda z: z @ WEIGHT + jax.lax.stop_gradient(z @ WEIGHT), "a wrong gradient"),
    "steps": (lambda z: jnp.round(3 * (z @ WEIGHT)), "steps"),
    "another latent size": (lambda z: z @ np.ones((4, 4), np.float32), r"does not take z of shape \(batch, 3\)"),
    "integers": (lambda z: jnp.argmax(z, 1, keepdims=True), "returns int32"),
    "no gradient": (
        lambda z: jax.lax.while_loop(lambda s: s.sum() < 0, lambda s: s + 1, z),
        "its gradient, .* cannot be computed.*while_loop",
    ),
    "several outputs": (lambda z: (z, z), "returns tuple"),
    "batch axis lost": (lambda z: z.sum(1, keepdims=True).squeeze(), r"batch of 1 into shape \(\)"),
    "NaN": (lambda z: z * jnp.nan, "no finite value"),
}


@pytest.mark.parametrize("name", WRONG_IN_JAX)
def test_jax_functions_are_held_to_the_same(name):
    function, message = WRONG_IN_JAX[name]
    with pytest.raises(ValueError, match=message) as caught:
        CoGenerator(function, latent_dim=3, views={"all": views.Identity(scale=0.1)})
    assert str(caught.value).startswith("the generator ")
    assert "\n" not in str(caught.value)


def test_jax_functions_of_each_item_pass():
    points = np.random.default_rng(1).normal(size=(POINTS, 3)).astype(np.float32)
    for function in (
        lambda z: jnp.tanh(z @ WEIGHT),
        lambda z: jax.nn.relu(z @ WEIGHT),
        lambda z: z @ WEIGHT + jax.random.normal(KEY, (4,)),  # a constant
        lambda z: jnp.zeros((len(z), 4)),
    ):
        np.testing.assert_allclose(check_function(function, points, "it", "z"), function(points), rtol=1e-4, atol=1e-6)


def test_a_model_is_made_inside_a_trace():
    def draw(weight, key):
        model = CoGenerator(lambda z: jnp.tanh(z @ weight), latent_dim=3, views={"all": views.Identity(scale=0.1)})
        return handlers.seed(model.condition(all=np.zeros((2, 4))).numpyro, key)()

    known = jax.jit(lambda key: draw(WEIGHT, key))(KEY)
    np.testing.assert_allclose(jax.jit(draw)(WEIGHT, KEY), known, rtol=1e-5)


def test_a_check_leaves_no_trace():
    module = DenseGenerator(3, (4,), normalize=True)
    before = copy.deepcopy(module.state_dict())
    CoGenerator(module, latent_dim=3, views={"all": views.Identity(scale=0.1)})
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())

"""`as_jax` of modules with several inputs: z and the contexts by name."""

import jax
import numpy as np
import pytest
import torch
from torch import nn

from cogen.models import as_jax
from cogen.models.jax_bridge.torch_to_jax import ConversionError
from cogen.models.networks.architectures import ConditionalGenerator

RNG = np.random.default_rng(0)
Z, LABEL = RNG.normal(size=(5, 2)).astype(np.float32), np.eye(3, dtype=np.float32)[[0, 2, 1, 1, 0]]
PHOTO = RNG.normal(size=(5, 3)).astype(np.float32)


class Both(nn.Module):
    """Declares its inputs in another order than they are given in."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(8, 4)

    def forward(self, z, photo, label):
        return torch.tanh(self.linear(torch.cat([z, 2 * photo, label], dim=1)))


class Picture(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encode, self.decode = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ConvTranspose2d(6, 1, 4, stride=2, padding=1)

    def forward(self, z, photo):
        features = nn.functional.silu(self.encode(photo))
        planes = z[:, :, None, None].expand(-1, -1, *features.shape[2:])
        return torch.tanh(self.decode(torch.cat([features, planes], dim=1)))


MODULES = {
    "plain": lambda: Both(),
    "scripted": lambda: torch.jit.script(Both().eval()),
    "traced": lambda: torch.jit.trace(Both().eval(), (torch.zeros(2, 2), torch.zeros(2, 3), torch.zeros(2, 3))),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("check", [True, False])
def test_contexts_go_by_their_names(kind, check):
    module = MODULES[kind]()
    function = as_jax(module, (2,), {"label": (3,), "photo": (3,)}, check=check)
    expected = module(torch.as_tensor(Z), label=torch.as_tensor(LABEL), photo=torch.as_tensor(PHOTO))
    for given in ({"label": LABEL, "photo": PHOTO}, {"photo": PHOTO, "label": LABEL}):
        np.testing.assert_allclose(jax.jit(function)(Z, **given), expected.detach().numpy(), atol=1e-6)


def test_a_picture_and_its_gradient():
    module, photo = Picture(), RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)
    function = as_jax(module, (2,), {"photo": (3, 8, 8)})
    z, given = torch.as_tensor(Z[:2]).requires_grad_(), torch.as_tensor(photo).requires_grad_()
    value = module(z, photo=given)
    np.testing.assert_allclose(function(Z[:2], photo=photo), value.detach().numpy(), atol=1e-5)
    wanted = torch.autograd.grad(value.square().sum(), [z, given])
    found = jax.grad(lambda z, photo: (function(z, photo=photo) ** 2).sum(), argnums=(0, 1))(Z[:2], photo)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)


def test_a_stored_conditional_generator_takes_weights():
    torch.manual_seed(0)
    arguments = {"latent_dim": 5, "event_shape": (1, 8, 8), "channels": (4, 4)}
    module = ConditionalGenerator("DcganGenerator", 3, arguments).eval()
    function = as_jax(module, (2,), {"label": (3,)})
    whole = module(torch.as_tensor(Z), torch.tensor([0, 2, 1, 1, 0])).detach().numpy()  # integer labels stay
    np.testing.assert_allclose(function(Z, label=LABEL), whole, atol=1e-5)
    between = np.full((5, 3), 1 / 3, np.float32)
    np.testing.assert_allclose(
        function(Z, label=between), module(torch.as_tensor(Z), torch.as_tensor(between)).detach().numpy(), atol=1e-5
    )


class Looks(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(3, 2)

    def forward(self, z, label):
        return z * self.table(label.argmax(1)) + self.table.weight[(-label).argmin(dim=1, keepdim=True)][:, 0]


def test_a_module_may_look_its_class_up():
    module = Looks()
    found = as_jax(module, (2,), {"label": (3,)})(Z, label=LABEL)
    np.testing.assert_allclose(found, module(torch.as_tensor(Z), torch.as_tensor(LABEL)).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"label": LABEL}, r"Both takes the contexts \['label', 'photo'\], not \['label'\]"),
        ({"label": LABEL, "photo": LABEL[:, :2]}, r"Both takes photo of shape \(batch, 3\), not \(5, 2\)"),
    ],
)
def test_wrong_contexts_are_named(given, said):
    with pytest.raises(ValueError, match=said):
        as_jax(Both(), (2,), {"label": (3,), "photo": (3,)}, check=False)(Z, **given)


def test_a_module_that_does_not_take_them_is_named():
    with pytest.raises(ConversionError, match=r"Both does not run on an input of shape \(1, 2\) with label of shape \(1, 3\)"):
        as_jax(Both(), (2,), {"label": (3,)})

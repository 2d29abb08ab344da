"""Learned descents of a latent: networks trained on the paths of latents down a cost, which they predict without the cost.

    z_t+1 = unit(z_t + rho(z_t, h) (r(z_t, h) - z_t) / |r(z_t, h) - z_t|),        h the features of a condition       (Eq. 4)

r is the mean of the next z in training, and rho the distance to it. Without rho z_t+1 = unit(r(z_t, h)): where paths diverge,
r hardly differs from z_t, and the latent stays between them (a "phantom" of the paper).

The latent lies on the unit sphere, z = u / |u|. The sampled latent is u, standard normal: z is uniform on the sphere, and |u|
has a chi distribution, independent of z, on which x does not depend. A descent rotates u and keeps |u|.

References:
    Conditional generative modeling via learning the latent space (cGML). Anonymous, under review 2020 (sections 2 and 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from cogen.inference.items import CONTEXT
from cogen.models.frozen import evaluation
from cogen.models.networks.translation import EncoderDecoder

if TYPE_CHECKING:
    import jax
    import numpy as np

    from cogen.models.cogenerator import Data


def on_sphere(u: Tensor) -> Tensor:
    """Normalise vectors (..., latent_dim) to unit length."""
    return normalize(u, dim=-1)


class SphericalGenerator(nn.Module):
    """x = G(u / |u|, c): a generator of standard normal u.

    :param network: a module with ``down``, from a condition to a list of features, the smallest last, and
        ``decode(z, features, condition)``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        """u (batch, latent_dim), condition (batch, *condition_shape) -> x (batch, *event_shape)."""
        network: Any = self.network
        return network.decode(on_sphere(z), network.down(condition), condition)


def spherical_generator(**arguments: Any) -> SphericalGenerator:
    """The `SphericalGenerator` of an `EncoderDecoder` with these arguments."""
    return SphericalGenerator(EncoderDecoder(**arguments))


class Predictor(nn.Module):
    """Z: from a latent and the features of a condition to the next latent and its distance.

    :param features: number of features of a condition.
    :param hidden: widths of the hidden layers, at least one.
    :raises ValueError: for no hidden layer.
    """

    def __init__(self, latent_dim: int, features: int, hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("hidden=(): a predictor needs at least one hidden layer")
        self.latent_dim = latent_dim
        self.of_features, self.of_latent = nn.Linear(features, hidden[0]), nn.Linear(latent_dim, hidden[0], bias=False)
        layers: list[nn.Module] = [nn.SiLU()]
        for inputs, outputs in pairwise(hidden):
            layers += [nn.Linear(inputs, outputs), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1], latent_dim + 1))

    def project(self, h: Tensor) -> Tensor:
        """The first layer's output for features (batch, features), (batch, hidden[0]), which is the same in every step of z."""
        return self.of_features(h)

    def forward(self, z: Tensor, projected: Tensor) -> tuple[Tensor, Tensor]:
        """z (batch, latent_dim) and projected features -> r (batch, latent_dim), rho (batch, 1)."""
        moved = self.layers(self.of_latent(z) + projected)
        return z + moved[:, :-1], softplus(moved[:, -1:])


class LatentDescent(nn.Module):
    """The descent of latents by a predictor.

    :param down: from a condition to a list of features, the smallest last.
    :param predictor: Z, of a latent and the smallest features.
    :param num_steps: number of evaluations of Z, at least 1.
    :param momentum: whether the length of a step is rho (Eq. 4).
    :raises ValueError: for fewer than one step.
    """

    def __init__(self, down: nn.Module, predictor: Predictor, num_steps: int = 20, momentum: bool = True) -> None:
        super().__init__()
        if num_steps < 1:
            raise ValueError(f"num_steps={num_steps}: it must be at least 1")
        self.down, self.predictor, self.num_steps, self.momentum = down, predictor, num_steps, momentum
        self._jax: Any = None

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        """u (batch, latent_dim), condition (batch, *condition_shape) -> the end of the descent of u, (batch, latent_dim)."""
        return z.norm(dim=1, keepdim=True) * self._path(z, self.features(condition))[-1]

    def path(self, z: Tensor, condition: Tensor) -> Tensor:
        """All latents of the descent on the sphere, from the first to the last, (num_steps + 1, batch, latent_dim)."""
        return torch.stack(self._path(z, self.features(condition)))

    def features(self, condition: Tensor) -> Tensor:
        """The projected features of conditions, the predictor's input.

        :raises ValueError: for conditions of another size than in training.
        """
        h, expected = self.down(condition)[-1].flatten(1), self.predictor.of_features.in_features
        if h.shape[1] != expected:
            raise ValueError(
                f"conditions of shape {tuple(condition.shape[1:])} have {h.shape[1]} features, but the predictor expects"
                f" {expected}: give conditions of the size of its training"
            )
        return self.predictor.project(h)

    def step(self, z: Tensor, h: Tensor) -> Tensor:
        """The next latents of z (batch, latent_dim) on the sphere, given `features` h."""
        target, distance = self.predictor(z, h)
        return on_sphere(z + distance * on_sphere(target - z)) if self.momentum else on_sphere(target)

    def _path(self, u: Tensor, h: Tensor) -> list[Tensor]:
        path = [on_sphere(u)]
        for _ in range(self.num_steps):
            path.append(self.step(path[-1], h))
        return path

    # --- the interface of `cogen.inference.LearnedDescent` ---------------------------------------------------------

    def pyro(self, values: Mapping[str, Tensor], data: Data | None = None) -> dict[str, Tensor]:
        """Latent sites of chains (chain, item, *shape) after the descent, given a model's data.

        :raises ValueError: for data without a condition, or latents of another size.
        """
        z, condition = values["z"], torch.as_tensor(given_condition(data))
        self._check_latents(z)
        with torch.no_grad(), evaluation(self):
            h = self.features(condition).repeat(len(z), 1)
            flat = z.flatten(0, 1)
            moved = flat.norm(dim=1, keepdim=True) * self._path(flat, h)[-1]
        return {**values, "z": moved.unflatten(0, z.shape[:2])}

    def numpyro(self, values: Mapping[str, jax.Array], data: Data | None = None) -> dict[str, jax.Array]:
        """`pyro` for one chain, (item, *shape), in JAX."""
        import jax
        import jax.numpy as jnp

        from cogen.models.jax_bridge.torch_to_jax import as_jax

        condition = jnp.asarray(given_condition(data))
        self._check_latents(values["z"])
        if self._jax is None:
            with jax.ensure_compile_time_eval():  # may run inside a trace
                width = self.predictor.of_features.out_features
                step = as_jax(_Called(self, "step"), (self.predictor.latent_dim,), {"h": (width,)})
                self._jax = as_jax(_Called(self, "features"), condition.shape[1:]), step
        features, step = self._jax
        h, u = features(condition), values["z"]
        length = jnp.linalg.norm(u, axis=1, keepdims=True)
        z = u / jnp.maximum(length, 1e-12)
        return {**values, "z": length * jax.lax.fori_loop(0, self.num_steps, lambda _, z: step(z, h=h), z)}

    def _check_latents(self, z: Any) -> None:
        if z.shape[-1] != self.predictor.latent_dim:
            raise ValueError(f"the descent has {self.predictor.latent_dim} latents, but the model has {z.shape[-1]}")

    def __getstate__(self) -> dict[str, Any]:
        """The state without the compiled functions, which cannot be pickled."""
        return {**vars(self), "_jax": None}


class _Called(nn.Module):
    """A method of a descent as a module."""

    def __init__(self, descent: LatentDescent, method: str) -> None:
        super().__init__()
        self.descent, self.method = descent, method

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        function = getattr(self.descent, self.method)
        return function(x) if h is None else function(x, h)


def latent_descent(
    latent_dim: int, hidden: Sequence[int] = (256, 256), num_steps: int = 20, momentum: bool = True, **arguments: Any
) -> LatentDescent:
    """A `LatentDescent` for the `spherical_generator` of the same arguments."""
    network = EncoderDecoder(latent_dim=latent_dim, **arguments)
    return LatentDescent(network.down, Predictor(latent_dim, network.features, hidden), num_steps, momentum)


def given_condition(data: Data | None) -> np.ndarray | jax.Array:
    """The condition in a model's data, (item, *shape).

    :raises ValueError: for data without a condition.
    """
    given = {} if data is None else data.get(CONTEXT, {})
    if "condition" not in given:
        raise ValueError("a learned descent needs a condition, but none is given: use model.given(condition=...)")
    return given["condition"]

"""A latent that moves by itself: networks that have watched how it moves while a cost falls, and repeat it where none is known.

    z_t+1 = unit(z_t + rho(z_t, h) (r(z_t, h) - z_t) / |r(z_t, h) - z_t|),        h the features of a condition       (Eq. 4)

r is where z was next in training, on average, and rho how far it went. Without rho z_t+1 = unit(r(z_t, h)): where ways lead
apart r hardly differs from z_t, and the latent stays between them (a "phantom" of the paper).

The latent lies on the unit sphere, z = u / |u|. What is sampled is u, standard normal: so z is uniform on the sphere, and |u|
has a chi distribution, independent of z, that nothing depends on. A descent turns u and keeps |u|.

References:
    Conditional generative modeling via learning the latent space (cGML). Anonymous, under review 2020 (sections 2 and 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from cogen.inference.items import CONTEXT
from cogen.models.frozen import evaluation
from cogen.models.networks.translation import EncoderDecoder


def on_sphere(u: Tensor) -> Tensor:
    """The directions of vectors (..., latent_dim)."""
    return normalize(u, dim=-1)


class SphericalGenerator(nn.Module):
    """x = G(u / |u|, c): a generator of standard normal u.

    :param network: with ``down``, from a condition to a list of features, the smallest last, and ``decode(z, features,
        condition)``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        """u (batch, latent_dim), condition (batch, *condition_shape) -> x (batch, *event_shape)."""
        network: Any = self.network
        return network.decode(on_sphere(z), network.down(condition), condition)


def spherical_generator(**arguments: Any) -> SphericalGenerator:
    """Of an `EncoderDecoder` with these arguments."""
    return SphericalGenerator(EncoderDecoder(**arguments))


class Predictor(nn.Module):
    """Z: from a latent and the features of a condition to the next latent, and how far it moves.

    :param features: how many there are of a condition.
    :param hidden: widths of the hidden layers, one or more.

    Raises ValueError without a hidden layer.
    """

    def __init__(self, latent_dim: int, features: int, hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("hidden=(): a predictor has at least one hidden layer")
        self.latent_dim = latent_dim
        self.of_features, self.of_latent = nn.Linear(features, hidden[0]), nn.Linear(latent_dim, hidden[0], bias=False)
        layers: list[nn.Module] = [nn.SiLU()]
        for inputs, outputs in pairwise(hidden):
            layers += [nn.Linear(inputs, outputs), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1], latent_dim + 1))

    def project(self, h: Tensor) -> Tensor:
        """What the first layer makes of features (batch, features), (batch, hidden[0]): the same at every step of z."""
        return self.of_features(h)

    def forward(self, z: Tensor, projected: Tensor) -> tuple[Tensor, Tensor]:
        """z (batch, latent_dim) and projected features -> r (batch, latent_dim), rho (batch, 1)."""
        moved = self.layers(self.of_latent(z) + projected)
        return z + moved[:, :-1], softplus(moved[:, -1:])


class LatentDescent(nn.Module):
    """Where a predictor leads latents.

    :param down: from a condition to a list of features, the smallest last.
    :param predictor: Z, of a latent and the smallest features side by side.
    :param num_steps: evaluations of Z.
    :param momentum: whether rho says how far a step goes (Eq. 4).

    Raises ValueError for fewer steps than one.
    """

    def __init__(self, down: nn.Module, predictor: Predictor, num_steps: int = 20, momentum: bool = True) -> None:
        super().__init__()
        if num_steps < 1:
            raise ValueError(f"num_steps={num_steps}: a descent takes at least one step")
        self.down, self.predictor, self.num_steps, self.momentum = down, predictor, num_steps, momentum
        self._jax: Any = None

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        """u (batch, latent_dim), condition (batch, *condition_shape) -> where u ends, (batch, latent_dim)."""
        return z.norm(dim=1, keepdim=True) * self._ways(z, self.features(condition))[-1]

    def path(self, z: Tensor, condition: Tensor) -> Tensor:
        """The latents before, on and at the end of the way, on the sphere, (num_steps + 1, batch, latent_dim)."""
        return torch.stack(self._ways(z, self.features(condition)))

    def features(self, condition: Tensor) -> Tensor:
        """What the predictor sees of conditions, projected. Raises ValueError for those of another size than it knows."""
        h, known = self.down(condition)[-1].flatten(1), self.predictor.of_features.in_features
        if h.shape[1] != known:
            raise ValueError(
                f"conditions of shape {tuple(condition.shape[1:])} have {h.shape[1]} features, and the predictor knows {known}:"
                " give conditions of the size that it was trained on"
            )
        return self.predictor.project(h)

    def step(self, z: Tensor, h: Tensor) -> Tensor:
        """The next latents of z (batch, latent_dim) on the sphere, given `features` h."""
        target, distance = self.predictor(z, h)
        return on_sphere(z + distance * on_sphere(target - z)) if self.momentum else on_sphere(target)

    def _ways(self, u: Tensor, h: Tensor) -> list[Tensor]:
        way = [on_sphere(u)]
        for _ in range(self.num_steps):
            way.append(self.step(way[-1], h))
        return way

    # --- what `cogen.inference.LearnedDescent` calls ---------------------------------------------------------------

    def pyro(self, values: Mapping[str, Tensor], data: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
        """Latent sites of chains (chain, item, *shape) after the descent, given a model's data. Raises ValueError without a
        condition."""
        z, condition = values["z"], torch.as_tensor(given_condition(data))
        self._check_latents(z)
        with torch.no_grad(), evaluation(self):
            h = self.features(condition).repeat(len(z), 1)
            flat = z.flatten(0, 1)
            moved = flat.norm(dim=1, keepdim=True) * self._ways(flat, h)[-1]
        return {**values, "z": moved.unflatten(0, z.shape[:2])}

    def numpyro(self, values: Mapping[str, Any], data: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The same of one chain, (item, *shape), in JAX."""
        import jax
        import jax.numpy as jnp

        from cogen.models.jax_bridge.torch_to_jax import as_jax

        condition = jnp.asarray(given_condition(data))
        self._check_latents(values["z"])
        if self._jax is None:
            with jax.ensure_compile_time_eval():  # it may be met inside a trace
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
            raise ValueError(f"the descent leads {self.predictor.latent_dim} latents, the model has {z.shape[-1]}")

    def __getstate__(self) -> dict[str, Any]:
        """Without the compiled functions, which no pickle holds."""
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
    """Beside the `spherical_generator` of the same arguments."""
    network = EncoderDecoder(latent_dim=latent_dim, **arguments)
    return LatentDescent(network.down, Predictor(latent_dim, network.features, hidden), num_steps, momentum)


def given_condition(data: Mapping[str, Any] | None) -> Any:
    """The condition among a model's data, (item, *shape). Raises ValueError where there is none."""
    given = {} if data is None else data.get(CONTEXT, {})
    if "condition" not in given:
        raise ValueError("a learned descent starts from a condition, and none is given: use model.given(condition=...)")
    return given["condition"]

"""Views of x. A view is an observation operator A and a noise model, y = A(x) + noise.

A view is a small torch module without trainable parameters, so that it is converted to JAX like the generator. ``scale=0.1``
is the standard deviation of Gaussian noise; any other noise model is given as ``likelihood``.

>>> view = Mask(half((1, 28, 28), "top"), scale=0.1)
>>> view.shape((1, 28, 28))
(1, 28, 28)
>>> Compose(Grayscale(), Thumbnail(4), scale=0.1).shape((3, 32, 32))
(1, 8, 8)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cogen.models.likelihoods import (
    Bernoulli,
    Categorical,
    Laplace,
    Likelihood,
    Normal,
    Poisson,
    Scale,
    StudentT,
)
from cogen.models.masks import assorted, box, centre, free_form, half, random

__all__ = [
    "Bernoulli",
    "Categorical",
    "Columns",
    "Compose",
    "Grayscale",
    "Identity",
    "Laplace",
    "Linear",
    "Mask",
    "Normal",
    "Poisson",
    "StudentT",
    "Thumbnail",
    "View",
    "assorted",
    "box",
    "centre",
    "free_form",
    "half",
    "random",
]


class View(nn.Module):
    """Base class of all views; `forward` is the operator A, (batch, *event) -> (batch, *shape).

    A subclass must compute every item from itself only, without random numbers and with a gradient; `CoGenerator` probes it
    like the generator, in evaluation mode. It receives the contexts of the model that its `forward` names, as in
    ``forward(self, x, label)``.

    :param scale: standard deviation of Gaussian noise: a positive number, a tensor that broadcasts to the view's shape, or a
        Pyro distribution over one positive number (then it is sampled with z as the site ``<view>_scale``).
    :param likelihood: a noise model, instead of ``scale``.
    :raises TypeError: for a prior that is not a Pyro distribution.
    :raises ValueError: if both are given, and for a scale that is not positive or whose prior has negative support.
    """

    mask: Tensor | None = None
    """Which entries are seen, (*shape) or (item, *shape); None if all are."""
    holes: ClassVar[bool] = False
    """Whether NaN in the data marks a hidden entry; otherwise all entries that are not masked must be finite."""
    keeps_range: bool = False
    """Whether A(x) has the range of x, as means of pixels do: data far outside the generator's range are then rejected."""

    def __init__(self, *, scale: Scale | None = None, likelihood: Likelihood | None = None) -> None:
        super().__init__()
        if scale is not None and likelihood is not None:
            raise ValueError("give scale (of Gaussian noise) or likelihood, not both")
        self._likelihood: Likelihood | None = Normal(scale) if scale is not None else likelihood

    @property
    def likelihood(self) -> Likelihood:
        if self._likelihood is None:
            raise ValueError(
                f"this {type(self).__name__} has no noise model: give scale=..., for a stored generator usually"
                " generator.config.noise_scale, or likelihood=... (pixel_noise_of(generator) is None for a generator without"
                " learned pixel noise)"
            )
        return self._likelihood

    def check(self, values: np.ndarray, seen: np.ndarray) -> str | None:
        """A description of the first invalid seen value of the data (item, *shape), or None if all are valid."""
        return self.likelihood.check(values[seen])

    def shown(self, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The data mapped to the shape of x, as input of a network.

        :param value: (item, *shape).
        :param mask: of the same shape, True = seen; None if all are.
        :returns: values, (item, *event_shape), and weights of the same shape, from 0 for entries of x without information to 1
            for entries observed up to noise.
        :raises ValueError: for a view without such a map.
        """
        raise ValueError(f"{type(self).__name__} cannot be mapped to the shape of x")

    def shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the view of one x of this shape.

        :raises ValueError: if the view does not fit x.
        """
        try:
            with torch.no_grad():
                return tuple(self(torch.zeros(1, *event_shape)).shape[1:])
        except (RuntimeError, IndexError) as error:
            raise ValueError(f"{type(self).__name__} does not fit an x of shape {event_shape}: {error}") from None


class Identity(View):
    """All of x."""

    keeps_range = True

    def shown(self, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        weight = torch.ones_like(value) if mask is None else mask.to(value.dtype)
        return torch.where(weight > 0, value, 0.0), weight

    def forward(self, x: Tensor) -> Tensor:
        return x


class Mask(Identity):
    """The part of x where ``mask`` is True. Data keep the full shape; hidden entries are ignored.

    :param mask: boolean, of the event's shape, or with a leading item axis for one mask per item.
    :raises TypeError: for a mask that is not boolean.
    """

    def __init__(self, mask: np.ndarray | Tensor, *, scale: Scale | None = None, likelihood: Likelihood | None = None) -> None:
        super().__init__(scale=scale, likelihood=likelihood)
        mask = mask if isinstance(mask, Tensor) else torch.as_tensor(np.require(mask, requirements="W"))
        if mask.dtype != torch.bool:
            raise TypeError(f"a mask must be boolean, True = seen; this one is {mask.dtype}")
        self.mask = mask


class Thumbnail(View):
    """The mean of every ``factor`` x ``factor`` block, as for super-resolution."""

    keeps_range = True

    def __init__(self, factor: int, *, scale: Scale | None = None, likelihood: Likelihood | None = None) -> None:
        super().__init__(scale=scale, likelihood=likelihood)
        if factor < 2:
            raise ValueError(f"factor={factor}: the factor of a thumbnail must be at least 2")
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, self.factor)

    def shown(self, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        large = functional.interpolate(value, scale_factor=self.factor)
        return large, torch.full_like(large, 1 / self.factor**2)

    def shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(event_shape) != 3 or event_shape[1] % self.factor or event_shape[2] % self.factor:
            raise ValueError(f"Thumbnail: the factor {self.factor} does not divide an x of shape {event_shape}")
        return super().shape(event_shape)


class Grayscale(View):
    """The luma of an RGB image, 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), in one channel; gray images are not changed."""

    keeps_range = True

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 1:
            return x
        luma = torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype)[None, :, None, None]
        return (luma * x).sum(dim=1, keepdim=True)

    def shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(event_shape) != 3 or event_shape[0] not in (1, 3):
            raise ValueError(f"Grayscale takes images with one or three channels, but x has the shape {event_shape}")
        return super().shape(event_shape)


class Columns(View):
    """Some columns of the rows of a table, by name.

    >>> Columns(["age", "income"], of=["income", "height", "age"], scale=0.1)(torch.tensor([[1.0, 2.0, 3.0]])).tolist()
    [[3.0, 1.0]]
    """

    keeps_range = True
    index: Tensor

    def __init__(
        self,
        names: Sequence[str],
        *,
        of: Sequence[str],
        scale: Scale | None = None,
        likelihood: Likelihood | None = None,
    ) -> None:
        super().__init__(scale=scale, likelihood=likelihood)
        unknown = [name for name in names if name not in of]
        if unknown or not names:
            raise ValueError(f"columns {unknown or list(names)} are not in the table: {', '.join(of)}")
        self.names, self.of = tuple(names), tuple(of)
        self.register_buffer("index", torch.tensor([list(of).index(name) for name in names]))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.index]

    def shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        if event_shape != (len(self.of),):
            raise ValueError(f"the table has {len(self.of)} columns, but x has the shape {event_shape}")
        return super().shape(event_shape)


class Linear(View):
    """A linear map of the flattened x, y = M x, with M (outputs, size of x), as in compressed sensing, blur and tomography."""

    matrix: Tensor

    def __init__(
        self, matrix: np.ndarray | Tensor, *, scale: Scale | None = None, likelihood: Likelihood | None = None
    ) -> None:
        super().__init__(scale=scale, likelihood=likelihood)
        matrix = matrix if isinstance(matrix, Tensor) else np.require(matrix, requirements="W")
        matrix = torch.as_tensor(matrix, dtype=torch.float32)
        if matrix.ndim != 2:
            raise ValueError(f"Linear requires a matrix (outputs, size of x), not an array of shape {tuple(matrix.shape)}")
        self.register_buffer("matrix", matrix)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.T


class Compose(View):
    """The composition of views, y = A_n(... A_1(x)), with its own noise model; only the last view may have a mask."""

    def __init__(self, *views: View, scale: Scale | None = None, likelihood: Likelihood | None = None) -> None:
        super().__init__(scale=scale, likelihood=likelihood)
        if not views:
            raise ValueError("Compose needs at least one view")
        if any(view.mask is not None for view in views[:-1]):
            raise ValueError("Compose: a mask must come last, because later views would mix seen and hidden pixels")
        self.views = nn.ModuleList(views)
        self.mask = views[-1].mask
        self.keeps_range = all(view.keeps_range for view in views)

    def forward(self, x: Tensor) -> Tensor:
        for view in self.views:
            x = view(x)
        return x

    def shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        for view in self.views:
            event_shape = view.shape(event_shape)  # type: ignore[operator]
        return event_shape

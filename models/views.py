"""Views: what was observed of x. A view is an observation operator A and a noise model, y = A(x) + noise.

A view is a small torch module without parameters of its own to train, so that the bridge to JAX carries generator and view
together. ``scale=0.1`` means Gaussian noise of that standard deviation; any other noise model is given as ``likelihood``.

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
    """The base of all views: `forward` is the operator A, from (batch, *event) to (batch, *shape).

    A view of one's own must compute every item from itself alone, without random numbers and with a gradient; `CoGenerator`
    probes it as it does the generator, in evaluation mode. Where `forward` names contexts of the model among its parameters, as
    in ``forward(self, x, label)``, it is given them.

    :param scale: standard deviation of Gaussian noise: a positive number, a tensor that broadcasts to the view's shape, or a
        Pyro distribution over one positive number (then it is sampled with z as the site ``<view>_scale``).
    :param likelihood: a noise model, instead of ``scale``.

    Raises ValueError when both are given, a scale is not positive, or its prior reaches below zero; TypeError for a prior
    that is not Pyro's.
    """

    mask: Tensor | None = None
    """Which entries are seen, (*shape) or (item, *shape); None where all are."""
    holes: ClassVar[bool] = False
    """Whether NaN in the data is an entry that is not seen, item by item; elsewhere what is not masked must be finite."""
    keeps_range: bool = False
    """Whether A(x) has the range of x, as means of pixels have: then data far outside of the generator's range are refused."""

    def __init__(self, *, scale: Scale | None = None, likelihood: Likelihood | None = None) -> None:
        super().__init__()
        if scale is not None and likelihood is not None:
            raise ValueError("give a view a scale (of Gaussian noise) or a likelihood, not both")
        self._likelihood: Likelihood | None = Normal(scale) if scale is not None else likelihood

    @property
    def likelihood(self) -> Likelihood:
        if self._likelihood is None:
            raise ValueError(f"this {type(self).__name__} has no noise model: give it scale=... or likelihood=...")
        return self._likelihood

    def check(self, values: np.ndarray, seen: np.ndarray) -> str | None:
        """What is wrong with data (item, *shape) where they are seen, or None."""
        return self.likelihood.check(values[seen])

    def shown(self, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """What data say of x in the shape of x, for a network that is to look at them: (item, *event_shape), and as much a
        weight in [0, 1], 0 where they say nothing of a number of x, 1 where they say all but noise of it.

        :param value: (item, *shape).
        :param mask: of the same shape, True = seen; None where all are.

        Raises ValueError for a view that has no such picture.
        """
        raise ValueError(f"{type(self).__name__} has no picture in the shape of x")

    def shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one item's view of an x of this shape. Raises ValueError where the view does not fit x."""
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
    """The part of x where ``mask`` is True. Data keep the full shape; what they hold where hidden is ignored.

    :param mask: boolean, of the event's shape, or with a leading item axis for one mask per item.
    """

    def __init__(self, mask: np.ndarray | Tensor, *, scale: Scale | None = None, likelihood: Likelihood | None = None) -> None:
        super().__init__(scale=scale, likelihood=likelihood)
        mask = torch.as_tensor(mask)
        if mask.dtype != torch.bool:
            raise TypeError(f"a mask is boolean, True = seen; this one is {mask.dtype}")
        self.mask = mask


class Thumbnail(View):
    """The mean of every ``factor`` x ``factor`` block (super-resolution observes this)."""

    keeps_range = True

    def __init__(self, factor: int, *, scale: Scale | None = None, likelihood: Likelihood | None = None) -> None:
        super().__init__(scale=scale, likelihood=likelihood)
        if factor < 2:
            raise ValueError(f"factor={factor}: a thumbnail is at least two times smaller")
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, self.factor)

    def shown(self, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        large = functional.interpolate(value, scale_factor=self.factor)
        return large, torch.full_like(large, 1 / self.factor**2)

    def shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(event_shape) != 3 or event_shape[1] % self.factor or event_shape[2] % self.factor:
            raise ValueError(f"a thumbnail by {self.factor} does not divide an x of shape {event_shape}")
        return super().shape(event_shape)


class Grayscale(View):
    """The luma of an RGB image, 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601); a gray image as it is. Keeps one channel."""

    keeps_range = True

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 1:
            return x
        luma = torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype)[None, :, None, None]
        return (luma * x).sum(dim=1, keepdim=True)

    def shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(event_shape) != 3 or event_shape[0] not in (1, 3):
            raise ValueError(f"grayscale takes images of one or three channels, and x has the shape {event_shape}")
        return super().shape(event_shape)


class Columns(View):
    """Some columns of a row, by name.

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
            raise ValueError(f"columns {unknown or list(names)} are none of the table's: {', '.join(of)}")
        self.names, self.of = tuple(names), tuple(of)
        self.register_buffer("index", torch.tensor([list(of).index(name) for name in names]))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.index]

    def shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        if event_shape != (len(self.of),):
            raise ValueError(f"the table has {len(self.of)} columns, the generator makes an x of shape {event_shape}")
        return super().shape(event_shape)


class Linear(View):
    """A linear map of the flattened x: y = M x, M of shape (outputs, size of x) (compressed sensing, blur, tomography)."""

    matrix: Tensor

    def __init__(
        self, matrix: np.ndarray | Tensor, *, scale: Scale | None = None, likelihood: Likelihood | None = None
    ) -> None:
        super().__init__(scale=scale, likelihood=likelihood)
        matrix = torch.as_tensor(matrix, dtype=torch.float32)
        if matrix.ndim != 2:
            raise ValueError(f"a linear map is a matrix (outputs, size of x); this has shape {tuple(matrix.shape)}")
        self.register_buffer("matrix", matrix)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.T


class Compose(View):
    """Views one after the other: y = A_n(... A_1(x)). The noise is the composition's own; a mask may only come last."""

    def __init__(self, *views: View, scale: Scale | None = None, likelihood: Likelihood | None = None) -> None:
        super().__init__(scale=scale, likelihood=likelihood)
        if not views:
            raise ValueError("Compose needs at least one view")
        if any(view.mask is not None for view in views[:-1]):
            raise ValueError("in a composition a mask can only come last: what follows would mix seen and hidden pixels")
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

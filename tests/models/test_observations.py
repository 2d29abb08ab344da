"""The data of a view: refused where far outside the generator's range, warned of where they look like another range's."""

import warnings

import numpy as np
import pyro
import pytest
import torch
from torch import nn

from cogen.models import CoGenerator, load_generator, shipped_images, views
from cogen.models.storage.generators import GeneratorConfig

SHAPE = (1, 8, 8)
RNG = np.random.default_rng(0)
MASK = views.half(SHAPE, "top")
SCALE = 0.1


def model(view, value_range=(-1.0, 1.0), shape=SHAPE):
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(2, int(np.prod(shape))), nn.Tanh(), nn.Unflatten(1, shape))
    if value_range is not None:
        low, high = value_range
        generator.append(Rescaled(low, high))
        generator.config = GeneratorConfig("Rescaled", {}, 2, shape, value_range, SCALE)
    return CoGenerator(generator, latent_dim=2, views={"seen": view})


class Rescaled(nn.Module):
    def __init__(self, low, high):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x):
        return self.low + (self.high - self.low) * (x + 1) / 2


def pixels(low, high, items=3, shape=SHAPE):
    return RNG.uniform(low, high, size=(items, *shape)).astype(np.float32)


KEEPING = {
    "identity": lambda **noise: views.Identity(**noise),
    "mask": lambda **noise: views.Mask(MASK, **noise),
    "thumbnail": lambda **noise: views.Thumbnail(2, **noise),
    "gray": lambda **noise: views.Grayscale(**noise),
    "composition": lambda **noise: views.Compose(views.Grayscale(), views.Thumbnail(2), **noise),
}


@pytest.mark.parametrize("name", KEEPING)
def test_a_view_that_keeps_the_range_is_judged_by_it(name):
    made = model(KEEPING[name](scale=SCALE))
    shape = made.shapes["seen"]
    made.condition(seen=pixels(-1, 1, shape=shape))
    with pytest.raises(
        ValueError, match=r"'seen': item \d is 2\d\d.* at \(0, \d, \d\), far outside .*\[-1, 1\].*-1 \+ 2 \* bytes"
    ):
        made.condition(seen=pixels(0, 255, shape=shape))
    with pytest.warns(UserWarning, match=r"'seen': the seen data lie between .* upper half of .* range .* -1 \+ 2 \* data"):
        made.condition(seen=pixels(0, 1, shape=shape))


def test_the_warning_points_at_the_caller():
    with pytest.warns(UserWarning, match="upper half") as caught:
        model(views.Identity(scale=SCALE)).condition(seen=pixels(0, 1))
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("view", "value_range", "data"),
    [
        (views.Identity(scale=0.3), (-1, 1), pixels(-1, 1) + 0.3 * RNG.normal(size=(3, *SHAPE))),  # noise goes beyond the ends
        (views.Identity(likelihood=views.Laplace(0.3)), (-1, 1), pixels(-1, 1) + RNG.laplace(scale=0.3, size=(3, *SHAPE))),
        (views.Identity(scale=SCALE), (0, 1), pixels(0, 1)),
        (views.Identity(scale=20.0), (0, 255), pixels(0, 255)),
        (views.Identity(scale=SCALE), (-1, 1), np.full((3, *SHAPE), -1.0)),  # black
        (views.Identity(scale=SCALE), (-1, 1), np.zeros((3, *SHAPE))),  # gray
        (views.Identity(scale=SCALE), None, pixels(0, 255)),
        (views.Linear(RNG.normal(size=(20, 64)), scale=SCALE), (-1, 1), pixels(0, 255, shape=(20,))),
        (views.Identity(likelihood=views.Bernoulli((-1, 1))), (-1, 1), np.ones((3, *SHAPE))),
        (views.Mask(MASK, scale=SCALE), (-1, 1), np.where(MASK, pixels(-1, 1), 255.0)),  # hidden pixels may be anything
        (
            views.Mask(~views.box(SHAPE, 0, 0, 1, 3), scale=SCALE),
            (-1, 1),
            np.full((1, *SHAPE), 0.5),
        ),  # of few values nobody knows
    ],
)
def test_honest_data_pass_in_silence(view, value_range, data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(view, value_range).condition(seen=data)


def test_a_prior_of_the_scale_and_scales_of_pixels_are_judged_too():
    for scale in (pyro.distributions.LogNormal(-2.0, 0.5), torch.full(SHAPE, SCALE)):
        made = model(views.Identity(scale=scale))
        made.condition(seen=pixels(-1, 1))
        with pytest.raises(ValueError, match="far outside the generator's range"):
            made.condition(seen=pixels(0, 255))


def test_codes_of_missing_values_are_found():
    data = pixels(-1, 1)
    data[1, 0, 2, 3] = -999
    with pytest.raises(ValueError, match=r"item 1 is -999 at \(0, 2, 3\).*mask codes that stand for missing values"):
        model(views.Identity(scale=SCALE)).condition(seen=data)


def test_data_of_a_wider_range_are_warned_of():
    with pytest.warns(UserWarning, match=r"% of the seen data, from -1 to .*, are further outside .*\[0, 1\]"):
        model(views.Identity(scale=SCALE), (0, 1)).condition(seen=np.clip(pixels(-2, 1), -1, 1))


def test_the_shipped_digits_are_in_the_range_of_the_shipped_generators():
    images, _ = shipped_images("mnist")
    for name in ("mnist", "mnist_dcgan", "mnist_vae"):
        made = CoGenerator(load_generator(name), views={"seen": views.Mask(views.half((1, 28, 28), "top"), scale=0.3)})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            made.condition(seen=images)
        with pytest.warns(UserWarning, match="upper half"):
            made.condition(seen=(images + 1) / 2)
        with pytest.raises(
            ValueError, match=r"view 'seen': item 0 is 25\d .* outside the generator's range .*: rescale the data"
        ):
            made.condition(seen=(images + 1) * 127.5)


def test_a_view_of_ones_own_says_whether_it_keeps_the_range():
    class Doubled(views.View):
        def forward(self, x):
            return 2 * x

    class Turned(views.View):
        keeps_range = True

        def forward(self, x):
            return x.transpose(2, 3)

    model(Doubled(scale=SCALE)).condition(seen=pixels(0, 255))
    with pytest.raises(ValueError, match="far outside the generator's range"):
        model(Turned(scale=SCALE)).condition(seen=pixels(0, 255))
    assert not model(views.Compose(views.Identity(), Doubled(), scale=SCALE)).views["seen"].keeps_range

"""A conditioned CoGenerator is found inside the handlers that condition it."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pyro
import pytest
import torch
from known import LinearGenerator
from numpyro import handlers

from cogen.inference.items import ItemModel, find_items
from cogen.models import CoGenerator, views

A, B = np.full((3, 4), 0.5, np.float32), np.full((3, 4), -1.0, np.float32)


@pytest.fixture(scope="module")
def model():
    both = {"a": views.Identity(scale=0.1), "b": views.Identity(scale=0.2)}
    return CoGenerator(LinearGenerator(2, 4), latent_dim=2, views=both)


def data_of(found):
    return {name: entry["value"] for name, entry in found.item_data.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda m: m.condition(a=A, b=B),
        lambda m: m.condition(a=A).condition(b=B),
        lambda m: pyro.condition(m, data={"a": torch.as_tensor(A), "b": torch.as_tensor(B)}),
        lambda m: pyro.condition(pyro.condition(m, data={"a": A}), data={"b": B}),
        lambda m: pyro.condition(pyro.condition(m, data={"a": A, "b": A}), data={"b": B}),
        lambda m: handlers.condition(m, data={"a": A, "b": B}),
        lambda m: handlers.condition(m.numpyro, data={"a": A, "b": B}),
        lambda m: handlers.condition(handlers.condition(m.numpyro, data={"a": A}), data={"b": B}),
        lambda m: m.condition(a=A, b=B).numpyro,
        lambda m: pyro.condition(m.condition(a=A), data={"b": B}),
    ],
)
def test_conditioning_is_found(model, wrap):
    found = find_items(wrap(model))
    assert isinstance(found, ItemModel)
    data = data_of(found)
    assert set(data) == {"a", "b"}
    np.testing.assert_array_equal(data["a"], A)
    np.testing.assert_array_equal(data["b"], B)
    assert not model.item_data  # the original is as it was


def plain():
    numpyro.sample("z", dist.Normal(0, 1))


@pytest.mark.parametrize("other", [plain, handlers.condition(plain, data={"z": 1.0}), handlers.seed(plain, 0)])
def test_any_other_model_is_one_item(other):
    assert find_items(other) is None


def test_an_unknown_view_is_refused_inside_a_handler_too(model):
    with pytest.raises(ValueError, match="no view 'c'"):
        find_items(pyro.condition(model, data={"c": torch.as_tensor(A)}))

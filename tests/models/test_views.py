"""Observation operators against hand computation."""

import numpy as np
import pytest
import torch

from cogen.models import views

X = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).reshape(2, 3, 4, 4)
MASK = views.half((3, 4, 4), "top")


def test_identity_and_mask_show_the_whole():
    assert views.Identity()(X) is X
    assert views.Mask(MASK)(X) is X


def test_thumbnail():
    expected = X.numpy().reshape(2, 3, 2, 2, 2, 2).mean(axis=(3, 5))
    np.testing.assert_allclose(views.Thumbnail(2)(X), expected)
    assert views.Thumbnail(2).shape((3, 4, 4)) == (3, 2, 2)


def test_grayscale():
    expected = 0.299 * X[:, :1] + 0.587 * X[:, 1:2] + 0.114 * X[:, 2:]
    torch.testing.assert_close(views.Grayscale()(X), expected)
    torch.testing.assert_close(views.Grayscale()(X[:, :1]), X[:, :1])


def test_columns():
    rows = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    view = views.Columns(["c", "a"], of=["a", "b", "c"])
    assert view(rows).tolist() == [[3.0, 1.0], [6.0, 4.0]]
    assert view.shape((3,)) == (2,)


def test_linear():
    matrix = np.random.default_rng(0).normal(size=(5, 48)).astype(np.float32)
    np.testing.assert_allclose(views.Linear(matrix)(X), X.reshape(2, 48).numpy() @ matrix.T, rtol=1e-4)
    assert views.Linear(matrix).shape((3, 4, 4)) == (5,)


def test_composition():
    view = views.Compose(views.Grayscale(), views.Thumbnail(2), views.Mask(np.array([[[True, False], [True, True]]])))
    torch.testing.assert_close(view(X), views.Thumbnail(2)(views.Grayscale()(X)))
    assert view.shape((3, 4, 4)) == (1, 2, 2)
    assert view.mask.tolist() == [[[True, False], [True, True]]]


def test_a_view_needs_noise_only_when_asked():
    with pytest.raises(
        ValueError, match=r"this Identity has no noise model: give scale=\.\.\., .*generator\.config\.noise_scale"
    ):
        views.Identity().likelihood  # noqa: B018
    assert isinstance(views.Identity(scale=0.1).likelihood, views.Normal)
    assert isinstance(views.Identity(likelihood=views.Laplace(0.1)).likelihood, views.Laplace)


def test_arrays_that_are_read_only_are_copied():
    """torch warns of them, and warnings are errors here."""
    mask = np.broadcast_to(np.array([True, False]), (1, 2, 2))
    assert views.Mask(mask, scale=0.1).mask.tolist() == mask.tolist()
    matrix = np.broadcast_to(np.float32([1, 2]), (3, 2))
    assert views.Linear(matrix, scale=0.1).matrix.tolist() == matrix.tolist()


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: views.Identity(scale=0.1, likelihood=views.Normal(0.1)), ValueError, "not both"),
        (lambda: views.Identity(scale=-0.1), ValueError, "positive"),
        (lambda: views.Identity(scale=0.0), ValueError, "positive"),
        (lambda: views.Identity(scale=float("nan")), ValueError, "positive"),
        (lambda: views.Mask(MASK.astype(float), scale=0.1), TypeError, "boolean"),
        (lambda: views.Thumbnail(1), ValueError, "factor=1"),
        (lambda: views.Columns(["d"], of=["a", "b"]), ValueError, "d"),
        (lambda: views.Columns([], of=["a", "b"]), ValueError, "columns"),
        (lambda: views.Linear(np.ones(3)), ValueError, "Linear requires a matrix"),
        (lambda: views.Compose(), ValueError, "at least one view"),
        (lambda: views.Compose(views.Mask(MASK), views.Thumbnail(2)), ValueError, "must come last"),
    ],
)
def test_views_that_cannot_be(make, error, said):
    with pytest.raises(error, match=said):
        make()


@pytest.mark.parametrize(
    ("view", "shape", "said"),
    [
        (views.Thumbnail(3), (3, 4, 4), "does not divide"),
        (views.Thumbnail(2), (5,), "does not divide"),
        (views.Grayscale(), (2, 4, 4), "one or three channels"),
        (views.Columns(["a"], of=["a", "b"]), (3,), "2 columns"),
        (views.Linear(np.ones((2, 5))), (4,), "Linear does not fit"),
        (views.Compose(views.Grayscale(), views.Thumbnail(3)), (3, 4, 4), "does not divide"),
    ],
)
def test_views_that_do_not_fit(view, shape, said):
    with pytest.raises(ValueError, match=said):
        view.shape(shape)

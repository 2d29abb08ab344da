"""Masks against hand-made ones."""

import numpy as np
import pytest

from cogen.models import masks

SHAPE = (3, 8, 6)


@pytest.mark.parametrize(
    ("side", "seen"), [("top", np.s_[:, :4]), ("bottom", np.s_[:, 4:]), ("left", np.s_[:, :, :3]), ("right", np.s_[:, :, 3:])]
)
def test_half(side, seen):
    expected = np.zeros(SHAPE, bool)
    expected[seen] = True
    np.testing.assert_array_equal(masks.half(SHAPE, side), expected)


def test_the_halves_of_an_odd_image_share_no_pixel():
    assert (masks.half((1, 5, 5), "top") ^ masks.half((1, 5, 5), "bottom")).all()


def test_box_and_centre():
    box = masks.box(SHAPE, 1, 2, 3, 4)
    assert box.dtype == bool
    assert (~box).sum() == 3 * 3 * 4
    assert not box[:, 1:4, 2:6].any()
    np.testing.assert_array_equal(masks.centre((1, 6, 6), 2), masks.box((1, 6, 6), 2, 2, 2, 2))


def test_random():
    one = masks.random((3, 64, 64), 0.25, seed=0)
    assert one.shape == (3, 64, 64)
    assert (one == one[:1]).all()
    assert one[0].mean() == pytest.approx(0.25, abs=0.04)
    np.testing.assert_array_equal(one, masks.random((3, 64, 64), 0.25, seed=0))
    many = masks.random((1, 8, 8), 0.5, seed=1, items=4)
    assert many.shape == (4, 1, 8, 8)
    assert (many[0] != many[1]).any()


def test_free_form():
    one = masks.free_form((3, 32, 32), seed=0)
    assert (one == one[:1]).all()
    assert 0.02 < (~one).mean() < 0.8
    thick = masks.free_form((3, 32, 32), thickness=9, seed=0)
    assert thick.sum() < one.sum()
    many = masks.free_form((1, 16, 16), seed=0, items=3)
    assert many.shape == (3, 1, 16, 16)
    assert (many[0] != many[1]).any()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: masks.half(SHAPE, "upper"), "'upper' is not one of top"),
        (lambda: masks.half((7,), "top"), r"must end in \(height, width\)"),
        (lambda: masks.box(SHAPE, 6, 0, 3, 3), "is not inside an image of 8 x 6"),
        (lambda: masks.box(SHAPE, 0, 0, 0, 3), "is not inside"),
        (lambda: masks.centre(SHAPE, 7), "is not inside"),
        (lambda: masks.random(SHAPE, 1.0, seed=0), "seen=1.0"),
        (lambda: masks.free_form(SHAPE, strokes=0, seed=0), "strokes=0"),
    ],
)
def test_refusals(make, said):
    with pytest.raises(ValueError, match=said):
        make()

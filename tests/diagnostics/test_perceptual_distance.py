"""LPIPS and PieAPP by stub networks, what these are shown, and what is said where a package is missing."""

import builtins
import sys

import numpy as np
import pytest
import torch

from cogen.diagnostics import lpips, pieapp


@pytest.mark.parametrize(("measure", "low", "high"), [(lpips, -1.0, 1.0), (pieapp, 0.0, 1.0)])
def test_a_network_sees_three_channels_in_its_own_range(measure, low, high):
    seen = []

    def network(first, second):
        seen.append((first, second))
        return (first - second).abs().mean((1, 2, 3), keepdim=True)

    truth = np.zeros((70, 1, 8, 8))
    truth[:, :, :4] = 5.0
    estimate = np.full((70, 1, 8, 8), 5.0)
    found = measure(estimate, truth, (0.0, 5.0), network=network)
    assert found.shape == (70,)
    np.testing.assert_allclose(found, (high - low) / 2)
    assert [len(first) for first, _ in seen] == [64, 6]
    first, second = seen[0]
    assert first.shape == (64, 3, 8, 8)
    assert (float(first.min()), float(second.min()), float(second.max())) == (high, low, high)
    assert not torch.is_grad_enabled() or first.grad_fn is None
    np.testing.assert_array_equal(measure(truth, truth, (0.0, 5.0), network=network), 0)


@pytest.mark.parametrize(("measure", "package"), [(lpips, "lpips"), (pieapp, "piq")])
def test_a_missing_package_is_said(measure, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ImportError, match=rf"package {package}, which is not installed or does not load .*: pip install {package}"
    ):
        measure(np.zeros((1, 3, 64, 64)), np.zeros((1, 3, 64, 64)), (0, 1))


def test_nothing_loads_a_package_before_it_is_asked_for(monkeypatch):
    original = builtins.__import__

    def refuse(name, *arguments, **keywords):
        assert name not in ("lpips", "piq", "torchvision")
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    lpips(np.zeros((1, 1, 8, 8)), np.zeros((1, 1, 8, 8)), (0, 1), network=lambda a, b: torch.zeros(len(a)))


def test_images_that_do_not_fit():
    with pytest.raises(ValueError, match="one or three channels"):
        lpips(np.zeros((1, 2, 8, 8)), np.zeros((1, 2, 8, 8)), (0, 1), network=lambda a, b: a)

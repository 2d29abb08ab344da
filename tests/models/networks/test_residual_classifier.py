"""The residual classifier: logits from features, each image by itself, and the identity where its blocks add nothing."""

import pytest
import torch

from cogen.models.networks.architectures import count_parameters
from cogen.models.networks.residual_classifier import ResidualClassifier


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 5)])
def test_logits_of_each_image_come_from_its_features(shape):
    torch.manual_seed(0)
    network = ResidualClassifier(shape, (4, 6), 5, outputs=3).eval()
    x = torch.randn(7, *shape)
    assert network.features(x).shape == (7, 5)
    assert network(x).shape == (7, 3)
    torch.testing.assert_close(network(x), network.last(network.features(x)))
    torch.testing.assert_close(network(x[2:3]), network(x)[2:3], rtol=1e-4, atol=1e-5)


def test_a_block_whose_branch_is_zero_passes_its_input_on():
    network = ResidualClassifier((1, 8, 8), (4, 6), 5).eval()
    block = network.features[1]
    torch.nn.init.zeros_(block.branch[0].weight)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(block(x), x)


def test_by_default_it_is_as_large_as_the_shipped_ones():
    assert count_parameters(ResidualClassifier((3, 32, 32))) < 110_000


@pytest.mark.parametrize("shape", [(28, 28), (1, 2, 8)])
def test_an_event_that_is_no_image_is_named(shape):
    with pytest.raises(ValueError, match=r"event_shape \(.*\): images are \(channel, height, width\)"):
        ResidualClassifier(shape)

"""The tests of models look at the densities of several items together, which a sampler must not."""

import pytest

from cogen.inference import items_apart


@pytest.fixture(autouse=True)
def _densities_of_several_items():
    with items_apart():
        yield

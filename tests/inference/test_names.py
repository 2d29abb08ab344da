"""Former public names work and warn."""

import pytest

import cogen.inference as wing


@pytest.mark.parametrize(("old", "new"), [("Inference", "Run"), ("PaperRule", "MovingAverage"), ("Recorded", "RecordedSteps")])
def test_a_former_name_warns_and_works(old, new):
    with pytest.warns(DeprecationWarning, match=f"cogen.inference.{old} is now cogen.inference.{new}"):
        assert getattr(wing, old) is getattr(wing, new)
    assert old not in dir(wing)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = wing.no_such_name

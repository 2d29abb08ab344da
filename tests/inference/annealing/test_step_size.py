"""Step-size rules: their arithmetic, and what a pilot leaves behind."""

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from cogen.inference.annealing.step_size import ConstantGain, Fixed, MovingAverage, RecordedSteps


def follow(rule, rates, item=0):
    state, steps = rule.init(item), []
    for rate in rates:
        state = rule.update(state, jnp.float32(rate))
        steps.append(float(rule.step_size(state, jnp.float32(0.5))))
    return steps


def test_the_paper_s_rule():
    expected, average, step = [], 0.65, 0.01
    rates = [1.0, 1.0, 0.0, 0.0, 0.0, 0.9]
    for rate in rates:
        average = 0.9 * average + 0.1 * rate
        step *= 1.02 if average > 0.65 else 0.98
        expected.append(step)
    np.testing.assert_allclose(follow(MovingAverage(), rates), expected, rtol=1e-5)
    assert len({round(b / a, 3) for a, b in zip([0.01, *expected], expected, strict=False)}) == 2  # both branches were met


def test_the_paper_s_rule_stays_within_its_bounds():
    assert follow(MovingAverage(initial=0.5), [1.0] * 3)[-1] == pytest.approx(0.5)
    assert follow(MovingAverage(initial=1e-4), [0.0] * 3)[-1] == pytest.approx(1e-4)


def test_constant_gain():
    np.testing.assert_allclose(follow(ConstantGain(0.1), [1.0, 0.0]), [0.1 * np.exp(0.05), 0.1 * np.exp(0.05 - 0.2)], rtol=1e-5)
    assert follow(ConstantGain(initial=1.9), [1.0] * 5)[-1] == 2.0


def test_fixed_stands_still():
    assert follow(Fixed(0.3), [0.0, 1.0]) == pytest.approx([0.3, 0.3])
    assert [rule.adapts for rule in (Fixed(1), MovingAverage(), ConstantGain())] == [False, True, True]


def pilot(step, beta=(0.25, 0.5, 1.0)):
    step = np.asarray(step)
    dims = ("draw", "item")[: step.ndim]
    beta = np.asarray(beta) if step.ndim == 1 else np.repeat(np.asarray(beta)[:, None], step.shape[1], axis=1)
    return {"warmup_sample_stats": xr.Dataset({"beta": (dims, beta), "step_size": (dims, step)})}


def row(rule, item):
    return [values[item] for values in rule.rows]


def test_a_record_is_per_item_and_interpolated_in_log_step():
    rule = RecordedSteps.of(pilot([[0.1, 1.0], [0.4, 2.0], [0.1, 4.0]]))
    assert not rule.adapts
    assert rule.steps.shape == (2, 3)
    steps = [
        [float(rule.step_size(rule.init(row(rule, item)), jnp.float32(b))) for b in (0.0, 0.25, 0.375, 1.0)] for item in (0, 1)
    ]
    np.testing.assert_allclose(steps, [[0.1, 0.1, 0.2, 0.1], [1.0, 1.0, np.sqrt(2), 4.0]], rtol=1e-5)
    state = rule.init(row(rule, 1))
    assert rule.update(state, jnp.float32(0.0)) is state


def test_a_record_of_a_general_model_has_one_item():
    rule = RecordedSteps.of(pilot([0.1, 0.2, 0.3]))
    assert rule.steps.shape == (1, 3)
    assert float(rule.step_size(rule.init(row(rule, 0)), jnp.float32(1.0))) == pytest.approx(0.3)


def test_a_run_without_annealing_leaves_no_record():
    with pytest.raises(ValueError, match="not annealed"):
        RecordedSteps.of({"warmup_sample_stats": xr.Dataset({"step_size": (("draw",), np.ones(3))})})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Fixed(0.0), "positive"),
        (lambda: Fixed(float("nan")), "positive"),
        (lambda: MovingAverage(initial=1.0), "bounds"),
        (lambda: ConstantGain(initial=-0.1), "bounds"),
        (lambda: ConstantGain(target=1.0), "between 0 and 1"),
        (lambda: RecordedSteps(np.array([0.5, 1.0]), np.ones((2, 3))), "must be"),
        (lambda: RecordedSteps(np.array([0.5, 1.0]), np.array([[0.1, 0.0]])), "positive"),
        (lambda: RecordedSteps(np.array([1.0, 0.5]), np.ones((1, 2))), "must not decrease"),
    ],
)
def test_what_is_no_step_size_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()

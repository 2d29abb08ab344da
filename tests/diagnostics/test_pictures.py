"""The pictures: the right panels, pixels where they belong, no pyplot state."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from synthetic import annealed_run, plain_run

from cogen.diagnostics import plot_annealing, plot_completions, plot_energy, plot_rank, plot_trace
from cogen.diagnostics.pictures import HIDDEN_COLOUR


def panels(figure):
    """Pictures by row, from the top: arrays from left to right."""
    rows = {}
    for image in figure.axes[0].images:
        left, _, bottom, _ = image.get_extent()
        rows.setdefault(round(bottom, 3), []).append((left, image))
    return [[image.get_array() for _, image in sorted(row, key=lambda p: p[0])] for _, row in sorted(rows.items())[::-1]]


def test_completions_show_seen_truth_mean_draws_and_deviation(tmp_path):
    run, made = annealed_run(items=3, keep_x=True)
    figure = plot_completions(run, truth=made.truth, num_draws=2)
    assert isinstance(figure, Figure)
    titles = [text.get_text() for text in figure.axes[0].texts if not text.get_text().isdecimal()]
    assert titles == ["seen", "truth", "mean", "draw 1", "draw 2", "sd"]
    rows = panels(figure)
    assert [len(row) for row in rows] == [6, 6, 6]
    seen, truth, _, draw, _, deviation = rows[1]
    np.testing.assert_allclose(seen[-1, -1], HIDDEN_COLOUR)
    np.testing.assert_allclose(seen[0, 0], (made.truth[1, 0, 0, 0] + 1) / 2, rtol=1e-6)
    np.testing.assert_allclose(truth, (made.truth[1, 0] + 1) / 2, rtol=1e-6)
    x = (run["posterior"]["x"].values[:, :, 1, 0] + 1) / 2
    assert np.isclose(x, draw).all(axis=(2, 3)).any()
    assert deviation.max() == pytest.approx(0.3)
    figure.savefig(tmp_path / "completions.png")


def test_completions_in_colour_in_two_bands_and_without_x():
    run, _ = annealed_run(items=9, channels=3)
    figure = plot_completions(run)
    rows = panels(figure)
    assert [len(row) for row in rows] == [6, 6, 6, 6, 3]  # seen, mean, sd, twice
    assert rows[0][1].shape == (12, 12, 3)
    given = plot_completions(run, draws=np.zeros((5, 9, 3, 12, 12)), num_draws=3, items=[8, 0])
    assert [len(row) for row in panels(given)] == [6, 6]


@pytest.mark.parametrize("name", ["7", "image-12", "scan of a page $x_1$", "a-very-long-name-of-a-file-0001"])
def test_labels_are_inside_of_the_figure(name):
    run, _ = annealed_run(items=10, keep_x=True)
    run["posterior"].attrs["item_names"] = [f"{name}{k}" for k in range(10)]
    figure = plot_completions(run)
    figure.canvas.draw()
    labels = [text for text in figure.axes[0].texts if text.get_ha() == "right"]
    assert len(labels) == 10
    assert labels[3].get_text().replace("\\$", "$").endswith(f"{name}3"[-19:])
    page = figure.axes[0]
    for box in (text.get_window_extent() for text in labels):
        assert box.x0 >= 0
        for left, right, bottom, top in (image.get_extent() for image in page.images):
            (x0, y0), (x1, y1) = page.transData.transform([(left, bottom), (right, top)])
            assert x1 <= box.x0 or x0 >= box.x1 or y1 <= box.y0 or y0 >= box.y1


def test_draws_are_picked_by_weight():
    run, _ = annealed_run(items=1, keep_x=True)
    run["sample_stats"]["log_weight"].values[:5] = -np.inf
    run["sample_stats"]["log_weight"].values[6:] = -np.inf
    shown = panels(plot_completions(run, num_draws=3))[0][2:5]
    allowed = (run["posterior"]["x"].values[5, :, 0, 0] + 1) / 2
    for draw in shown:
        assert np.isclose(allowed, draw).all(axis=(1, 2)).any()


def test_annealing_has_a_line_per_item_and_the_median():
    run, _ = annealed_run(items=5)
    figure = plot_annealing(run)
    assert len(figure.axes) == 5
    assert all(len(axes.lines) == 6 for axes in figure.axes)
    assert figure.axes[2].get_yscale() == "log"
    with pytest.raises(ValueError, match="NUTS recorded no annealing path"):
        plot_annealing(plain_run())


@pytest.mark.parametrize("run", [annealed_run(weights="random", draws=20)[0], plain_run(draws=60)])
def test_arviz_plots_leave_no_pyplot_figure(run, tmp_path):
    from matplotlib import pyplot

    for number, plot in enumerate((plot_trace, plot_rank, plot_energy)):
        figure = plot(run)
        assert isinstance(figure, Figure)
        figure.savefig(tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").stat().st_size > 5_000
    assert pyplot.get_fignums() == []


def test_bad_requests_are_named():
    run, made = annealed_run()
    with pytest.raises(ValueError, match=r"items \[3\]"):
        plot_completions(run, items=[3])
    with pytest.raises(ValueError, match="the truth has shape"):
        plot_completions(run, truth=made.truth[:1])
    with pytest.raises(ValueError, match=r"value range \(1\.0, 0\.0\) is empty: give \(low, high\)"):
        plot_completions(run, value_range=(1, 0))
    with pytest.raises(ValueError, match="no predictions"):
        plot_completions(plain_run())
    with pytest.raises(ValueError, match="no item 7"):
        plot_trace(run, item=7)
    with pytest.raises(ValueError, match="no latent"):
        plot_rank(run, latents=[99])


def test_importing_the_wing_loads_no_plotting_and_no_samplers():
    heavy = {"arviz", "matplotlib", "torch", "jax", "cogen.inference", "cogen.models", "scipy.stats"}
    code = f"import sys, cogen.diagnostics; print(sorted({heavy!r} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"

"""A run that was killed and called again ends with the numbers of one that was not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pyro.infer
import pytest
from known import LinearCase

from cogen.inference import Adaptive, AnnealedHMC, Checkpoint, ConstantGain, PyroAnnealedHMC, Run, infer

OPTIONS = {"num_warmup": 40, "num_samples": 3, "num_chains": 64, "seed": 0, "progress": False}


def kernel() -> AnnealedHMC:
    return AnnealedHMC(num_leapfrog=2, step_size=0.2, schedule=Adaptive(0.9), resample_threshold=0.0)


@pytest.fixture(scope="module")
def whole():
    return infer(LinearCase(6).conditioned, kernel(), **OPTIONS)


def same(one, other) -> bool:
    groups = ("posterior", "sample_stats", "warmup_sample_stats", "predictions")
    return all((one[g][name].values == other[g][name].values).all() for g in groups for name in one[g].data_vars)


class StopsAfter(Checkpoint):
    """Dies (by an exception) after so many writes."""

    left = 12

    def save(self, block, arrays):
        super().save(block, arrays)
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on(tmp_path, whole):
    model, folder = LinearCase(6).conditioned, tmp_path / "run"
    interruptions = 0
    while True:
        try:
            posterior = infer(model, kernel(), checkpoint=StopsAfter(folder, every=0.0), **OPTIONS)
            break
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions >= 2
    assert same(posterior, whole)
    gradients = "gradient_evaluations"
    assert posterior["posterior"].attrs[gradients] == whole["posterior"].attrs[gradients]
    assert same(infer(model, kernel(), checkpoint=folder, **OPTIONS), whole)  # nothing is left to do


SCRIPT = """
import sys
sys.path[:0] = {path!r}
import jax
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_compilation_cache_dir", {cache!r})
from known import LinearCase
from cogen.inference import Checkpoint, infer
from test_checkpoint import OPTIONS, kernel
infer(LinearCase(6).conditioned, kernel(), checkpoint=Checkpoint({folder!r}, every=0.0), **OPTIONS)
"""


def test_a_run_that_was_killed_goes_on(tmp_path, whole):
    """SIGKILL comes as soon as the run has written something."""
    model, folder = LinearCase(6).conditioned, tmp_path / "run"
    cache = jax.config.jax_compilation_cache_dir
    script = SCRIPT.format(path=[str(Path(__file__).parent)], folder=str(folder), cache=cache)
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "JAX_PLATFORMS": "cpu"})
    try:
        while process.poll() is None and not (folder / "block_00000.npz").exists():
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert same(infer(model, kernel(), checkpoint=folder, **OPTIONS), whole)


def test_a_foreign_or_damaged_folder_is_refused(tmp_path, whole):
    model, folder = LinearCase(6).conditioned, tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        infer(model, kernel(), checkpoint=StopsAfter(folder, every=0.0), **OPTIONS)
    with pytest.raises(ValueError, match="another run: seed was 0 there and is 1 here"):
        infer(model, kernel(), checkpoint=folder, **{**OPTIONS, "seed": 1})
    with pytest.raises(ValueError, match="another run: data was"):
        infer(LinearCase(6, seed=5).conditioned, kernel(), checkpoint=folder, **OPTIONS)
    with pytest.raises(ValueError, match="another run: model and kernel was"):
        infer(model, AnnealedHMC(num_leapfrog=3, step_size=0.2), checkpoint=folder, **OPTIONS)
    block = folder / "block_00000.npz"
    content = block.read_bytes()
    for broken in (
        content[: len(content) // 2],
        b"",
        content[: len(content) // 2] + b"x" * 20 + content[len(content) // 2 + 20 :],
    ):
        block.write_bytes(broken)
        with pytest.raises(ValueError, match=r"block_00000.npz is damaged .* remove this file"):
            Checkpoint(folder).load(0)
    block.unlink()
    assert same(infer(model, kernel(), checkpoint=folder, **OPTIONS), whole)
    (folder / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"run.json cannot be read"):
        Checkpoint(folder).open({})


def test_a_setting_that_stands_in_the_start_alone_is_another_run_s(tmp_path):
    model = LinearCase(6).conditioned
    first, other = (AnnealedHMC(num_leapfrog=2, step_size=ConstantGain(initial=initial)) for initial in (0.2, 0.21))
    with pytest.raises(KeyboardInterrupt):
        infer(model, first, checkpoint=StopsAfter(tmp_path / "run", every=0.0), **OPTIONS)
    with pytest.raises(ValueError, match="another run: model and kernel was"):
        infer(model, other, checkpoint=tmp_path / "run", **OPTIONS)


def test_a_folder_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("", encoding="utf-8")
    model = LinearCase(6).conditioned
    with pytest.raises(ValueError, match=r"holds 'thesis.tex' but no run.json"):
        infer(model, kernel(), checkpoint=tmp_path, **OPTIONS)
    with pytest.raises(ValueError, match="is a file: give a folder"):
        infer(model, kernel(), checkpoint=tmp_path / "thesis.tex", **OPTIONS)
    with pytest.raises(ValueError, match="every=-1"):
        Checkpoint(tmp_path, every=-1)


def test_only_the_first_draw_is_covered(tmp_path):
    run = Run(LinearCase(2).conditioned, kernel(), num_warmup=5, num_chains=8, seed=0, progress=False)
    run.draw(1)
    with pytest.raises(ValueError, match="first call"):
        run.draw(1, checkpoint=Checkpoint(tmp_path))


def test_nothing_is_left_half_written(tmp_path):
    store = Checkpoint(tmp_path / "run", every=0.0)
    store.open({"seed": 0})
    for k in range(3):
        store.save(0, {"a": np.arange(k + 1)})
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["block_00000.npz", "run.json"]
    assert store.load(0)["a"].tolist() == [0, 1, 2]
    assert store.load(1) is None


# --- in torch ------------------------------------------------------------------------------------------------------


def torch_kernel(**settings) -> PyroAnnealedHMC:
    return PyroAnnealedHMC(**{"num_leapfrog": 2, "schedule": Adaptive(0.9), "resample_threshold": 0.3} | settings)


class StopsSoon(StopsAfter):
    left = 5


def test_a_run_in_torch_goes_on_and_knows_its_own_folder(tmp_path):
    model, folder = LinearCase(6).conditioned, tmp_path / "run"
    whole = infer(model, torch_kernel(), pilot=8, **OPTIONS)
    interruptions = 0
    while True:
        try:
            posterior = infer(model, torch_kernel(), pilot=8, checkpoint=StopsSoon(folder, every=0.0), **OPTIONS)
            break
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions >= 2
    assert same(posterior, whole)
    assert posterior["posterior"].attrs["gradient_evaluations"] == whole["posterior"].attrs["gradient_evaluations"]
    assert same(infer(model, torch_kernel(), pilot=8, checkpoint=folder, **OPTIONS), whole)
    alone = {"checkpoint": tmp_path / "alone"} | OPTIONS
    infer(model, torch_kernel(), **alone)
    with pytest.raises(ValueError, match="another run: seed was 0 there and is 1 here"):
        infer(model, torch_kernel(), **{**alone, "seed": 1})
    with pytest.raises(ValueError, match="another run: model and data was"):
        infer(LinearCase(6, seed=5).conditioned, torch_kernel(), **alone)
    for other in ({"num_leapfrog": 3}, {"schedule": Adaptive(0.8)}, {"step_size": 0.1}, {"inverse_mass": np.ones(8)}):
        with pytest.raises(ValueError, match="another run: settings was"):
            infer(model, torch_kernel(**other), **alone)


def test_pyro_s_own_kernels_have_no_checkpoints(tmp_path):
    with pytest.raises(ValueError, match="requires PyroAnnealedHMC"):
        infer(LinearCase(2).conditioned, pyro.infer.NUTS, checkpoint=tmp_path, **OPTIONS)

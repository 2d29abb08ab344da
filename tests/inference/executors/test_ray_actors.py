"""On Ray the numbers are those of one process, at one, two and four workers and after a worker was killed."""

import os
import pickle
import signal
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from small_runs import COUNTS, IN_BLOCKS, annealed, assert_same, conditioned

from cogen.inference import AnnealedHMC, InProcess, RayExecutor, infer


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"workers": 0}, "workers=0"), ({"retries": -1}, "retries=-1"), ({"cpus_per_worker": -1.0}, "cpus_per_worker=-1")],
)
def test_numbers_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RayExecutor(**settings)
    assert pickle.loads(pickle.dumps(RayExecutor())) == RayExecutor()


def test_without_ray_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'cogen-ppl\[ray\]'"):
        infer(conditioned(2), AnnealedHMC(), executor=RayExecutor(), **COUNTS)


@pytest.fixture(scope="module")
def ray():
    """Ray with four places on this machine; the executors use it, and leave it running."""
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"os\.fork\(\)")  # of JAX, where it runs already
        ray.init(num_cpus=4, include_dashboard=False, logging_level="error", log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def whole():
    return infer(conditioned(15), annealed(), **IN_BLOCKS)


def on_ray(items_per_job=2, *, workers, **settings):
    executor = RayExecutor(workers, items_per_job)
    return infer(conditioned(15), annealed(), executor=executor, **IN_BLOCKS | settings)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_bits_do_not_depend_on_the_workers(ray, whole, workers):
    assert_same(whole, on_ray(workers=workers))


def test_what_another_executor_began_goes_on(ray, whole, tmp_path):
    folder = tmp_path / "run"
    infer(conditioned(15), annealed(), executor=InProcess(2), checkpoint=folder, **IN_BLOCKS)
    for k in (0, 3, 4):
        (folder / f"shard_{k:06d}.nc").unlink()
    assert_same(whole, on_ray(workers=2, checkpoint=folder))
    assert ray.is_initialized()


def actors() -> set[int]:
    """Processes of actors that the Ray of this process has started."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if b"_Actor" in (path / "cmdline").read_bytes() and _parent(_parent(int(path.name))) == os.getpid():
                found.add(int(path.name))
        except OSError:  # it has ended
            continue
    return found


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def test_a_killed_worker_loses_nothing(ray, whole, tmp_path):
    killed, folder = [], tmp_path / "run"

    def kill_one():
        deadline = time.monotonic() + 300
        while not list(folder.glob("shard_*.nc")) and time.monotonic() < deadline:
            time.sleep(0.005)
        victim = min(actors())
        os.kill(victim, signal.SIGKILL)
        killed.append(victim)

    thread = threading.Thread(target=kill_one)
    thread.start()
    posterior = on_ray(workers=2, checkpoint=folder)
    thread.join()
    assert len(killed) == 1
    assert_same(whole, posterior)
    assert not list(folder.glob(".*.part"))


def test_a_job_whose_workers_always_die_ends_the_run(ray, tmp_path):
    stop = threading.Event()

    def kill_all():
        while not stop.is_set():
            for pid in actors():
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    thread = threading.Thread(target=kill_all)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match=r"the worker of items 0 to \d+ died 2 times .* same call resumes"):
            infer(conditioned(2), annealed(), executor=RayExecutor(1, retries=1), checkpoint=tmp_path / "run", **IN_BLOCKS)
    finally:
        stop.set()
        thread.join()


def test_what_a_job_raises_or_warns_of_reaches_the_caller(ray):
    counts = COUNTS | {"items_at_once": 2}
    with pytest.raises(ValueError, match=r"item.* 4\b"):
        infer(conditioned(5, value=1e30), AnnealedHMC(), executor=RayExecutor(2, 2), **counts)
    with pytest.warns(UserWarning, match="rejected: item 4 "):
        infer(conditioned(5, value=1e16), AnnealedHMC(step_size=1e6, num_leapfrog=2), executor=RayExecutor(1, 2), **counts)


def test_more_workers_than_ray_has_places_for_are_refused(ray):
    with pytest.raises(ValueError, match=r"5 workers with 1 CPU each exceed the 4 CPU of this Ray cluster"):
        on_ray(workers=5)
    with pytest.raises(ValueError, match="smaller gpus_per_worker"):
        infer(conditioned(2), annealed(), executor=RayExecutor(1, gpus_per_worker=0.5), **IN_BLOCKS)


def test_a_model_that_cannot_be_sent_is_refused(ray):
    model = conditioned(2)
    model.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"cannot be sent to another process \(TypeError: cannot pickle '_thread.lock'"):
        infer(model, annealed(), executor=RayExecutor(1), **IN_BLOCKS)


@pytest.mark.slow
def test_a_thousand_items_have_the_bits_of_one_process(ray, tmp_path):
    model, counts = conditioned(1000), COUNTS | {"items_at_once": 8}
    one = infer(model, annealed(), executor=InProcess(), checkpoint=tmp_path / "one", **counts)
    two = infer(model, annealed(), executor=RayExecutor(2), checkpoint=tmp_path / "two", **counts)
    assert_same(one, two)
    assert np.isfinite(two["posterior"]["z"].values).all()

"""A run in jobs has the bits of a run in one piece; its shards are the checkpoint, and memory does not grow with the items."""

import importlib.util
import pickle
import tracemalloc

import numpy as np
import numpyro
import numpyro.distributions as dist
import numpyro.infer
import pyro.infer
import pytest
from small_runs import COUNTS, IN_BLOCKS, annealed, assert_same, conditioned

from cogen.inference import AnnealedHMC, Checkpoint, InProcess, Langevin, Run, infer
from cogen.inference.executors.jobs import Job, Plan, Worker, items_per_job
from cogen.inference.executors.shards import merged

needs_dask = pytest.mark.skipif(importlib.util.find_spec("dask") is None, reason="dask reads shards when they are used")
pytestmark = pytest.mark.filterwarnings("ignore:dask is not installed:UserWarning")


@pytest.fixture(scope="module")
def whole():
    return infer(conditioned(7), annealed(), **IN_BLOCKS)


def in_jobs(folder, **settings):
    return infer(conditioned(7), annealed(), executor=InProcess(items_per_job=3), checkpoint=folder, **IN_BLOCKS | settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jobs") / "run"
    in_jobs(folder)
    return folder


def shards(folder):
    return sorted(path.name for path in folder.iterdir())


def test_jobs_have_the_bits_of_a_run_in_one_piece(folder, whole):
    """With a pilot in every job, and items that arrive at different times; three items a job become two blocks of two."""
    assert shards(folder) == ["run.json", "shard_000000.nc", "shard_000001.nc"]
    posterior = in_jobs(folder)
    assert_same(whole, posterior)
    assert posterior["posterior"]["item"].values.tolist() == list(range(7))
    attributes, expected = posterior["posterior"].attrs, whole["posterior"].attrs
    assert attributes["gradient_evaluations"] == expected["gradient_evaluations"] > 0
    same = attributes.keys() - {"seconds", "compile_seconds"}
    assert {name: attributes[name] for name in same} == {name: expected[name] for name in same}
    assert attributes.keys() == expected.keys()


def test_without_a_folder_the_results_are_in_memory(whole):
    posterior = infer(conditioned(7), annealed(), executor=InProcess(), **IN_BLOCKS)
    assert_same(whole, posterior)
    assert isinstance(posterior["posterior"]["z"].data, np.ndarray)


def test_what_is_missing_is_run_and_nothing_else(folder, whole):
    first, second = folder / "shard_000000.nc", folder / "shard_000001.nc"
    written = first.stat().st_mtime_ns, first.read_bytes()
    second.unlink()
    (folder / ".shard_000001.nc.17.part").write_bytes(b"of a worker that was killed")
    assert_same(whole, in_jobs(folder))
    assert (first.stat().st_mtime_ns, first.read_bytes()) == written
    assert sorted(folder.iterdir()) == [folder / "run.json", first, second]


def test_an_interrupted_run_goes_on(tmp_path, whole):
    class Interrupted(InProcess):
        def run(self, plan, jobs):
            yield next(super().run(plan, jobs))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        infer(conditioned(7), annealed(), executor=Interrupted(3), checkpoint=tmp_path / "run", **IN_BLOCKS)
    assert shards(tmp_path / "run") == ["run.json", "shard_000000.nc"]
    assert_same(whole, in_jobs(tmp_path / "run"))


def test_the_folder_of_another_run_is_refused(folder):
    with pytest.raises(ValueError, match="another run: seed was 3 there and is 4 here"):
        in_jobs(folder, seed=4)
    with pytest.raises(ValueError, match="another run: pilot was 8 there and is 0 here"):
        in_jobs(folder, pilot=0)
    with pytest.raises(ValueError, match="another run: items_per_job was 4 there and is 2 here"):
        infer(conditioned(7), annealed(), executor=InProcess(2), checkpoint=folder, **IN_BLOCKS)
    with pytest.raises(ValueError, match="another run: data was"):
        infer(conditioned(7, value=1.0), annealed(), executor=InProcess(3), checkpoint=folder, **IN_BLOCKS)
    with pytest.raises(ValueError, match="another run: pilot was 8 there and is None here"):  # without an executor
        infer(conditioned(7), annealed(), checkpoint=folder, **IN_BLOCKS | {"pilot": 0})


def test_a_damaged_shard_is_named(folder, whole):
    path = folder / "shard_000001.nc"
    content = path.read_bytes()
    for broken in (b"", content[: len(content) // 2]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"shard_000001.nc is damaged .* remove this file to repeat its items"):
            in_jobs(folder)
    path.unlink()
    assert_same(whole, in_jobs(folder))


@needs_dask
def test_shards_are_read_when_they_are_used(folder, whole):
    import dask

    posterior = in_jobs(folder)
    assert all(dask.is_dask_collection(variable) for variable in posterior["posterior"].data_vars.values())
    mean = posterior["posterior"]["z"].mean(("chain", "draw"))
    assert dask.is_dask_collection(mean)
    np.testing.assert_allclose(mean.values, whole["posterior"]["z"].mean(("chain", "draw")).values, rtol=1e-5)


@pytest.mark.slow
@needs_dask
def test_memory_does_not_grow_with_the_items(tmp_path):
    """900 items more have 17 MB of latents alone."""
    counts = {"num_warmup": 2, "num_samples": 100, "num_chains": 16, "seed": 0, "progress": False, "items_at_once": 50}

    def peak(items):
        tracemalloc.start()
        jobs = {"executor": InProcess(items_per_job=100), "checkpoint": tmp_path / str(items)}
        posterior = infer(conditioned(items), Langevin(step_size=0.1), **jobs, **counts)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found, posterior["posterior"]["z"].nbytes

    (few, few_bytes), (many, many_bytes) = peak(100), peak(1000)
    assert many_bytes - few_bytes > 15e6
    assert many - few < 4e6


def test_a_model_that_is_one_item_is_one_job(tmp_path):
    posterior = infer(gauss, AnnealedHMC(num_leapfrog=2), executor=InProcess(), checkpoint=tmp_path / "run", **COUNTS)
    assert_same(infer(gauss, AnnealedHMC(num_leapfrog=2), **COUNTS), posterior)
    assert shards(tmp_path / "run") == ["run.json", "shard_000000.nc"]


@pytest.mark.slow
def test_kernels_of_numpyro_and_given_starts(tmp_path):
    model, start = conditioned(5), {"z": np.random.default_rng(0).normal(size=(16, 5, 3)).astype(np.float32)}
    for name, kernel, settings in (("nuts", numpyro.infer.NUTS, {}), ("mala", Langevin(step_size=0.1), {"start": start})):
        options = COUNTS | settings | {"items_at_once": 2}
        jobs = infer(model, kernel, executor=InProcess(2), checkpoint=tmp_path / name, **options)
        assert_same(infer(model, kernel, **options), jobs)


def gauss():
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(z, 1.0), obs=1.0)


def test_what_cannot_run_in_jobs_is_refused_at_once(tmp_path):
    jobs = {"executor": InProcess(), "checkpoint": tmp_path / "run"}
    with pytest.raises(ValueError, match="keep_x=True with an executor"):
        infer(conditioned(2), annealed(), keep_x=True, **jobs, **COUNTS)
    with pytest.raises(ValueError, match="HMC is a Pyro kernel"):
        infer(conditioned(2), pyro.infer.HMC, **jobs, **COUNTS)
    with pytest.raises(ValueError, match="a pilot requires a kernel of cogen that adapts"):
        infer(conditioned(2), numpyro.infer.NUTS, pilot=4, **jobs, **COUNTS)
    with pytest.raises(ValueError, match="items_per_job=0"):
        InProcess(0)
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_be_divided_is_refused():
    class Whole:
        def __init__(self, model):
            names = [name for name in dir(model) if not name.startswith("_") and name not in ("of_items", "ids")]
            vars(self).update({name: getattr(model, name) for name in names})
            self._model = model

        def __call__(self, data=None):
            return self._model(data)

    with pytest.raises(TypeError, match=r"Whole has no method of_items\(data\)"):
        infer(Whole(conditioned(2)), annealed(), executor=InProcess(), **COUNTS)


@pytest.mark.slow
def test_errors_and_warnings_name_the_items(tmp_path):
    with pytest.raises(ValueError, match=r"item.* 4\b"):  # no chain of the last item starts where its density is finite
        infer(conditioned(5, value=1e30), AnnealedHMC(), executor=InProcess(2), **COUNTS | {"items_at_once": 2})
    with pytest.warns(UserWarning, match="rejected: item 4 "):
        infer(
            conditioned(5, value=1e16),
            AnnealedHMC(step_size=1e6, num_leapfrog=2),
            executor=InProcess(2),
            **COUNTS | {"items_at_once": 2},
        )


def test_the_size_of_a_job():
    assert items_per_job(7, 2, None) == 2
    assert items_per_job(1000, 8, None) == 16
    assert items_per_job(10**6, 8, None) == 256
    assert items_per_job(1000, 8, 9) == 16
    assert items_per_job(1000, 500, 1) == 500


@pytest.mark.slow
def test_a_plan_is_pickled_and_a_run_that_has_begun_is_not(tmp_path, whole):
    run = Run(conditioned(7), annealed(), **{k: v for k, v in IN_BLOCKS.items() if k != "pilot"})
    first = run.over(run.all_items.take(slice(0, 2)))
    plan = pickle.loads(pickle.dumps(Plan(first, COUNTS["num_samples"], 8, tmp_path)))
    assert len(plan.run.ids) == 2  # a worker gets the data of its jobs alone
    worker = Worker(plan)
    for k in range(4):
        worker.run(pickle.loads(pickle.dumps(Job(k, 2 * k, run.all_items.take(slice(2 * k, 2 * k + 2))))))
    assert_same(whole, merged(sorted(tmp_path.iterdir()), in_memory=True))
    run.draw(1)
    with pytest.raises(TypeError, match="has begun cannot be pickled"):
        pickle.dumps(run)


def test_a_checkpoint_object_will_do(folder, whole):
    class Idle(InProcess):
        def run(self, plan, jobs):
            raise AssertionError("what is complete is run again")

    assert_same(whole, infer(conditioned(7), annealed(), executor=Idle(3), checkpoint=Checkpoint(folder), **IN_BLOCKS))

"""What a RayExecutor gives beyond concurrent.futures: shared arguments, resources, retries."""

import concurrent.futures
import functools
import os
import signal
import sys
import time

import joblib
import numpy as np
import pytest

from skdvl.parallel import RayExecutor, WorkerLostError

pytestmark = pytest.mark.ray


@pytest.fixture
def n_puts(ray_cluster, monkeypatch):
    import ray

    sizes = []
    put = ray.put

    def counting(value):
        sizes.append(value.nbytes)
        return put(value)

    monkeypatch.setattr(ray, "put", counting)
    return sizes


def total(array, factor=1):
    assert not array.flags.writeable
    return float(array.sum()) * factor


def test_large_arguments_go_to_the_store_once(executor, n_puts):
    array = np.ones(100_000)
    assert list(executor.map(total, [array] * 5)) == [1e5] * 5
    assert executor.submit(total, array, factor=2).result() == 2e5
    assert executor.submit(functools.partial(total, array)).result() == 1e5
    assert len(n_puts) == 2  # the array, and the partial that holds it
    array[0] = 11  # what changed in place arrives changed
    assert executor.submit(total, array).result() == 1e5 + 10
    assert len(n_puts) == 3


def test_share(executor, n_puts):
    shared = executor.share({"array": np.ones(10), "name": "x"})

    def use(value, nested):
        assert nested["deep"][0] is value
        return value["array"].sum(), value["name"]

    assert executor.submit(use, shared, {"deep": [shared]}).result() == (10.0, "x")
    assert executor.submit(lambda: shared["name"]).result() == "x"  # in a closure too
    assert len(n_puts) == 1
    with pytest.raises(TypeError, match="only through its submit"):
        joblib.hash(shared)


def test_resources_per_call(executor):
    import ray

    def granted():
        return ray.get_runtime_context().get_assigned_resources()

    assert executor.submit(granted).result() == {"CPU": 1}
    assert executor.options(num_cpus=0.5).submit(granted).result() == {"CPU": 0.5}
    memory = 100_000_000
    with pytest.raises(TypeError, match="num_gpu"):
        executor.options(num_gpu=1)
    half = executor.options(num_cpus=2, memory=memory)
    assert half.submit(granted).result() == {"CPU": 2, "memory": memory}
    assert list(half.map(abs, [-1, -2, -3], chunksize=2)) == [1, 2, 3]
    assert isinstance(half, concurrent.futures.Executor)
    there = executor.options(runtime_env={"env_vars": {"SKDVL_TEST": "yes"}})
    assert there.submit(os.getenv, "SKDVL_TEST").result() == "yes"


def test_requests_that_no_node_can_meet(ray_cluster, executor):
    with pytest.raises(ValueError, match=r"no node of the Ray cluster.*'CPU': 3.*'CPU': 2"):
        RayExecutor(num_cpus=3)
    with pytest.raises(ValueError, match="'licence': 1"):
        executor.options(resources={"licence": 1})
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        RayExecutor(0)


def test_a_cluster_that_may_grow_only_warns(ray_cluster, monkeypatch):
    from skdvl.parallel import ray_cluster as module

    monkeypatch.setattr(module, "may_grow", lambda: True)
    with pytest.warns(RuntimeWarning, match="Waiting for the cluster to grow"):
        RayExecutor(num_cpus=3).shutdown()


def test_max_workers_is_what_fits(ray_cluster):
    with RayExecutor() as one, RayExecutor(num_cpus=2) as two, RayExecutor(num_cpus=0.5) as half:
        assert (one.max_workers, two.max_workers, half.max_workers) == (4, 2, 8)


def die_first(path):
    if not os.path.exists(path):
        with open(path, "w"):
            os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def test_a_lost_worker(ray_cluster, tmp_path):
    with RayExecutor(2, max_retries=1) as executor:
        assert executor.submit(die_first, str(tmp_path / "first")).result() == "alive"
        fate = executor.submit(os._exit, 1)
        others = [executor.submit(abs, -k) for k in range(5)]
        with pytest.raises(WorkerLostError, match="in each of 2 attempts"):
            fate.result(timeout=60)
        assert isinstance(fate.exception(), concurrent.futures.BrokenExecutor)
        assert [future.result() for future in others] == list(range(5))
        assert executor.submit(abs, -1).result() == 1
    with RayExecutor(2, max_retries=0) as executor, pytest.raises(WorkerLostError):
        executor.submit(die_first, str(tmp_path / "second")).result()


def test_an_exit_in_a_callback_ends_nothing(ray_cluster, caplog):
    with RayExecutor(2) as executor:
        future = executor.submit(time.sleep, 0.2)
        future.add_done_callback(lambda future: sys.exit(1))
        future.result(timeout=60)
        assert executor.submit(abs, -2).result(timeout=60) == 2
        futures = [executor.submit(time.sleep, 300) for _ in range(5)]
        for future in futures:
            future.add_done_callback(lambda future: sys.exit(1))
        while not futures[1].running():
            time.sleep(0.05)
        executor.abort()
        assert executor.submit(abs, -3).result(timeout=60) == 3
    assert "exception calling callback" in caplog.text


def test_abort_ends_what_runs_and_not_the_executor(ray_cluster):
    with RayExecutor(2) as executor:
        futures = [executor.submit(time.sleep, 300) for _ in range(6)]
        while not futures[1].running():
            time.sleep(0.05)
        executor.abort()
        start = time.monotonic()
        for future in futures:
            with pytest.raises(concurrent.futures.CancelledError):
                future.result(timeout=10)
        assert list(executor.map(abs, [-1, -2], timeout=60)) == [1, 2]
        assert time.monotonic() - start < 60


def fail_or_sleep(seconds):
    if seconds == 0:
        time.sleep(0.5)
        raise LookupError("no")
    time.sleep(seconds)


def test_a_backend_by_name_ends_what_runs_when_a_call_fails(ray_cluster):
    """As joblib's own processes are ended: nothing is to run on after an exception."""
    with joblib.parallel_config(backend="ray_executor", n_jobs=2, num_cpus=1) as config:
        with pytest.raises(LookupError):
            joblib.Parallel()(joblib.delayed(fail_or_sleep)(k) for k in (0, 300, 300))
        start = time.monotonic()
        assert joblib.Parallel()(joblib.delayed(abs)(-k) for k in range(4)) == [0, 1, 2, 3]
        assert time.monotonic() - start < 60  # a worker that slept on would leave one of two
        assert config["backend"]._executor is not None
        config["backend"]._executor.shutdown()

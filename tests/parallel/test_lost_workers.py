"""Workers and nodes that die in the middle of a run. Only processes of these tests are killed.

What whole fits show too, in `test_fits_survive.py`, belongs to the long tests.
"""

import collections
import concurrent.futures
import os
import signal
import time

import joblib
import pytest

from skdvl.parallel import (
    ExecutorBackend,
    RayExecutor,
    TaskRunner,
    WorkerLostError,
    ray_dispatch,
    task_backend,
)
from skdvl.parallel import executors as executors_module
from skdvl.parallel.grouping import Grouping

pytestmark = pytest.mark.kill

PROCESSES = [
    "loky",
    "multiprocessing",
    "ProcessPoolExecutor",
    pytest.param("dask", marks=pytest.mark.dask),
    pytest.param("dask executor", marks=pytest.mark.dask),
    pytest.param("ray joblib", marks=pytest.mark.ray),
    pytest.param("RayExecutor", marks=pytest.mark.ray),
]


class Log:
    """Which payloads ran, one line each in a file that all workers of this machine append to."""

    def __init__(self, path):
        self.path = str(path)

    def add(self, payload):
        with open(self.path, "a") as file:
            file.write(f"{payload}\n")

    def counts(self):
        with open(self.path) as file:
            return collections.Counter(int(line) for line in file)


def die_once(shared, payload):
    log, victim = shared
    first_time = payload == victim and log.counts()[victim] == 0
    log.add(payload)
    time.sleep(0.05)
    if first_time:
        os.kill(os.getpid(), signal.SIGKILL)
    return payload**2


@pytest.mark.full
@pytest.mark.parametrize("backend", PROCESSES)
def test_only_what_was_lost_runs_again(backend, open_backend, tmp_path):
    log = Log(tmp_path / "log")
    log.add(-1)
    with open_backend(backend), TaskRunner(die_once, (log, 17)) as runner:
        assert list(runner.run(range(60))) == [k**2 for k in range(60)]
        assert list(runner.run(range(100, 110))) == [k**2 for k in range(100, 110)]
    counts = log.counts()
    assert counts[17] >= 2
    # at most four tasks of a quarter of a second are under way
    assert sum(counts.values()) - 71 <= 20
    assert max(counts.values()) <= 3


def die_always(shared, payload):
    shared.add(payload)
    # the nanny of a Dask worker gives up if the worker dies while it is still being started
    time.sleep(0.3)
    if payload == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    return payload


def assert_poison_is_named(log, n_deaths=2):
    with TaskRunner(die_always, log, max_retries=1) as runner:
        with pytest.raises(WorkerLostError, match=r"chunk 17 lost its worker \d times") as raised:
            list(runner.run(range(14, 20), describe=lambda k: f"chunk {k}"))
        assert raised.value.__cause__ is not None
        assert list(runner.run([1, 2, 3])) == [1, 2, 3]
    assert log.counts()[17] == n_deaths


@pytest.mark.full
@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "ProcessPoolExecutor"])
def test_what_kills_every_worker_is_named(backend, open_backend, tmp_path):
    with open_backend(backend):
        assert_poison_is_named(Log(tmp_path / "log"))


@pytest.mark.ray
def test_what_kills_every_worker_on_ray(ray_cluster, tmp_path, monkeypatch):
    # all in one task: its neighbours are not to blame
    monkeypatch.setattr(Grouping, "size", lambda self, n_waiting: n_waiting)
    with (
        RayExecutor(2, max_retries=1) as executor,
        joblib.parallel_config(backend=ExecutorBackend(executor)),
    ):
        assert_poison_is_named(Log(tmp_path / "log"), n_deaths=3)  # two attempts, one alone


def die_three_times(shared, payload):
    shared.add(payload)
    if payload == 1 and shared.counts()[1] <= 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return payload


@pytest.mark.ray
def test_a_users_own_number_of_retries(ray_cluster, tmp_path):
    """A fit tries no less often than the executor was told to."""
    with (
        RayExecutor(2, max_retries=3) as executor,
        joblib.parallel_config(backend=ExecutorBackend(executor)),
        TaskRunner(die_three_times, Log(tmp_path / "log"), max_retries=0) as runner,
    ):
        assert list(runner.run(range(3))) == [0, 1, 2]


@pytest.mark.dask
@pytest.mark.xdist_group("clocks")
def test_what_kills_every_worker_on_dask_ends_in_an_error(monkeypatch, needs, tmp_path):
    """On a cluster of its own, which does not outlive it."""
    needs("distributed")
    from distributed import Client, LocalCluster

    monkeypatch.setattr(executors_module, "_DASK_SECONDS", 1)
    monkeypatch.setattr(task_backend, "_PATIENCE_SECONDS", 5)
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 50}
    with (
        LocalCluster(n_workers=0, **options) as cluster,
        Client(cluster) as client,
        joblib.parallel_config(backend=ExecutorBackend(client.get_executor())),
    ):
        with pytest.raises(RuntimeError, match="has no worker after 1 seconds"):
            TaskRunner(sleep, None).__enter__()
        cluster.scale(2)
        client.wait_for_workers(2)
        # Dask tries four times; its nannies may give up before
        with (
            TaskRunner(die_always, Log(tmp_path / "log")) as runner,
            pytest.raises(WorkerLostError, match="lost its worker"),
        ):
            list(runner.run(range(14, 20)))


def sleep(shared, seconds):
    time.sleep(seconds)
    return seconds


@pytest.fixture
def extra_node(ray_cluster):
    node = ray_cluster.add_node(num_cpus=2, resources={"extra": 2})
    ray_cluster.wait_for_nodes()
    yield node
    if node in ray_cluster.list_all_nodes():
        ray_cluster.remove_node(node, allow_graceful=False)


def where(shared, payload):
    import ray

    time.sleep(0.2)
    return payload**2, ray.get_runtime_context().get_node_id()


@pytest.mark.full
@pytest.mark.ray
def test_a_ray_node_dies_in_the_middle(ray_cluster, extra_node):
    with (
        RayExecutor(6) as executor,
        joblib.parallel_config(backend=ExecutorBackend(executor)),
        TaskRunner(where, None) as runner,
    ):
        results = runner.run(range(120))
        seen = []
        while not any(node == extra_node.node_id for _, node in seen):
            seen.append(next(results))
        ray_cluster.remove_node(extra_node, allow_graceful=False)
        seen += results
    assert [square for square, _ in seen] == [k**2 for k in range(120)]
    assert seen[-1][1] != extra_node.node_id


@pytest.mark.ray
def test_the_only_ray_node_with_enough_room_dies(ray_cluster, extra_node, monkeypatch):
    monkeypatch.setattr(ray_dispatch, "_PATIENCE", 2)
    monkeypatch.setattr(ray_dispatch, "_CHECK", 0.5)
    with RayExecutor(resources={"extra": 1}) as executor:
        assert executor.max_workers == 2
        futures = [executor.submit(time.sleep, 60) for _ in range(4)]
        while not futures[0].running():
            time.sleep(0.05)
        ray_cluster.remove_node(extra_node, allow_graceful=False)
        for future in futures:
            with pytest.raises(WorkerLostError, match="no node is left"):
                future.result(timeout=60)


def test_a_backend_on_a_broken_pool_gets_a_new_one():
    with concurrent.futures.ProcessPoolExecutor(2) as executor:
        with pytest.raises(concurrent.futures.BrokenExecutor):
            executor.submit(os._exit, 1).result()
        with joblib.parallel_config(backend=ExecutorBackend(executor), n_jobs=2):
            assert joblib.Parallel()(joblib.delayed(abs)(-k) for k in range(4)) == [0, 1, 2, 3]

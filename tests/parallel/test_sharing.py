"""What all tasks share travels once; a task itself is small."""

import concurrent.futures
import os
import pathlib
import stat
import threading

import joblib
import numpy as np
import pytest
from joblib.parallel import BACKENDS, register_parallel_backend

import skdvl
from skdvl.parallel import ExecutorBackend, RayExecutor, TaskRunner
from skdvl.parallel import sharing as sharing_module
from skdvl.parallel.grouping import Grouping
from skdvl.parallel.pickling import cloudpickle
from skdvl.utilities import Utility

N_TASKS = 60


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return {"X": rng.normal(size=(5000, 100)), "y": rng.normal(size=5000)}


def rows(shared, payload):
    return float(shared["X"][payload].sum()), os.getpid()


@pytest.fixture
def one_payload_a_task(monkeypatch):
    monkeypatch.setattr(Grouping, "size", lambda self, n_waiting: 1)


@pytest.fixture
def task_sizes(monkeypatch, one_payload_a_task):
    """The pickled size of every task that joblib hands to a backend."""
    from joblib._parallel_backends import LokyBackend

    from skdvl.parallel.backend import OnExecutor

    sizes = []
    for backend in (LokyBackend, OnExecutor):

        def submit(self, func, callback=None, *, _submit=backend.submit):
            sizes.append(len(cloudpickle.dumps(func)))
            return _submit(self, func, callback)

        monkeypatch.setattr(backend, "submit", submit)
    return sizes


@pytest.mark.parametrize(
    "backend",
    [
        "loky",
        "multiprocessing",
        "ProcessPoolExecutor",
        pytest.param("dask", marks=pytest.mark.dask),
        pytest.param("dask executor", marks=pytest.mark.dask),
    ],
)
def test_a_task_is_small(backend, open_backend, data, task_sizes):
    with open_backend(backend), TaskRunner(rows, data) as runner:
        sums = [total for total, _ in runner.run(range(N_TASKS))]
    assert sums == [float(data["X"][k].sum()) for k in range(N_TASKS)]
    assert len(task_sizes) == N_TASKS
    # the data are 4 MB
    assert max(task_sizes) < 2000
    print(f"{backend}: {max(task_sizes)} bytes a task")


class TwoOfManyRows(Utility):
    """A game of 5000 rows that carries their data."""

    evals_per_chunk = 2000

    def __init__(self, X, y):
        self.X, self.y = X, y
        self.n_players = len(X)

    def _evaluate(self, coalitions):
        return coalitions[:, 0] * self.y[0] + coalitions[:, 1]


@pytest.mark.parametrize("method", ["permutation", "stratified"])
def test_the_tasks_of_a_valuation_are_small(data, task_sizes, method):
    options = {"method": method, "max_evals": 30_000, "random_state": 0}
    with joblib.parallel_config(backend="loky", n_jobs=2):
        result = skdvl.estimate_values(TwoOfManyRows(**data), **options)
    chunks = [entry.chunk for entry in result.games[0].log.entries]
    assert len(task_sizes) == len(chunks) > 1
    assert (len({chunk.half for chunk in chunks}) > 2) == (method == "stratified")  # adapted laws
    assert max(task_sizes) < 2000
    print(f"{method}: {max(task_sizes)} bytes a task")


@pytest.mark.ray
def test_ray_gets_the_data_once_and_small_calls(ray_cluster, data, monkeypatch, one_payload_a_task):
    import ray

    from skdvl.parallel.ray_calls import CallPacker

    put_sizes, call_sizes = [], []
    put, pack = ray.put, CallPacker.pack

    def counting_put(value):
        put_sizes.append(value.nbytes)
        return put(value)

    def weighing_pack(self, *call):
        payload, references = pack(self, *call)
        call_sizes.append(len(payload))
        return payload, references

    monkeypatch.setattr(ray, "put", counting_put)
    monkeypatch.setattr(CallPacker, "pack", weighing_pack)
    with (
        RayExecutor(4) as executor,
        joblib.parallel_config(backend=ExecutorBackend(executor)),
        TaskRunner(rows, data) as runner,
    ):
        for _ in range(2):  # rounds
            assert len(list(runner.run(range(N_TASKS)))) == N_TASKS
    assert len(put_sizes) == 1
    assert 4_040_000 < put_sizes[0] < 4_050_000
    assert len(call_sizes) == 2 * N_TASKS
    assert max(call_sizes) < 2000


@pytest.mark.dask
def test_dask_workers_all_get_the_data_and_forget_them(open_backend, dask_client, data):
    def ours():
        plugins = dask_client.cluster.scheduler.worker_plugins
        return [name for name in plugins if name.startswith("skdvl-")]

    with open_backend("dask"), TaskRunner(rows, data) as runner:
        assert len({pid for _, pid in runner.run(range(N_TASKS))}) == 2
        assert len(ours()) == 1
    assert ours() == []


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_files_are_private_and_go_away(backend, open_backend, data, tmp_path, monkeypatch):
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", str(tmp_path))

    def ours():
        return [path for path in tmp_path.iterdir() if path.name.startswith("skdvl-")]

    with open_backend(backend), TaskRunner(rows, data) as runner:
        assert len(list(runner.run(range(4)))) == 4
        (directory,) = ours()
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        (file,) = directory.iterdir()
        assert 4_040_000 < file.stat().st_size < 4_050_000
    assert ours() == []
    with (
        open_backend(backend),
        TaskRunner(rows, threading.Lock()) as runner,
        pytest.raises(TypeError, match="lock"),
    ):
        list(runner.run(range(4)))
    assert ours() == []


def test_nothing_is_written_for_threads_or_one_job(data, tmp_path, monkeypatch):
    monkeypatch.setattr(sharing_module, "Packed", None)
    for backend, n_jobs in [("threading", 2), ("sequential", 1), ("loky", 1)]:
        with (
            joblib.parallel_config(backend=backend, n_jobs=n_jobs),
            TaskRunner(rows, data) as runner,
        ):
            assert len(list(runner.run(range(4)))) == 4


def test_a_directory_with_room(tmp_path, monkeypatch):
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", str(tmp_path))
    assert sharing_module._directory_with_room(1) == str(tmp_path)
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", "/no/such/directory")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert pathlib.Path(sharing_module._directory_with_room(10**18)) == tmp_path


class Unknown(joblib.parallel.ParallelBackendBase):
    """A third party's backend: no sharing known, no results before the end of a call."""

    supports_retrieve_callback = False
    pool = None
    n_calls = 0

    def effective_n_jobs(self, n_jobs):
        return n_jobs

    def submit(self, func, callback=None):
        type(self).n_calls += 1
        future = self.pool.submit(func)
        future.add_done_callback(callback)
        return future

    def retrieve_result(self, out, timeout=None):
        return out.result()


@pytest.fixture
def unknown_backend(monkeypatch):
    register_parallel_backend("unknown", Unknown)
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        monkeypatch.setattr(Unknown, "pool", pool)
        yield "unknown"
    del BACKENDS["unknown"]


def test_an_unknown_backend_gets_the_data_with_each_task(unknown_backend, data, one_payload_a_task):
    with (
        joblib.parallel_config(backend=unknown_backend, n_jobs=2),
        TaskRunner(rows, data) as runner,
    ):
        results = runner.run(range(N_TASKS))
        first = [next(results)]
        assert Unknown.n_calls <= 4  # a wave, not all
        results = first + list(results)
    assert [total for total, _ in results] == [float(data["X"][k].sum()) for k in range(N_TASKS)]
    assert os.getpid() not in {pid for _, pid in results}

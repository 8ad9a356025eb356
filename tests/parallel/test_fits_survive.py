"""Whole fits whose workers and nodes die: the same bits, and nothing is lost."""

import collections
import contextlib
import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import joblib
import pytest
from numpy.testing import assert_array_equal
from sklearn.datasets import make_classification
from sklearn.naive_bayes import GaussianNB

from skdvl import ShapleyValuator
from skdvl.parallel import ExecutorBackend, RayExecutor, WorkerLostError, task_backend

pytestmark = pytest.mark.kill

X, Y = make_classification(50, 5, n_informative=3, random_state=0)
N_ROWS = 10
N_EVALS = 2**N_ROWS
CHUNK = 64  # evaluations
POOLS = ["loky", "multiprocessing", "ProcessPoolExecutor", "loky executor"]
PROCESSES = [
    *POOLS,
    pytest.param("dask", marks=pytest.mark.dask),
    pytest.param("dask executor", marks=pytest.mark.dask),
    pytest.param("ray joblib", marks=pytest.mark.ray),
    pytest.param("RayExecutor", marks=pytest.mark.ray),
]
# Where all die each death takes seconds. "loky executor" goes the way of "loky", "ray joblib" that
# of "RayExecutor"; of Dask's two kinds of workers those without nannies die in a test of their own.
DYING = [
    "loky",
    "multiprocessing",
    "ProcessPoolExecutor",
    pytest.param("loky executor", marks=pytest.mark.full),
    pytest.param("RayExecutor", marks=pytest.mark.ray),
    pytest.param("ray joblib", marks=[pytest.mark.ray, pytest.mark.full]),
    pytest.param("dask", marks=[pytest.mark.dask, pytest.mark.full]),
]


class Mortal(GaussianNB):
    """Writes down each fit; after 300 of them, fits on workers may kill their process.

    The first of them, where the directory has a file `kill-once`; all, where it has `kill-all`.
    """

    def __init__(self, directory, home):
        super().__init__()
        self.directory = directory
        self.home = home

    def fit(self, X, y):
        with open(f"{self.directory}/fits", "ab") as file:
            line = f"{hashlib.md5(X.tobytes()).hexdigest()} {os.getpid():9}\n"
            file.write(line.encode())
            file.flush()
            n_fits = file.tell() // len(line)
        time.sleep(0.003)
        if n_fits > 300 and os.getpid() != self.home and self.is_due():
            with open(f"{self.directory}/deaths", "a") as file:
                file.write(f"{os.getpid()} {time.time()}\n")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fit(X, y)

    def is_due(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.directory}/kill-once")  # which succeeds in one process
            return True
        return os.path.exists(f"{self.directory}/kill-all")


def value(estimator, **parameters):
    valuator = ShapleyValuator(
        estimator, engine="refit", max_evals=N_EVALS, random_state=0, **parameters
    )
    return valuator.fit(X[:N_ROWS], Y[:N_ROWS], X_val=X[N_ROWS:], y_val=Y[N_ROWS:])


@pytest.fixture(scope="module")
def expected():
    return {method: value(GaussianNB(), method=method) for method in ("exact", "permutation")}


@pytest.fixture
def mortal(tmp_path):
    return Mortal(str(tmp_path), os.getpid())


def fits_in(directory):
    """Return how often each coalition was fitted, and where it was fitted first."""
    pairs = [line.split() for line in (directory / "fits").read_text().splitlines()]
    first = dict(reversed(pairs))
    return collections.Counter(coalition for coalition, _ in pairs), first


def n_fits_here(directory):
    """Return how many fits this process has made."""
    lines = (directory / "fits").read_text().splitlines()
    return sum(int(line.split()[1]) == os.getpid() for line in lines)


def deaths_in(directory):
    """Return which processes died, and when."""
    pairs = [line.split() for line in (directory / "deaths").read_text().splitlines()]
    return {pid for pid, _ in pairs}, [float(when) for _, when in pairs]


@pytest.mark.parametrize("backend", PROCESSES)
def test_a_worker_dies(backend, open_backend, tmp_path, mortal, expected):
    (tmp_path / "kill-once").touch()
    with open_backend(backend):
        fitted = value(mortal, method="exact")
    assert not (tmp_path / "kill-once").exists()
    assert_array_equal(fitted.values_, expected["exact"].values_)
    assert fitted.n_evals_ == N_EVALS
    fits, where = fits_in(tmp_path)
    assert len(fits) == N_EVALS - 1  # ∅ is not fitted
    # the full set is fitted for the fold, for u(N), in its chunk, and as estimator_; beyond that
    # only what was under way when the worker died: at most a chunk of each worker, and one more
    n_repeated = sum(fits.values()) - len(fits) - 3
    print(f"{backend}: {n_repeated} fits run again")
    if backend in POOLS:
        assert 0 < n_repeated <= 3 * CHUNK
        return
    # where workers die by themselves: what the dead one was at, and at most what it had finished
    # and not yet sent
    assert 0 < n_repeated <= 2 * CHUNK
    dead, _ = deaths_in(tmp_path)
    repeated = {coalition for coalition, n in fits.items() if n > 1}
    assert {where[coalition] for coalition in repeated} <= dead | {str(os.getpid())}


@pytest.mark.parametrize("backend", DYING)
def test_all_workers_die(backend, open_backend, tmp_path, mortal, expected):
    """What is complete is in the checkpoint, and a later run goes on from there."""
    (tmp_path / "kill-all").touch()
    options = {"method": "permutation", "checkpoint": tmp_path / "checkpoint"}
    with (
        open_backend(backend),
        pytest.raises(WorkerLostError, match=r"chunk \d+ of fold 0 lost its worker") as raised,
    ):
        value(mortal, **options)
    now, times = time.time(), deaths_in(tmp_path)[1]
    print(f"{backend}: error after {now - times[0]:.1f} s, {len(times)} deaths")
    assert now - times[-1] < 10
    if backend != "dask":  # whose nannies take seconds to start the next of the workers to die
        assert now - times[0] < 30
    if backend == "RayExecutor":  # tries two tasks twice, and then a chunk of one alone, twice
        assert len(times) <= 6
    assert raised.value.__cause__ is not None
    (tmp_path / "kill-all").unlink()
    assert_a_later_run_goes_on(mortal, expected, **options)


def assert_a_later_run_goes_on(mortal, expected, **options):
    directory = pathlib.Path(mortal.directory)
    # workers that have lost their scheduler fit on for a while
    n_before = n_fits_here(directory)
    fitted = value(mortal, **options)
    assert_array_equal(fitted.values_, expected["permutation"].values_)
    assert fitted.n_evals_ == expected["permutation"].n_evals_
    n_after = n_fits_here(directory) - n_before
    assert n_after > 0
    # of the 300 fits before the first death all but those under way are in the checkpoint
    assert n_after <= fitted.n_evals_ - 300 + 5 * CHUNK


@pytest.fixture
def dask_processes(needs, tmp_path):
    """Start a Dask scheduler and two workers without nannies, as processes of this test."""
    needs("distributed")
    file = tmp_path / "scheduler"
    with contextlib.ExitStack() as stack:

        def start(program, *options):
            command = [sys.executable, "-m", f"distributed.cli.{program}", *options]
            process = subprocess.Popen(
                [*command, "--scheduler-file", str(file), "--no-dashboard"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=tmp_path,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        scheduler = start("dask_scheduler", "--host", "127.0.0.1", "--port", "0")
        while not file.exists():
            assert scheduler.poll() is None
            time.sleep(0.05)
        workers = [start("dask_worker", "--nthreads", "1", "--no-nanny") for _ in range(2)]
        yield file, {"workers": workers, "scheduler": [scheduler], "stopped scheduler": [scheduler]}


@pytest.mark.dask
@pytest.mark.xdist_group("clocks")
@pytest.mark.parametrize(
    ("victim", "patience"),
    [
        ("workers", 6.0),
        pytest.param("workers", task_backend._PATIENCE_SECONDS, marks=pytest.mark.full),
        ("scheduler", task_backend._PATIENCE_SECONDS),
        pytest.param("stopped scheduler", task_backend._PATIENCE_SECONDS, marks=pytest.mark.full),
    ],
)
def test_a_dask_cluster_dies(
    dask_processes, victim, patience, tmp_path, mortal, expected, monkeypatch
):
    """Workers may come back; with the patience that is usual the error comes within 30 s."""
    from distributed import Client

    monkeypatch.setattr(task_backend, "_PATIENCE_SECONDS", patience)
    file, processes = dask_processes
    options = {"method": "permutation", "checkpoint": tmp_path / "checkpoint"}
    times = []

    def kill():
        while not (tmp_path / "fits").exists() or (tmp_path / "fits").stat().st_size < 300 * 43:
            time.sleep(0.02)
        for process in processes[victim]:
            stop_it = victim == "stopped scheduler"
            process.send_signal(signal.SIGSTOP if stop_it else signal.SIGKILL)
        times.append(time.monotonic())

    killer = threading.Thread(target=kill)
    with Client(scheduler_file=str(file)) as client, joblib.parallel_config(backend="dask"):
        client.wait_for_workers(2, timeout=60)
        killer.start()
        with pytest.raises(WorkerLostError, match=r"chunk \d+ .* no worker is left in the Dask"):
            value(mortal, **options)
        seconds = time.monotonic() - times[0]
        for process in processes["scheduler"]:
            process.kill()  # a client waits for a stopped one
    killer.join()
    print(f"{victim}: error after {seconds:.1f} s")
    assert seconds < patience + 8
    assert_a_later_run_goes_on(mortal, expected, **options)


class OnNode(Mortal):
    """Leaves the name of its node."""

    def fit(self, X, y):
        import ray

        with open(f"{self.directory}/on-{ray.get_runtime_context().get_node_id()}", "w"):
            return super().fit(X, y)


@pytest.mark.ray
def test_a_ray_node_dies(ray_cluster, tmp_path, expected):
    node = ray_cluster.add_node(num_cpus=2)
    ray_cluster.wait_for_nodes()

    def kill_node():
        deadline = time.monotonic() + 60
        while not (tmp_path / f"on-{node.node_id}").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        ray_cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill_node)
    with RayExecutor(6) as executor, joblib.parallel_config(backend=ExecutorBackend(executor)):
        killer.start()
        fitted = value(OnNode(str(tmp_path), os.getpid()), method="exact")
    killer.join()
    assert (tmp_path / f"on-{node.node_id}").exists()
    assert_array_equal(fitted.values_, expected["exact"].values_)
    fits, _ = fits_in(tmp_path)
    assert len(fits) == N_EVALS - 1
    assert sum(fits.values()) - len(fits) - 3 <= 6 * CHUNK

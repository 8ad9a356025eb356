"""What running work in parallel costs, and what it gains.

    python tests/benchmarks/bench_parallel.py tasks     # seconds per task and for a start
    python tests/benchmarks/bench_parallel.py speedup   # decision trees, against a bare loop
    python tests/benchmarks/bench_parallel.py short     # n_jobs=-1 against n_jobs=1
    python tests/benchmarks/bench_parallel.py scaling   # by calculation: 1 to 512 cores

Only on a machine that does nothing else do the first three tell the truth.
"""

import concurrent.futures
import contextlib
import math
import statistics
import sys
import time

import joblib
import numpy as np
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.tree import DecisionTreeClassifier

from skdvl import ShapleyValuator
from skdvl.parallel import ExecutorBackend, RayExecutor, TaskRunner


def nothing(shared, payload):
    return payload


@contextlib.contextmanager
def on(executor):
    with executor, joblib.parallel_config(backend=ExecutorBackend(executor), n_jobs=2):
        yield


@contextlib.contextmanager
def on_dask():
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        yield


BACKENDS = {
    "threading": lambda: joblib.parallel_config(backend="threading", n_jobs=2),
    "loky": lambda: joblib.parallel_config(backend="loky", n_jobs=2),
    "multiprocessing": lambda: joblib.parallel_config(backend="multiprocessing", n_jobs=2),
    "ThreadPoolExecutor": lambda: on(concurrent.futures.ThreadPoolExecutor(2)),
    "ProcessPoolExecutor": lambda: on(concurrent.futures.ProcessPoolExecutor(2)),
    "RayExecutor": lambda: on(RayExecutor(2)),
    "dask": on_dask,
}


def time_tasks(n_tasks=1000):
    """Tasks that do nothing, one payload each."""
    for name, backend in BACKENDS.items():
        with backend(), TaskRunner(nothing, np.ones(1000)) as runner:
            runner._grouping.size = lambda n_waiting: 1
            start = time.perf_counter()
            list(runner.run(range(2)))
            first = time.perf_counter() - start
            times = []
            for _ in range(3):
                start = time.perf_counter()
                list(runner.run(range(n_tasks)))
                times.append((time.perf_counter() - start) / n_tasks)
        print(f"{name:20} first results {first:5.2f} s   {min(times) * 1e6:6.0f} us a task")
    with RayExecutor(2) as executor:
        list(executor.map(abs, range(200)))
        rates = []
        for _ in range(5):
            start = time.perf_counter()
            list(executor.map(abs, range(n_tasks)))
            rates.append(n_tasks / (time.perf_counter() - start))
        print(f"RayExecutor.map of abs: {min(rates):.0f} to {max(rates):.0f} tasks a second")
        start = time.perf_counter()
        list(executor.map(abs, range(100 * n_tasks), chunksize=50))
        print(f"  with chunksize=50: {100 * n_tasks / (time.perf_counter() - start):.0f}")


def tree_game(n_rows=200):
    X, y = make_classification(n_rows + 2000, 20, n_informative=8, random_state=0)
    return X[:n_rows], y[:n_rows], X[n_rows:], y[n_rows:]


def refit(model, X, y, X_val, y_val, rows):
    if len(set(y[rows])) < 2:
        return 0.0
    return clone(model).fit(X[rows], y[rows]).score(X_val, y_val)


def time_speedup(n_evals=10_000, repeats=5):
    """A game of decision trees of at least 20 s, interleaved with a bare joblib loop."""
    data = tree_game()
    model = DecisionTreeClassifier(random_state=0)
    orders = np.random.default_rng(0).permuted(np.tile(np.arange(200), (n_evals // 200, 1)), axis=1)
    prefixes = [np.sort(order[:size]) for order in orders for size in range(1, 201)]

    def bare(n_jobs):
        calls = (joblib.delayed(refit)(model, *data, rows) for rows in prefixes)
        joblib.Parallel(n_jobs=n_jobs, backend="loky")(calls)

    def ours():
        X, y, X_val, y_val = data
        valuator = ShapleyValuator(
            model, method="permutation", engine="refit", max_evals=n_evals, random_state=0
        )
        valuator.fit(X, y, X_val=X_val, y_val=y_val)

    def timed(work, *args):
        start = time.perf_counter()
        work(*args)
        return time.perf_counter() - start

    ratios = {"loky": [], "RayExecutor": []}
    with RayExecutor(2) as executor:
        timed(bare, 2)  # processes are started
        for _ in range(repeats):
            bare_one, ours_one, bare_two = timed(bare, 1), timed(ours), timed(bare, 2)
            for name in ratios:
                backend = "loky" if name == "loky" else ExecutorBackend(executor)
                with joblib.parallel_config(backend=backend, n_jobs=2):
                    ours_two = timed(ours)
                ratios[name].append((ours_one / ours_two) / (bare_one / bare_two))
                print(
                    f"{name:12} one job {ours_one:5.1f} s, two {ours_two:5.1f} s; "
                    f"bare {bare_one:5.1f} and {bare_two:5.1f} s; ratio {ratios[name][-1]:.3f}"
                )
    for name, values in ratios.items():
        print(f"{name}: median ratio of speed-ups {statistics.median(values):.3f}")


def time_short_fits(repeats=5):
    """Where processes cannot pay, n_jobs=-1 must not be slower than n_jobs=1 by 10 %."""
    X, y, X_val, y_val = tree_game(60)
    for max_evals in (200, 1000, 3000):
        times = {1: [], -1: []}
        for _ in range(repeats):
            for n_jobs in times:
                valuator = ShapleyValuator(
                    DecisionTreeClassifier(random_state=0),
                    engine="refit",
                    max_evals=max_evals,
                    n_jobs=n_jobs,
                    random_state=0,
                )
                start = time.perf_counter()
                valuator.fit(X, y, X_val=X_val, y_val=y_val)
                times[n_jobs].append(time.perf_counter() - start)
        one, all_ = statistics.median(times[1]), statistics.median(times[-1])
        print(f"{max_evals} evaluations: n_jobs=1 {one:.2f} s, n_jobs=-1 {all_:.2f} s")


def calculate_scaling(start=6.0, per_task=3e-3, per_chunk=64, first=4, growth=1.5):
    """Seconds of a fit of 20 evaluations a row, by calculation; see docs/guide/parallel.md."""
    for n_rows in (1000, 10_000, 100_000):
        X, y = make_classification(n_rows // 2, 20, n_informative=8, random_state=0)
        model = DecisionTreeClassifier(random_state=0)
        processor = time.process_time()
        model.fit(X, y).score(X[:1000], y[:1000])
        seconds = time.process_time() - processor
        totals = [first * n_rows]
        while totals[-1] < 20 * n_rows:
            totals.append(min(math.ceil(growth * totals[-1]), 20 * n_rows))
        rounds = np.diff([0, *totals])
        work = 20 * n_rows * seconds
        print(
            f"n = {n_rows}: {seconds * 1e3:.0f} ms a refit, {work:.0f} s of work, "
            f"{len(rounds)} rounds, {20 * n_rows // per_chunk} chunks "
            f"of {per_chunk * seconds:.1f} s"
        )
        for n_cores in (1, 8, 64, 512):
            chunks = np.ceil(np.ceil(rounds / per_chunk) / n_cores)  # one after the other
            total = chunks.sum() * (per_chunk * seconds + (n_cores > 1) * per_task)
            # all tasks leave from one process
            total = max(total, 20 * n_rows / per_chunk * per_task / 2) + (n_cores > 1) * start
            print(f"   {n_cores:4} cores: {total:12.0f} s, {work / total:6.1f} times")


if __name__ == "__main__":
    {
        "tasks": time_tasks,
        "speedup": time_speedup,
        "short": time_short_fits,
        "scaling": calculate_scaling,
    }[sys.argv[1]]()

"""Time and memory of the valuators that train nothing, and pyDVL's time for the same values.

pytest tests/benchmarks/bench_closed_forms.py -s

One thread throughout. With PYDVL_PYTHON=/path/to/python of an environment that has pyDVL 0.10, the
same data are valued there right after, values are compared and the ratio of times is printed.
"""

import os
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier
from sklearn.frozen import FrozenEstimator

from skdvl import DataOOBValuator, KNNShapleyValuator

PYDVL_KNN = """
import sys, time
import numpy as np
from pydvl.valuation import Dataset, KNNShapleyValuation
from sklearn.neighbors import KNeighborsClassifier
data = np.load(sys.argv[1])
train, test = Dataset(data["X"], data["y"]), Dataset(data["X_val"], data["y_val"])
valuation = KNNShapleyValuation(KNeighborsClassifier(5), test, progress=False)
start = time.perf_counter()
valuation.fit(train)
np.savez(sys.argv[2], seconds=time.perf_counter() - start, values=valuation.result.values)
"""
PYDVL_OOB = """
import sys, time
import numpy as np
from pydvl.valuation import DataOOBValuation, Dataset
from sklearn.ensemble import RandomForestClassifier
data = np.load(sys.argv[1])
forest = RandomForestClassifier(500, random_state=0).fit(data["X"], data["y"])
valuation = DataOOBValuation(forest)
start = time.perf_counter()
valuation.fit(Dataset(data["X"], data["y"]))
np.savez(sys.argv[2], seconds=time.perf_counter() - start, values=valuation.result.values)
"""


def make_rows(n_train, n_val, n_features=32):
    rng = np.random.default_rng(0)
    return {
        "X": rng.normal(size=(n_train, n_features)),
        "y": rng.integers(0, 2, n_train),
        "X_val": rng.normal(size=(n_val, n_features)),
        "y_val": rng.integers(0, 2, n_val),
    }


def best_of(run, repetitions):
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def pydvl(script, data, directory):
    """Value the data in pyDVL's environment: seconds and values."""
    python = os.environ.get("PYDVL_PYTHON")
    if python is None:
        pytest.skip("PYDVL_PYTHON names no environment with pyDVL")
    np.savez(directory / "data.npz", **data)
    paths = [str(directory / "data.npz"), str(directory / "result.npz")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([python, "-W", "ignore", "-c", script, *paths], check=True, env=environment)
    result = np.load(directory / "result.npz")
    return float(result["seconds"]), result["values"]


def report(name, seconds, note=""):
    print(f"\n{name:45s} {seconds * 1e3:8.0f} ms  {note}", file=sys.stderr)


@pytest.mark.parametrize(
    ("n_train", "n_val"), [(1000, 200), (10_000, 1000), (50_000, 2000)], ids=str
)
@pytest.mark.parametrize(
    ("name", "parameters", "change"),
    [
        ("labels", {}, lambda d: d),
        ("numbers", {}, lambda d: {**d, "y": d["y"] * 1.0}),
        ("distance weights", {"weights": "distance"}, lambda d: d),
        ("small integers", {}, lambda d: {**d, "X": d["X"].round(), "X_val": d["X_val"].round()}),
        ("each row four times", {}, lambda d: {**d, "X": np.repeat(d["X"][::4], 4, axis=0)}),
    ],
)
def test_knn_shapley(n_train, n_val, name, parameters, change):
    data = change(make_rows(n_train, n_val))
    valuator = KNNShapleyValuator(**parameters, n_jobs=1)
    repetitions = 5 if n_train <= 10_000 else 1
    seconds = best_of(lambda: valuator.fit(**data), repetitions)
    tracemalloc.start()
    valuator.fit(**data)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    report(f"{name}, {n_train} x {n_val} x 32", seconds, f"{peak:.0f} MB over the data")
    assert peak < 100


def test_knn_shapley_leaving_one_out():
    data = make_rows(5000, 1)
    valuator = KNNShapleyValuator(n_jobs=1)
    report("leave-one-out, 5000 x 32", best_of(lambda: valuator.fit(data["X"], data["y"]), 3))


def test_knn_shapley_against_pydvl(tmp_path):
    data = make_rows(10_000, 1000)
    seconds_there, values_there = pydvl(PYDVL_KNN, data, tmp_path)
    valuator = KNNShapleyValuator(n_jobs=1)
    seconds = best_of(lambda: valuator.fit(**data), 7)
    report("10000 x 1000 x 32", seconds, f"pyDVL takes {seconds_there / seconds:.0f} times as long")
    np.testing.assert_allclose(valuator.values_, values_there, rtol=0, atol=1e-17)
    assert seconds_there > 60 * seconds


@pytest.mark.parametrize("ensemble", [RandomForestClassifier, BaggingClassifier])
def test_valuation_out_of_bag(ensemble):
    data = make_rows(2000, 1)
    fitted = ensemble(n_estimators=500, random_state=0).fit(data["X"], data["y"])
    valuator = DataOOBValuator(FrozenEstimator(fitted), n_jobs=1)
    seconds = best_of(lambda: valuator.fit(data["X"], data["y"]), 5)
    report(f"Data-OOB of {ensemble.__name__}, 2000 rows, 500 trees", seconds)


def test_valuation_out_of_bag_against_pydvl(tmp_path):
    data = make_rows(2000, 1)
    seconds_there, values_there = pydvl(PYDVL_OOB, data, tmp_path)
    forest = RandomForestClassifier(500, random_state=0).fit(data["X"], data["y"])
    valuator = DataOOBValuator(FrozenEstimator(forest), n_jobs=1)
    seconds = best_of(lambda: valuator.fit(data["X"], data["y"]), 7)
    report("Data-OOB", seconds, f"pyDVL takes {seconds_there / seconds:.0f} times as long")
    np.testing.assert_allclose(valuator.values_, values_there, rtol=0, atol=1e-14)
    assert seconds_there > 8 * seconds

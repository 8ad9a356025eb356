"""What a valuation costs besides the evaluations themselves.

Run ``python tests/benchmarks/bench_framework.py``. Processor time, so that other work on the
machine disturbs little; the least of several runs. Aims: at most 30 µs per evaluation of a Python
callable, 1 µs amortised for a utility that works in batches, 2 µs for a key at 1000 players, 1 ms
per MB for a fingerprint.
"""

import resource
import tempfile
import time
import warnings

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning
from sklearn.naive_bayes import GaussianNB

from skdvl import ShapleyValuator, estimate_values
from skdvl.caching import MemoryCache
from skdvl.testing import AdditiveGame, AirportGame
from skdvl.utilities import Utility
from skdvl.utilities.cached import CachedUtility
from skdvl.utilities.fingerprint import fingerprint

METHODS = ("permutation", "antithetic", "tmc", "stratified", "regression")


def nothing(players):
    """Return a utility that costs as little as a utility can."""
    return float(len(players))


class NothingInBatches(Utility):
    """The same for a thousand coalitions at a time."""

    evals_per_chunk = 4096

    def __init__(self, n_players):
        self.n_players = n_players

    def _evaluate(self, coalitions):
        return np.count_nonzero(coalitions, axis=1).astype(float)

    def fingerprint(self):
        return b"nothing"


def seconds(function, n_runs=3):
    """Return the least processor time of some runs."""
    times = []
    for _ in range(n_runs):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return min(times)


def per_evaluation(utility, **options):
    """Return microseconds per evaluation of a valuation, and how many there were."""
    found = []
    spent = seconds(lambda: found.append(estimate_values(utility, random_state=0, **options)))
    return 1e6 * spent / found[0].n_evals


def bench_evaluations():
    print(f"{'µs per evaluation':24}" + "".join(f"{method:>13}" for method in METHODS))
    for n_players in (100, 1000):
        rows = {
            "callable": (nothing, {"n_players": n_players, "max_evals": 20 * n_players}),
            "in batches": (NothingInBatches(n_players), {"max_evals": 100 * n_players}),
        }
        for name, (utility, options) in rows.items():
            micros = [per_evaluation(utility, method=method, **options) for method in METHODS]
            line = f"{name}, n={n_players}"
            print(f"{line:24}" + "".join(f"{value:13.2f}" for value in micros))


def bench_scale():
    """Many players of a trivial game, and many subsets of an engine."""
    X, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    X, y = X[order], y[order]
    valuator = ShapleyValuator(GaussianNB(), method="stratified", max_evals=5000, random_state=0)
    spent = seconds(lambda: valuator.fit(X[:200], y[:200], X_val=X[200:400], y_val=y[200:400]))
    print(f"\n{'s for 5000 subsets of 200 rows, GaussianNB':50}{spent:8.2f}")
    spent = seconds(
        lambda: estimate_values(
            AdditiveGame(10_000), method="stratified", max_evals=200_000, random_state=0
        ),
        n_runs=1,
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'s for 200 000 evaluations of 10 000 players':50}{spent:8.2f}")
    print(f"{'MB at most':50}{peak:8.0f}")


def bench_saving():
    """What a tolerance, a cache and a checkpoint add."""
    game = NothingInBatches(200)
    options = {"method": "stratified", "max_evals": 40_000}
    plain = per_evaluation(game, **options)
    with tempfile.TemporaryDirectory() as directory:
        seconds_saved = seconds(
            lambda: estimate_values(game, checkpoint=tempfile.mkdtemp(dir=directory), **options)
        )
    saved = 1e6 * seconds_saved / options["max_evals"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        tolerant = per_evaluation(game, tol=1e-12, **options)
    cold_seconds = seconds(lambda: estimate_values(game, cache=MemoryCache(), **options))
    cold = 1e6 * cold_seconds / options["max_evals"]
    print(f"\n{'µs per evaluation, n=200, stratified, in batches':50}{plain:8.2f}")
    for name, micros in (("checkpoint", saved), ("tol", tolerant), ("memory cache", cold)):
        print(f"{'added by ' + name:50}{micros - plain:8.2f}")


def bench_keys():
    print()
    for n_players in (100, 1000, 10_000):
        cached = CachedUtility(AirportGame((n_players,)), MemoryCache())
        coalitions = np.random.default_rng(0).random((2000, n_players)) < 0.5
        micros = 1e6 * seconds(lambda: cached._keys(coalitions)) / len(coalitions)  # noqa: B023 - called at once
        print(f"{f'µs per key, n={n_players}':50}{micros:8.2f}")


def bench_fingerprints():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50_000, 40))
    words = rng.choice(["red", "green", "blue"], 100_000)
    frame = pd.DataFrame({"a": rng.normal(size=100_000), "word": words})
    frame["kind"] = frame["word"].astype("category")
    gaps = frame["word"].astype(object).where(rng.random(100_000) < 0.9, None)
    holed = pd.DataFrame({"word": gaps})
    csr = sparse.random(20_000, 1000, 0.1, "csr", random_state=0)
    data = {
        "array by rows": (X, X.nbytes),
        "array by columns": (np.asfortranarray(X), X.nbytes),
        "every second row": (X[::2], X.nbytes / 2),
        "CSR": (csr, csr.data.nbytes + csr.indices.nbytes),
        "frame of numbers": (pd.DataFrame(X), X.nbytes),
        "frame with words": (frame, frame.memory_usage(deep=True).sum()),
        "words and None": (holed, holed.memory_usage(deep=True).sum()),
    }
    print()
    for name, (item, n_bytes) in data.items():
        millis = 1e3 * seconds(lambda: fingerprint(item)) / (n_bytes / 1e6)  # noqa: B023 - called at once
        print(f"{'ms per MB to fingerprint: ' + name:50}{millis:8.2f}")


if __name__ == "__main__":
    bench_evaluations()
    bench_scale()
    bench_saving()
    bench_keys()
    bench_fingerprints()

import os
import sys
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skdvl.estimation import Snapshot
from skdvl.parallel.pickling import cloudpickle
from skdvl.utilities import Utility


class NoisyGame(Utility):
    """u(S) = sqrt(|S|) plus noise of its own for every coalition.

    Given a file, it writes down whatever it evaluates, one line per coalition, in whichever
    process that happens.
    """

    evals_per_chunk = 16

    def __init__(self, n_players, seed=0, log=None, seconds=0.0):
        self.n_players = n_players
        self.seed = seed
        self.weights = np.random.default_rng(seed).normal(size=n_players)
        self.log = log
        self.seconds = seconds

    def _evaluate(self, coalitions):
        noise = np.sin(1000 * np.where(coalitions, self.weights, 0.0).sum(axis=1))
        if self.log is not None:
            lines = [np.packbits(coalition).tobytes().hex() + "\n" for coalition in coalitions]
            file = os.open(self.log, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
            os.write(file, "".join(lines).encode())
            os.close(file)
        time.sleep(self.seconds * len(coalitions))
        return np.sqrt(coalitions.sum(axis=1)) + noise

    def evaluated(self):
        """Return the logged coalitions, in order."""
        path = Path(self.log)
        return path.read_text().split() if path.exists() else []

    def fingerprint(self):
        return repr((self.n_players, self.seed)).encode()


@pytest.fixture(scope="session")
def noisy_game():
    return NoisyGame


def in_child(function):
    """Run a function in a forked child; return how the child ended."""
    with warnings.catch_warnings():
        # Python 3.12 warns where threads are alive, as those of a pool of earlier tests.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            function()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(scope="session", name="in_child")
def _in_child():
    return in_child


def assert_same_result(one, other):
    assert_array_equal(one.values, other.values)
    assert_array_equal(one.standard_errors, other.standard_errors)
    assert one.n_evals == other.n_evals
    assert one.converged == other.converged


@pytest.fixture(scope="session", name="assert_same_result")
def _assert_same_result():
    return assert_same_result


def snapshot(n_evals=100, *, error=1.0, halves=None, seconds=0.0, n_players=10):
    values = np.arange(float(n_players))
    errors = np.full(n_players, error)
    estimate = None if halves is None else lambda: halves
    return Snapshot(values, errors, n_evals, n_players, seconds, estimate)


@pytest.fixture(scope="session", name="snapshot")
def _snapshot():
    return snapshot


@pytest.fixture(autouse=True, scope="module")
def _classes_travel_by_value(request):
    """Workers cannot import test modules: pytest does not put them on the path."""
    modules = (request.module, sys.modules[__name__])
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    yield
    for module in modules:
        cloudpickle.unregister_pickle_by_value(module)

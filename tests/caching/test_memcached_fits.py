"""Whole fits on a memcached that is killed, restarted, stopped and woken in their middle."""

import os
import secrets
import sys
import threading
import time
import warnings

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.naive_bayes import GaussianNB

from skdvl import ShapleyValuator
from skdvl.caching import CacheWarning, MemcachedCache
from skdvl.parallel.pickling import cloudpickle

pytestmark = pytest.mark.memcached

N_EVALS = 1000
FAILS_AFTER, IS_BACK_AFTER = 250, 400  # fits


@pytest.fixture(autouse=True, scope="module")
def _classes_travel_by_value():
    """Workers cannot import test modules: pytest does not put them on the path."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


class ImpatientCache(MemcachedCache):
    """Tries a failed server again soon, in workers too."""

    retry_after = 0.1


class SlowNB(GaussianNB):
    """Tells of each fit by a byte in a file, and takes long enough for a server to come back."""

    def __init__(self, log, var_smoothing=1e-9):
        super().__init__(var_smoothing=var_smoothing)
        self.log = log

    def fit(self, X, y):
        file = os.open(self.log, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        os.write(file, b".")
        os.close(file)
        time.sleep(0.002)
        return super().fit(X, y)


def fit(model, cache=None):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    X = rng.normal(size=(40, 3)) + y[:, np.newaxis]
    valuator = ShapleyValuator(
        model, engine="refit", max_evals=N_EVALS, cache=cache, random_state=0
    )
    return valuator.fit(X, y)


@pytest.fixture
def disturb(tmp_path):
    """Return a thread that calls one function after some fits, and another after more."""

    def wait_for(n_fits):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            path = tmp_path / "fits"
            if path.exists() and path.stat().st_size >= n_fits:
                return
            time.sleep(0.002)
        raise TimeoutError(f"there were no {n_fits} fits")

    def make(fail, come_back):
        def work():
            wait_for(FAILS_AFTER)
            fail()
            wait_for(IS_BACK_AFTER)
            come_back()

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    return make


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("trouble", ["killed and restarted", "stopped and woken"])
def test_a_server_in_trouble_in_the_middle_of_a_fit(
    memcached_server, disturb, tmp_path, trouble, n_jobs
):
    expected = fit(GaussianNB())
    model = SlowNB(str(tmp_path / "fits"))
    kills = trouble == "killed and restarted"
    fail = memcached_server.kill if kills else memcached_server.stop
    come_back = memcached_server.start if kills else memcached_server.cont
    options = {"namespace": secrets.token_hex(8), "timeout": 0.2, "connect_timeout": 0.2}
    cache = ImpatientCache(memcached_server.address, **options)
    with warnings.catch_warnings(record=True) as caught, cache:
        warnings.simplefilter("always")
        with joblib.parallel_config(backend="loky", n_jobs=n_jobs):
            saboteur = disturb(fail, come_back)
            disturbed = fit(model, cache)
            saboteur.join()
    assert_array_equal(disturbed.values_, expected.values_)
    assert_array_equal(disturbed.standard_errors_, expected.standard_errors_)
    assert disturbed.n_evals_ == expected.n_evals_
    assert [warning.category for warning in caught] == [CacheWarning]
    info = disturbed.cache_info_
    assert info.errors >= 1
    assert info.hits + info.misses == disturbed.n_evals_
    assert 0 < info.sets < info.misses, "what came while the server was away is not stored"

    # What a restarted server holds came after it was back: the fit had gone on using it.
    with MemcachedCache(memcached_server.address, **options) as later:
        again = fit(model, later)
    assert_array_equal(again.values_, expected.values_)
    assert 0 < again.cache_info_.hits < again.n_evals_
    assert again.cache_info_.errors == 0
    if kills:
        assert again.cache_info_.hits <= N_EVALS - FAILS_AFTER

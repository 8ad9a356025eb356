import os
import threading
import time
import warnings

import joblib
import numpy as np
import pytest
import sklearn
from numpy.testing import assert_array_equal
from sklearn.linear_model import Ridge

from skdvl.parallel import TaskRunner, WorkerLostError, map_reduce
from skdvl.parallel.grouping import Grouping
from skdvl.parallel.pickling import Packed, unpack


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return {"X": rng.normal(size=(300, 20)), "y": rng.normal(size=300)}


def fit_on_subset(shared, payload):
    """Something whose last bits would show another order, thread count or data."""
    seed, size = payload
    rows = np.sort(np.random.default_rng(seed).permutation(300)[:size])
    model = Ridge().fit(shared["X"][rows], shared["y"][rows])
    return model.coef_, float(model.score(shared["X"], shared["y"]))


PAYLOADS = [(seed, 10 + 7 * seed) for seed in range(40)]


@pytest.fixture(scope="module")
def expected(data):
    with TaskRunner(fit_on_subset, data, n_jobs=1) as runner:
        return list(runner.run(PAYLOADS))


def assert_same_bits(results, expected):
    assert len(results) == len(expected)
    for (coef, score), (expected_coef, expected_score) in zip(results, expected, strict=True):
        assert_array_equal(coef, expected_coef)
        assert score == expected_score


def test_same_bits_in_the_same_order_in_every_way(each_backend, data, expected):
    with TaskRunner(fit_on_subset, data) as runner:
        first = list(runner.run(PAYLOADS[:3]))
        rest = list(runner.run(PAYLOADS[3:]))
        assert list(runner.run([])) == []
    assert_same_bits(first + rest, expected)


def who_am_i(shared, payload):
    import threadpoolctl

    np.ones((2, 2)) @ np.ones((2, 2))
    time.sleep(0.02)
    return {
        "pid": os.getpid(),
        "identity": id(shared),
        "writable": shared["X"].flags.writeable,
        "threads": {lib["num_threads"] for lib in threadpoolctl.threadpool_info()},
        "assume_finite": sklearn.get_config()["assume_finite"],
        "first filter": warnings.filters[0][:3],
    }


def test_surroundings_of_every_worker(each_backend, data):
    with (
        sklearn.config_context(assume_finite=True),
        warnings.catch_warnings(),
        TaskRunner(who_am_i, data) as _,  # a runner keeps what was in force when it was entered
    ):
        warnings.simplefilter("ignore", category=BytesWarning)
        with TaskRunner(who_am_i, data) as runner:
            seen = list(runner.run(range(12)))
    assert {frozenset(one["threads"]) for one in seen} == {frozenset({1})}
    assert {one["assume_finite"] for one in seen} == {True}
    assert {one["first filter"] for one in seen} == {("ignore", None, BytesWarning)}
    here = os.getpid() in {one["pid"] for one in seen}
    in_this_process = each_backend in ("sequential", "threading", "ThreadPoolExecutor")
    assert here == in_this_process
    if in_this_process:
        assert {one["identity"] for one in seen} == {id(data)}  # nothing is copied
    else:
        assert len({(one["pid"], one["identity"]) for one in seen}) <= 4
        assert {one["writable"] for one in seen} == {False}
    # each process unpacked the data once
    assert len({(one["pid"], one["identity"]) for one in seen}) == len({one["pid"] for one in seen})


class NeedsTwo(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def misbehave(shared, payload):
    if payload == "value":
        raise ValueError("as", "itself")
    if payload == "unpicklable":
        raise NeedsTwo(1, 2)
    if payload == "exit":
        raise SystemExit(3)
    return payload


@pytest.mark.parametrize(
    ("payload", "error", "message"),
    [("value", ValueError, "itself"), ("unpicklable", Exception, "1 2"), ("exit", SystemExit, "3")],
)
def test_exceptions_of_tasks(each_backend, payload, error, message):
    with TaskRunner(misbehave, None) as runner:
        with pytest.raises(error, match=message) as raised:
            list(runner.run(["fine", payload, "fine"]))
        assert not isinstance(raised.value, WorkerLostError)
        if each_backend not in ("sequential", "threading", "ThreadPoolExecutor"):
            cause = raised.value.__cause__
            assert "in misbehave" in str(cause)
        # the runner is still usable
        assert list(runner.run(["a", "b"])) == ["a", "b"]


def sleep_and_tell(shared, payload):
    time.sleep(payload)
    return time.monotonic()


def test_results_come_early_and_may_be_left(each_backend):
    start = time.monotonic()
    with TaskRunner(sleep_and_tell, None) as runner:
        results = runner.run([0.01] * 5 + [0.5] * 60)
        next(results)
        first = time.monotonic() - start
        results.close()
    assert first < 25  # 30 seconds of work for one worker, and 15 for two
    assert time.monotonic() - start < 29


def double(shared, payload):
    return 2 * payload


def test_n_jobs_follows_the_context_and_wins_over_it():
    def n_workers(n_jobs):
        with TaskRunner(double, None, n_jobs=n_jobs) as runner:
            return runner._route.n_workers

    assert n_workers(None) == 1
    assert n_workers(3) == 3
    with joblib.parallel_config(backend="threading", n_jobs=2):
        assert n_workers(None) == 2
        assert n_workers(1) == 1
        assert n_workers(3) == 3
    with joblib.parallel_config(backend="threading"):
        assert n_workers(None) == 1
    with pytest.raises(ValueError, match="n_jobs == 0"), TaskRunner(double, None, n_jobs=0):
        pass


def test_verbose_of_joblib(capsys):
    with (
        joblib.parallel_config(backend="loky", verbose=100, n_jobs=2),
        TaskRunner(double, None) as runner,
    ):
        assert list(runner.run(range(5))) == [0, 2, 4, 6, 8]
    assert "Done" in capsys.readouterr().out


def test_no_processes_for_short_work_under_the_default_backend():
    with TaskRunner(pid_of, None, n_jobs=2) as runner:
        assert set(runner.run(range(20))) == {os.getpid()}
        assert set(runner.run(range(20))) == {os.getpid()}


def pid_of(shared, payload):
    return os.getpid()


def test_a_chosen_backend_is_obeyed_for_short_work_too():
    with joblib.parallel_config(backend="loky", n_jobs=2), TaskRunner(pid_of, None) as runner:
        assert os.getpid() not in set(runner.run(range(4)))


def slow_pid(shared, payload):
    time.sleep(0.3)
    return os.getpid()


def test_processes_for_long_work_under_the_default_backend():
    with TaskRunner(slow_pid, None, n_jobs=2) as runner:
        pids = list(runner.run(range(20)))
    assert pids[0] == os.getpid()
    assert len(set(pids[2:]) - {os.getpid()}) == 2


def test_a_guess_spares_the_first_of_long_payloads():
    with TaskRunner(slow_pid, None, n_jobs=2) as runner:
        pids = set(runner.run(range(6), seconds=60.0))
    assert os.getpid() not in pids
    with TaskRunner(pid_of, None, n_jobs=2) as runner:
        assert set(runner.run(range(6), seconds=1e-3)) == {os.getpid()}


def run_inside(shared, payload):
    with TaskRunner(fit_on_subset, shared, n_jobs=payload) as runner:
        return list(runner.run(PAYLOADS[:6]))


@pytest.mark.parametrize("inner_n_jobs", [None, 2])
def test_a_runner_inside_a_worker_of_another(each_backend, data, expected, inner_n_jobs):
    with TaskRunner(run_inside, data) as runner:
        for results in runner.run([inner_n_jobs] * 3):
            assert_same_bits(results, expected[:6])


def test_inside_a_foreign_parallel(data, expected):
    calls = (joblib.delayed(run_inside)(data, None) for _ in range(3))
    for results in joblib.Parallel(n_jobs=2, backend="loky")(calls):
        assert_same_bits(results, expected[:6])


@pytest.mark.dask
def test_dask_inside_and_outside(open_backend, data, expected):
    """A task that waits for tasks on its own cluster would wait for ever."""
    with open_backend("dask"):
        calls = (joblib.delayed(run_inside)(data, None) for _ in range(6))
        for results in joblib.Parallel(timeout=60)(calls):
            assert_same_bits(results, expected[:6])
        with TaskRunner(pid_of, None, n_jobs=1) as runner:
            assert set(runner.run(range(4))) == {os.getpid()}


def test_two_runners_in_two_threads_do_not_disturb_each_other(data, expected):
    results = {}

    def work(name, n_jobs):
        with (
            joblib.parallel_config(backend="loky", n_jobs=n_jobs),
            TaskRunner(fit_on_subset, data) as runner,
        ):
            results[name] = list(runner.run(PAYLOADS)) + list(runner.run(PAYLOADS))

    def fail():
        with (
            joblib.parallel_config(backend="loky", n_jobs=2),
            TaskRunner(misbehave, None) as runner,
            pytest.raises(ValueError, match="itself"),
        ):
            list(runner.run(["fine"] * 20 + ["value"]))
        results["failed"] = True

    threads = [threading.Thread(target=work, args=("two", 2)), threading.Thread(target=fail)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.pop("failed")
    assert_same_bits(results["two"], expected * 2)


def test_a_second_runner_on_loky_has_processes_of_its_own():
    with joblib.parallel_config(backend="loky", n_jobs=2), TaskRunner(slow_pid, None) as first:
        pids = set(first.run(range(8)))
        with TaskRunner(slow_pid, None) as second:
            assert not pids & set(second.run(range(4)))
        with TaskRunner(misbehave, None) as third, pytest.raises(ValueError, match="itself"):
            list(third.run(["fine", "value", "fine"]))
        assert pids <= set(first.run(range(8)))


def test_grouping():
    grouping = Grouping(overhead=1e-3, n_workers=2)
    assert grouping.size(1000) == 1  # nothing is known yet
    grouping.measure(1, 1e-3)
    assert grouping.size(10_000) == 250  # a quarter of a second
    assert grouping.size(600) == 100  # a third of each worker's share
    assert grouping.size(30) == 20  # never less than the overhead asks for
    assert grouping.size(7) == 7
    slow = Grouping(overhead=1e-3, n_workers=2)
    slow.measure(2, 20.0)
    assert slow.size(1000) == 1
    wide = Grouping(overhead=3e-3, n_workers=512)
    wide.measure(1, 0.1)
    assert wide.size(10**6) == 30  # 512 tasks of 3 seconds: 170 a second leave the driver


def test_grouping_does_not_show(data, expected):
    for seconds in (1e-6, 1.0):
        with (
            joblib.parallel_config(backend="loky", n_jobs=2),
            TaskRunner(fit_on_subset, data) as runner,
        ):
            runner._grouping.measure(1, seconds)
            assert_same_bits(list(runner.run(PAYLOADS)), expected)


def test_packing_keeps_arrays_out_of_the_pickle():
    arrays = {"f": np.asfortranarray(np.arange(12.0).reshape(3, 4)), "empty": np.empty(0)}
    block = Packed(arrays).to_bytes()
    unpacked = unpack(block)
    for name, array in arrays.items():
        assert_array_equal(unpacked[name], array)
        assert unpacked[name].flags.f_contiguous == array.flags.f_contiguous
        assert not unpacked[name].flags.writeable
        assert unpacked[name].ctypes.data % 8 == 0
    assert Packed(arrays).digest() == Packed(arrays).digest()
    assert Packed({"f": arrays["f"]}).digest() != Packed(arrays).digest()


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_map_reduce_does_not_depend_on_the_number_of_cores(n_jobs):
    assert map_reduce(lambda x: x + 1, [0, 1, 2], n_jobs=n_jobs) == [1, 2, 3]
    assert map_reduce(lambda x: x**2, range(10), sum, n_jobs=n_jobs) == 285

"""A RayExecutor keeps the contract of concurrent.futures, also for asyncio and joblib."""

import concurrent.futures
import functools
import gc
import operator
import os
import threading
import time
import weakref
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, CancelledError

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skdvl.parallel import ExecutorBackend, RayExecutor, TaskRunner

pytestmark = pytest.mark.ray


class Account:
    def __init__(self, balance):
        self.balance = balance

    def plus(self, amount, *, fee=0):
        return self.balance + amount - fee

    def __call__(self, amount):
        return self.plus(amount)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "expected"),
    [
        (pow, (2, 5), {}, 32),
        (int, ("ff",), {"base": 16}, 255),
        (functools.partial(pow, 3), (2,), {}, 9),
        (lambda x, y=1: x + y, (2,), {"y": 5}, 7),
        (Account(10).plus, (5,), {"fee": 1}, 14),
        (Account(10), (5,), {}, 15),
        (operator.itemgetter(1), ([1, 2, 3],), {}, 2),
    ],
    ids=["builtin", "keyword", "partial", "lambda", "bound method", "callable", "itemgetter"],
)
def test_submit_any_callable(executor, function, args, kwargs, expected):
    future = executor.submit(function, *args, **kwargs)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(timeout=30) == expected
    assert future.done()
    assert not future.running()


def test_names_of_parameters_do_not_collide(executor):
    def echo(**kwargs):
        return kwargs

    assert executor.submit(echo, self=1, fn=2).result() == {"self": 1, "fn": 2}


def test_map(executor):
    assert list(executor.map(pow, range(10), range(10))) == [k**k for k in range(10)]
    assert list(executor.map(pow, range(10), range(3))) == [0**0, 1, 4]
    for chunksize in (3, 10, 100):
        assert list(executor.map(abs, range(-20, 0), chunksize=chunksize)) == list(range(20, 0, -1))
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(abs, [1], chunksize=0)


def test_map_raises_where_the_result_is_asked_for(executor):
    results = executor.map(divmod, [1, 2, 3], [1, 0, 1])
    assert next(results) == (1, 0)
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_map_timeout(executor):
    with pytest.raises(TimeoutError):
        list(executor.map(time.sleep, [0, 0, 3], timeout=0.5))


def fail(message):
    raise ValueError(message, 2)


class NeedsTwo(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def fail_for_two():
    raise NeedsTwo(1, 2)


def stop():
    raise SystemExit(3)


def interrupt():
    raise KeyboardInterrupt


def test_exceptions_arrive_as_themselves(executor):
    with pytest.raises(ValueError, match="broken") as raised:
        executor.submit(fail, "broken").result()
    assert raised.value.args == ("broken", 2)
    # the line's number, not its text: cloudpickle leaves out the file of what it sends by value
    raising = fail.__code__.co_firstlineno + 1
    assert f"line {raising}, in fail\nValueError: ('broken', 2)" in str(raised.value.__cause__)
    with pytest.raises(RuntimeError, match="NeedsTwo, which does not survive pickling"):
        executor.submit(fail_for_two).result()
    with pytest.raises(SystemExit, match="3"):
        executor.submit(stop).result()
    with pytest.raises(KeyboardInterrupt):
        executor.submit(interrupt).result()
    assert executor.submit(abs, -1).result() == 1


class Grenade:
    def __reduce__(self):
        return _explode, ()


def _explode():
    raise ZeroDivisionError("while unpickling")


def test_what_cannot_be_pickled_fails_alone(executor):
    with pytest.raises(TypeError, match="lock"):
        executor.submit(abs, threading.Lock()).result()
    with pytest.raises(TypeError, match="lock"):
        executor.submit(threading.Lock).result()
    with pytest.raises(ZeroDivisionError, match="while unpickling"):
        executor.submit(Grenade).result()
    with pytest.raises(ZeroDivisionError, match="while unpickling"):
        executor.submit(abs, Grenade()).result()
    assert executor.submit(abs, -1).result() == 1


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)


def test_wait_and_as_completed(executor, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    slow, quick = executor.submit(wait_for, first), executor.submit(abs, -1)
    done, pending = concurrent.futures.wait([slow, quick], return_when=FIRST_COMPLETED)
    assert (done, pending) == ({quick}, {slow})
    done, pending = concurrent.futures.wait([slow], timeout=0.01)
    assert (done, pending) == (set(), {slow})
    with pytest.raises(TimeoutError):
        list(concurrent.futures.as_completed([slow], timeout=0.01))
    first.touch()
    assert list(concurrent.futures.as_completed([slow, quick])) == [quick, slow]
    slow, bad = executor.submit(wait_for, second), executor.submit(fail, "at once")
    done, pending = concurrent.futures.wait([slow, bad], return_when=FIRST_EXCEPTION)
    assert (done, pending) == ({bad}, {slow})
    second.touch()
    with concurrent.futures.ThreadPoolExecutor(1) as other:  # futures of two kinds mix
        futures = {other.submit(abs, -2), executor.submit(abs, -3)}
        assert {f.result() for f in concurrent.futures.as_completed(futures)} == {2, 3}


def test_done_callbacks(executor):
    seen = []
    event = threading.Event()
    future = executor.submit(abs, -5)
    future.add_done_callback(lambda f: seen.append(f.result()))
    future.add_done_callback(lambda f: event.set())
    assert event.wait(30)
    assert seen == [5]


def span(seconds):
    start = time.time()
    time.sleep(seconds)
    return start, time.time()


@pytest.mark.parametrize(("max_workers", "num_cpus"), [(1, 1), (3, 1), (2, 0)])
def test_max_workers_limits_what_runs_at_once(ray_cluster, max_workers, num_cpus):
    """On a cluster with four processors; the clocks are those of one machine."""
    with RayExecutor(max_workers, num_cpus=num_cpus) as executor:
        list(executor.map(abs, range(8)))  # workers are started
        spans = list(executor.map(span, [0.2] * 9))
    for start, _ in spans:
        assert sum(first <= start < last for first, last in spans) <= max_workers
    assert executor.max_workers == max_workers


def test_cancel(ray_cluster):
    with RayExecutor(1) as executor:
        running = executor.submit(time.sleep, 0.5)
        pending = [executor.submit(abs, -1) for _ in range(3)]
        while not running.running():
            time.sleep(0.01)
        assert not running.cancel()
        assert pending[1].cancel()
        assert pending[1].cancelled()
        assert pending[0].result() == pending[2].result() == 1
        with pytest.raises(CancelledError):
            pending[1].result()


def test_shutdown(ray_cluster):
    executor = RayExecutor(2)
    futures = [executor.submit(abs, -k) for k in range(20)]
    executor.shutdown()
    assert [future.result(timeout=0) for future in futures] == list(range(20))
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, 1)


def test_shutdown_without_waiting(ray_cluster):
    executor = RayExecutor(2)
    futures = [executor.submit(time.sleep, 0.3) for _ in range(4)]
    start = time.monotonic()
    executor.shutdown(wait=False)
    assert time.monotonic() - start < 0.3
    assert [future.result() for future in futures] == [None] * 4


def test_shutdown_cancels_what_is_pending(ray_cluster):
    executor = RayExecutor(1)
    futures = [executor.submit(time.sleep, 0.1) for _ in range(20)]
    executor.shutdown(cancel_futures=True)
    assert all(future.done() for future in futures)
    assert futures[0].result() is None  # what had started has ended
    assert sum(future.cancelled() for future in futures) >= 15


def test_a_forgotten_executor_still_finishes(ray_cluster):
    executor = RayExecutor(2)
    thread = executor._thread
    futures = [executor.submit(abs, -k) for k in range(10)]
    del executor
    gc.collect()
    assert [future.result(timeout=30) for future in futures] == list(range(10))
    thread.join(30)
    assert not thread.is_alive()


def interrupted_block(futures):
    with RayExecutor(2) as executor:
        futures += [executor.submit(time.sleep, 60) for _ in range(5)]
        while not futures[0].running():
            time.sleep(0.01)
        raise KeyboardInterrupt


def test_an_interrupted_block_ends_at_once(ray_cluster):
    start = time.monotonic()
    futures = []
    with pytest.raises(KeyboardInterrupt):
        interrupted_block(futures)
    assert time.monotonic() - start < 20
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(timeout=0)


def test_kill_workers_ends_what_runs(ray_cluster):
    executor = RayExecutor(1)
    future = executor.submit(time.sleep, 60)
    while not future.running():
        time.sleep(0.01)
    executor.kill_workers()
    with pytest.raises(CancelledError):
        future.result(timeout=0)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, 1)


class Weakly:
    def __call__(self, x):
        return Weakly()


def test_no_stale_references(executor):
    function, argument = Weakly(), Weakly()
    gone = [weakref.ref(function), weakref.ref(argument)]
    future = executor.submit(function, argument)
    result = future.result()
    gone += [weakref.ref(result), weakref.ref(future)]
    del function, argument, future, result
    deadline = time.monotonic() + 10
    while any(reference() is not None for reference in gone):
        assert time.monotonic() < deadline, [reference() for reference in gone]
        gc.collect()
        time.sleep(0.05)


def test_asyncio(executor):
    import asyncio

    async def main():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, abs, -k) for k in range(4)))

    assert asyncio.run(main()) == [0, 1, 2, 3]


def test_scikit_learn_on_ray(executor):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), np.arange(60) % 2
    expected = cross_val_score(LogisticRegression(), X, y)
    with joblib.parallel_config(backend=ExecutorBackend(executor), n_jobs=2):
        assert_array_equal(cross_val_score(LogisticRegression(), X, y), expected)
    with joblib.parallel_config(backend="ray_executor", n_jobs=2, num_cpus=1):
        assert_array_equal(cross_val_score(LogisticRegression(), X, y), expected)
        generator = joblib.Parallel(return_as="generator")(
            joblib.delayed(abs)(-k) for k in range(5)
        )
        assert list(generator) == [0, 1, 2, 3, 4]
        with pytest.raises(ValueError, match="broken"):
            joblib.Parallel()(joblib.delayed(fail)("broken") for _ in range(3))


def test_throughput(executor, record_property):
    """Figures of a quiet machine are in docs/benchmarks.md; here only that it is not 30."""
    list(executor.map(abs, range(200)))
    start = time.perf_counter()
    list(executor.map(abs, range(1000)))
    rate = 1000 / (time.perf_counter() - start)
    record_property("tasks_per_second", rate)
    print(f"RayExecutor: {rate:.0f} trivial tasks per second")
    assert rate > 100


def test_no_bound_on_retries_but_minus_one():
    for bad in (-2, None, 1.5):
        with pytest.raises(ValueError, match="max_retries must be an integer"):
            RayExecutor(max_retries=bad)


def test_ray_is_told_of_one_function(executor, monkeypatch):
    """Whatever calls ask for: each further one is sent to the head, and kept there for good."""
    import ray

    told = []
    remote = ray.remote
    monkeypatch.setattr(ray, "remote", lambda function: told.append(function) or remote(function))
    for _ in range(5):
        assert executor.options(num_cpus=0.5).submit(abs, -1).result() == 1
    for _ in range(2):
        with (
            joblib.parallel_config(backend=ExecutorBackend(executor), n_jobs=2),
            TaskRunner(operator.add, 1) as runner,
        ):
            assert list(runner.run(range(5))) == list(range(1, 6))
    assert len(told) <= 1

import threading
import time

import numpy as np
import pytest
import threadpoolctl

from skdvl.parallel import single_threaded


def threads_now(api):
    np.ones((4, 4)) @ np.ones((4, 4))
    counts = [lib["num_threads"] for lib in threadpoolctl.threadpool_info()]
    apis = [lib["user_api"] for lib in threadpoolctl.threadpool_info()]
    return {count for count, name in zip(counts, apis, strict=True) if name == api}


@pytest.fixture
def two_threads():
    import sklearn.ensemble  # noqa: F401  # brings its own OpenMP

    with threadpoolctl.threadpool_limits(2):
        if threads_now("blas") != {2}:
            pytest.skip("the BLAS of this machine cannot be set to two threads")
        yield


def test_holds_one_thread_and_restores(two_threads):
    with single_threaded():
        assert threads_now("blas") == {1}
        assert threads_now("openmp") <= {1}
        with single_threaded():
            assert threads_now("blas") == {1}
        assert threads_now("blas") == {1}
    assert threads_now("blas") == {2}
    assert threads_now("openmp") <= {2}


def test_first_in_second_out_and_the_other_way_round(two_threads):
    seen = {}
    first_is_in, first_may_leave, first_is_out = (threading.Event() for _ in range(3))

    def first():
        with single_threaded():
            first_is_in.set()
            first_may_leave.wait(10)
        first_is_out.set()

    thread = threading.Thread(target=first)
    thread.start()
    first_is_in.wait(10)
    with single_threaded():
        seen["both"] = threads_now("blas") | threads_now("openmp")
        first_may_leave.set()
        first_is_out.wait(10)
        seen["one left"] = threads_now("blas") | threads_now("openmp")
    thread.join()
    assert seen == {"both": {1}, "one left": {1}}
    assert threads_now("blas") == {2}


def test_limit_of_somebody_else_that_ends_inside_is_set_again(two_threads):
    with single_threaded():
        # a limiter that was entered before ours restores "its" two threads in the middle
        for lib in threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers:
            lib.set_num_threads(2)
        done = []
        thread = threading.Thread(target=lambda: done.append(enter_and_look()))
        thread.start()
        thread.join()
        assert done == [{1}]
    assert threads_now("blas") == {2}


def enter_and_look():
    with single_threaded():
        return threads_now("blas")


def test_nested_entry_is_cheap():
    with single_threaded():
        fastest = min(time_nested(1000) for _ in range(5))
    assert fastest < 20e-6


def time_nested(repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        with single_threaded():
            pass
    return (time.perf_counter() - start) / repeats


def test_limits_survive_an_exception(two_threads):
    with pytest.raises(KeyError), single_threaded():
        raise KeyError
    assert threads_now("blas") == {2}

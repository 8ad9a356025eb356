"""CPython's own tests of concurrent.futures, where the interpreter ships them."""

import operator
import pickle
import unittest
from functools import partial

import pytest

from skdvl.parallel import RayExecutor, WorkerLostError

try:
    from test import test_concurrent_futures as upstream
except ImportError:
    pytest.skip("this interpreter ships no test package", allow_module_level=True)
if not hasattr(upstream, "ExecutorTest"):  # a package since Python 3.12
    from test.test_concurrent_futures import (
        executor,
        test_as_completed,
        test_deadlock,
        test_process_pool,
        test_shutdown,
        test_wait,
    )
else:
    executor = test_as_completed = test_deadlock = upstream
    test_process_pool = test_shutdown = test_wait = upstream

ExecutorTests = executor.ExecutorTest
WaitTests = test_wait.WaitTests
AsCompletedTests = test_as_completed.AsCompletedTests
DeadlockTests = test_deadlock.ExecutorDeadlockTest
ProcessPoolTests = test_process_pool.ProcessPoolExecutorTest
ShutdownTests = test_shutdown.ExecutorShutdownTest
# pytest would take the modules' classes for tests of this module otherwise
for name in ("executor", "test_as_completed", "test_deadlock"):
    del globals()[name]
for name in ("test_process_pool", "test_shutdown", "test_wait"):
    del globals()[name]


class OnRay:
    worker_count = 4
    executor_type = RayExecutor
    max_retries = 3

    def setUp(self):
        super().setUp()
        self.executor = RayExecutor(self.worker_count, max_retries=self.max_retries)

    def tearDown(self):
        self.executor.shutdown()
        self.executor = None
        super().tearDown()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
class TestExecutor(OnRay, ExecutorTests, unittest.TestCase):
    test_map_chunksize = ProcessPoolTests.test_map_chunksize
    test_traceback = ProcessPoolTests.test_traceback
    # the class is imported by the worker; a method sent by value would show no lines of code
    _test_traceback = partial(operator.methodcaller("_test_traceback"), ProcessPoolTests)
    test_run_after_shutdown = ShutdownTests.test_run_after_shutdown
    test_hang_issue12364 = ShutdownTests.test_hang_issue12364
    test_cancel_futures = ShutdownTests.test_cancel_futures


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
class TestWait(OnRay, WaitTests, unittest.TestCase):
    pass


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
class TestAsCompleted(OnRay, AsCompletedTests, unittest.TestCase):
    pass


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
class TestDeadlock(OnRay, DeadlockTests, unittest.TestCase):
    """What breaks a pool of processes fails alone here, and the executor goes on."""

    worker_count = 2
    max_retries = 0
    # they reach into the processes of a pool
    test_shutdown_deadlock = None
    test_shutdown_deadlock_pickle = None
    test_gh105829_should_not_deadlock_if_wakeup_pipe_full = None

    def _check_error(self, error, func, *args, **details):
        with pytest.raises((error, WorkerLostError, SystemExit, pickle.UnpicklingError)):
            self.executor.submit(func, *args).result(timeout=60)
        assert self.executor.submit(abs, -1).result(timeout=60) == 1

    _check_crash = _check_error  # its name until Python 3.12

import os
import subprocess
import sys
import traceback
import warnings

import pytest


@pytest.fixture
def new_keys():
    """Return that many keys that nobody has used before."""

    def make(count):
        return [os.urandom(20) for _ in range(count)]

    return make


@pytest.fixture
def run_python():
    """Run a script in a fresh interpreter and return what it prints."""

    def run(script, *arguments):
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def fork():
    """Fork a child that calls a function and exits with 0, or 1 if it raises; return its pid."""

    def start(function):
        with warnings.catch_warnings():
            # Python 3.12 warns where threads are alive, as those of a pool of earlier tests.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            code = 1
            try:
                function()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        return pid

    return start


@pytest.fixture
def run_in_fork(fork):
    """Call a function in a forked child of this process; it must not raise."""

    def run(function):
        assert os.waitpid(fork(function), 0)[1] == 0

    return run

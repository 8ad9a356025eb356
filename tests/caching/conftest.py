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

    def run(script, *arguments, **options):
        done = subprocess.run(
            [sys.executable, "-W", "always", "-c", script, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            **options,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return run


@pytest.fixture
def as_somebody_else():
    """Python source that gives up the rights of root, if the tests run as root.

    Not another user for the whole interpreter: that one may not be able to read it.
    """
    return "import os\nif os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"


@pytest.fixture
def run_in_fork():
    """Call a function in a forked child of this process; it must not raise."""

    def run(function):
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
        assert os.waitpid(pid, 0)[1] == 0

    return run

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest

import skdvl
from skdvl.parallel import RayExecutor
from skdvl.parallel.pickling import cloudpickle


@pytest.fixture(autouse=True, scope="module")
def _functions_travel_by_value(request):
    """Workers cannot import test modules: pytest does not put them on the path."""
    cloudpickle.register_pickle_by_value(request.module)
    yield
    cloudpickle.unregister_pickle_by_value(request.module)


@pytest.fixture(scope="module")
def executor(ray_cluster):
    with RayExecutor(2) as executor:
        yield executor


def started_by(mark):
    """Find the processes that a test has started, and what these have started in their turn."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has just ended
            if f"SKDVL_TEST={mark}\0".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.fixture(name="started_by")
def _started_by():
    return started_by


@pytest.fixture
def assert_no_process_is_left(tmp_path):
    """Check that all ends soon that `run_script` has started, directly or not."""

    def check():
        deadline = time.monotonic() + 10
        while left := started_by(tmp_path):
            assert time.monotonic() < deadline, left
            time.sleep(0.05)

    return check


def interrupt(process):
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does


@pytest.fixture
def run_script(tmp_path):
    """Run a script in a process of its own; call `when_busy` once so many workers are at work."""
    path = pathlib.Path(skdvl.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(path), "RAY_DEDUP_LOGS_SKIP_REGEX": ".*"}
    environment["SKDVL_TEST"] = str(tmp_path)
    environment.pop("RAY_ADDRESS", None)
    started = []

    def run(body, *, n_workers=0, when_busy=interrupt, **variables):
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(body))
        pids = tmp_path / "pids"
        shutil.rmtree(pids, ignore_errors=True)
        pids.mkdir()
        process = subprocess.Popen(
            [sys.executable, str(script)],
            cwd=tmp_path,
            env={**environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        if n_workers:
            deadline = time.monotonic() + 100
            while len(list(pids.iterdir())) < n_workers:
                assert time.monotonic() < deadline
                assert process.poll() is None, process.communicate()
                time.sleep(0.05)
            when_busy(process)
        out, err = process.communicate(timeout=200)
        return process.returncode, out, err

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()

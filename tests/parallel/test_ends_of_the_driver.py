"""Fits whose driver ends, by Ctrl-C or with the head of its cluster, go on where they were."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.datasets import make_classification
from sklearn.naive_bayes import GaussianNB

from skdvl import ShapleyValuator

pytestmark = pytest.mark.kill

N_EVALS = 1000
CHUNK = 64  # evaluations
SCRIPT = """
    import json, os, sys, time
    import joblib
    import numpy as np
    from sklearn.datasets import make_classification
    from sklearn.naive_bayes import GaussianNB
    from skdvl import ShapleyValuator
    from skdvl.parallel import ray_dispatch

    class Slow(GaussianNB):
        def __init__(self, directory):
            super().__init__()
            self.directory = directory

        def fit(self, X, y):
            with open(f"{self.directory}/fits", "a") as file:
                file.write(".")
                n_fits = file.tell()
            if n_fits > 300:  # some chunks are complete
                open(f"{self.directory}/pids/{os.getpid()}", "w").close()
            time.sleep(0.003)
            return super().fit(X, y)

    if __name__ == "__main__":
        directory = os.path.dirname(os.path.abspath(__file__))
        X, y = make_classification(50, 5, n_informative=3, random_state=0)
        valuator = ShapleyValuator(
            Slow(directory), method="permutation", engine="refit", max_evals=1000,
            checkpoint=f"{directory}/checkpoint", random_state=0,
        )
        ray_dispatch._PATIENCE = float(os.environ.get("PATIENCE", ray_dispatch._PATIENCE))
        start = time.monotonic()
        try:
            with joblib.parallel_config(n_jobs=2, **json.loads(os.environ["BACKEND"])):
                valuator.fit(X[:10], y[:10], X_val=X[10:], y_val=y[10:])
        except Exception as error:
            print(time.monotonic() - start, type(error).__name__, error, flush=True)
            os._exit(1)  # Ray's hook for uncaught exceptions waits for a dead head for a minute
        np.save(f"{directory}/values.npy", valuator.values_)
"""


@pytest.fixture(scope="module")
def expected():
    X, y = make_classification(50, 5, n_informative=3, random_state=0)
    valuator = ShapleyValuator(
        GaussianNB(), method="permutation", engine="refit", max_evals=N_EVALS, random_state=0
    )
    return valuator.fit(X[:10], y[:10], X_val=X[10:], y_val=y[10:]).values_


@pytest.fixture
def assert_it_goes_on(run_script, tmp_path, expected):
    def check():
        assert not (tmp_path / "values.npy").exists()
        n_before = (tmp_path / "fits").stat().st_size
        code, _, err = run_script(SCRIPT, BACKEND='{"backend": "threading"}')
        assert code == 0, err
        assert_array_equal(np.load(tmp_path / "values.npy"), expected)
        n_after = (tmp_path / "fits").stat().st_size - n_before
        assert n_after <= N_EVALS - 300 + 5 * CHUNK

    return check


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes in /proc")
@pytest.mark.xdist_group("clocks")
@pytest.mark.parametrize("backend", ["loky", pytest.param("ray_executor", marks=pytest.mark.ray)])
def test_ctrl_c(backend, run_script, assert_no_process_is_left, assert_it_goes_on):
    times = []

    def interrupt(process):
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        times.append(time.monotonic())

    code, _, err = run_script(
        SCRIPT, n_workers=2, when_busy=interrupt, BACKEND=f'{{"backend": "{backend}"}}'
    )
    seconds = time.monotonic() - times[0]
    assert code != 0
    assert "KeyboardInterrupt" in err
    print(f"{backend}: ended after {seconds:.1f} s")
    assert seconds < 10
    assert_no_process_is_left()
    assert_it_goes_on()


def free_ports(n):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n)]
        return [server.getsockname()[1] for server in sockets]


@pytest.fixture
def ray_head(needs, tmp_path, started_by):
    """Start the head of a Ray cluster of this test alone; gives its address and what kills it."""
    needs("ray")
    port, *others = free_ports(5)
    names = ["dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export"]
    names += ["runtime-env-agent"]
    # a short name, for sockets
    with tempfile.TemporaryDirectory(prefix="ray") as directory:
        marker = f"{tmp_path}/head"
        head = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                *(f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=2"),
                *("--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={directory}"),
                "--object-store-memory=100000000",
                *(f"--{name}-port={other}" for name, other in zip(names, others, strict=True)),
            ],
            env={**os.environ, "SKDVL_TEST": marker, "RAY_AUTH_MODE": "token"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def kill():
            for pid in started_by(marker):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            head.wait()

        yield f"127.0.0.1:{port}", kill
        kill()


@pytest.mark.ray
@pytest.mark.xdist_group("clocks")
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes in /proc")
def test_the_head_of_the_cluster_dies(ray_head, run_script, assert_it_goes_on):
    from skdvl.parallel.ray_cluster import answers

    address, kill = ray_head
    deadline = time.monotonic() + 60
    while not answers(address):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    code, out, _ = run_script(
        SCRIPT,
        n_workers=2,
        when_busy=lambda process: kill(),
        BACKEND=f'{{"backend": "ray_executor", "address": "{address}"}}',
        RAY_AUTH_MODE="token",
        PATIENCE="2",
    )
    print(f"the driver ended with code {code}: {out}")
    assert code != 0
    assert "head of the Ray cluster" in out
    assert_it_goes_on()


@pytest.mark.ray
@pytest.mark.xdist_group("clocks")
def test_no_cluster_at_the_address(needs, run_script):
    needs("ray")
    backend = '{"backend": "ray_executor", "address": "127.0.0.1:1"}'
    code, out, _ = run_script(SCRIPT, BACKEND=backend)
    assert code != 0
    seconds, error = out.split(maxsplit=1)
    assert error.startswith("ConnectionError no Ray cluster answers at 127.0.0.1:1")
    assert float(seconds) < 5

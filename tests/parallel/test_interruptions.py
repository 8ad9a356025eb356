"""Ends of the driver: Ctrl-C, the end of the interpreter, a cluster that goes away."""

import os
import socket
import sys
import threading
import time

import pytest

from skdvl.parallel import RayExecutor, ray_cluster

INTERRUPTED = """
    import os, sys, time
    import joblib
    from skdvl.parallel import ExecutorBackend, RayExecutor, TaskRunner

    def work(shared, payload):
        open(f"{shared}/{os.getpid()}", "w").close()
        time.sleep(0.2)
        return payload

    if __name__ == "__main__":
        if os.environ["BACKEND"] == "RayExecutor":
            backend = ExecutorBackend(RayExecutor(2, address=os.environ["ADDRESS"]))
        else:
            backend = os.environ["BACKEND"]
        with (
            joblib.parallel_config(backend=backend, n_jobs=2),
            TaskRunner(work, os.path.abspath("pids")) as runner,
        ):
            try:
                for result in runner.run(range(1000)):
                    print(result, flush=True)
            except KeyboardInterrupt:
                print("interrupted", time.time(), flush=True)
                raise
"""


@pytest.mark.kill
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    "backend",
    # the others end whole fits in test_ends_of_the_driver.py
    [pytest.param("loky", marks=pytest.mark.full), "multiprocessing", "threading"],
)
def test_ctrl_c_leaves_no_process(run_script, assert_no_process_is_left, backend):
    n_workers = 1 if backend == "threading" else 2
    code, out, err = run_script(INTERRUPTED, n_workers=n_workers, BACKEND=backend)
    end = time.time()
    assert code != 0
    assert "KeyboardInterrupt" in err
    *results, last = out.splitlines()
    assert results == [str(k) for k in range(len(results))]
    assert last.startswith("interrupted")
    assert end - float(last.split()[1]) < 10
    assert_no_process_is_left()


@pytest.mark.full
@pytest.mark.kill
@pytest.mark.ray
def test_ctrl_c_on_ray(run_script, ray_cluster):
    code, out, err = run_script(
        INTERRUPTED,
        n_workers=2,
        BACKEND="RayExecutor",
        ADDRESS=ray_cluster.address,
    )
    end = time.time()
    assert code != 0
    assert "KeyboardInterrupt" in err
    assert end - float(out.splitlines()[-1].split()[1]) < 10


LOCAL = """
    import atexit, sys, time, warnings
    warnings.simplefilter("error")
    from concurrent.futures import BrokenExecutor
    from skdvl.parallel import RayExecutor, TaskRunner
    import joblib

    assert "ray" not in sys.modules  # Ray is imported where it is needed

    def late():
        try:
            forgotten.submit(abs, -1)
        except RuntimeError as error:
            print(error, flush=True)

    def slow(x):
        time.sleep(0.5)
        print("done", x, flush=True)
        return x

    with RayExecutor(2) as executor:
        import ray
        assert list(executor.map(abs, [-1, -2])) == [1, 2]
        with RayExecutor(1) as other:  # shares what the first has started
            assert other.submit(abs, -3).result() == 3
        assert ray.is_initialized()
        assert executor.submit(abs, -4).result() == 4
    assert not ray.is_initialized()  # what was started is stopped

    broken = RayExecutor(2)
    future = broken.submit(time.sleep, 100)
    pending = [broken.submit(time.sleep, 100) for _ in range(5)]
    while not future.running():
        time.sleep(0.01)
    ray.shutdown()
    for lost in [future, *pending]:
        try:
            lost.result(timeout=30)
        except BrokenExecutor as error:
            reason = error
    try:
        broken.submit(abs, 1)
    except BrokenExecutor as error:
        print(error, flush=True)
    broken.shutdown()

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
             logging_level="ERROR")
    with RayExecutor(2) as executor:
        assert executor.submit(abs, -5).result() == 5
    assert ray.is_initialized()  # it is the user's
    forgotten = RayExecutor(1)
    atexit.register(late)
    for k in range(3):
        forgotten.submit(slow, k).add_done_callback(lambda f: print(f.result(), flush=True))
    print("main ends", flush=True)
"""


@pytest.mark.ray
@pytest.mark.xdist_group("clocks")
def test_life_of_a_local_cluster(run_script, needs):
    needs("ray")
    code, out, err = run_script(LOCAL)
    assert code == 0, err
    assert out.splitlines() == [
        "ray.shutdown() was called while a RayExecutor was using Ray",
        "main ends",
        "0",
        "1",
        "2",
        "cannot schedule new futures after interpreter shutdown",
    ]
    assert "dashboard" not in err.lower()
    assert "usage stat" not in err.lower()


@pytest.fixture
def web_server():
    """Something that listens and is no cluster."""
    import http.server

    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def mute_server():
    """Something that accepts connections and never says a word, as a head that is stopped."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("which", ["closed", "web", "mute", "no name", "client"])
def test_an_address_without_a_cluster(which, web_server, mute_server):
    address = {
        "closed": "127.0.0.1:1",
        "web": web_server,
        "mute": mute_server,
        "no name": "no-such-host.invalid:6379",
        "client": "ray://127.0.0.1:1",
    }[which]
    start = time.monotonic()
    with pytest.raises(ConnectionError, match="no Ray cluster answers at"):
        ray_cluster.probe_address(address)
    assert time.monotonic() - start < 5


def test_a_stale_cluster_file(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    ray_cluster.probe_address("auto")  # no file: Ray itself fails at once
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    with pytest.raises(ConnectionError, match=r"at 127\.0\.0\.1:1"):
        ray_cluster.probe_address("auto")


@pytest.mark.ray
def test_the_head_is_found_alive_or_dead(ray_cluster, monkeypatch):
    assert ray_cluster.address
    from skdvl.parallel import ray_dispatch
    from skdvl.parallel.ray_cluster import answers

    assert answers(ray_cluster.address)
    with pytest.raises(ValueError, match="this process is connected to Ray at"):
        RayExecutor(address="127.0.0.1:1")
    with RayExecutor(2, address=ray_cluster.address) as executor:
        assert executor.submit(abs, -1).result() == 1
        # a head that stops answering: Ray would end this process after a minute
        monkeypatch.setattr(ray_dispatch, "answers", lambda address: False)
        monkeypatch.setattr(ray_dispatch, "_CHECK", 0.2)
        monkeypatch.setattr(ray_dispatch, "_PATIENCE", 0.5)
        future = executor.submit(time.sleep, 8)
        with pytest.raises(ray_dispatch.BrokenExecutor, match="does not answer"):
            future.result(timeout=30)


def test_without_ray_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'pip install "skdvl\[ray\]"'):
        RayExecutor()

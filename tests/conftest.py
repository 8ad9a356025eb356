"""Fixtures for the whole suite, and the one place that decides what a missing part means."""

import concurrent.futures
import contextlib
import doctest
import importlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import textwrap
import time
import types

import joblib
import pytest
import sklearn
from joblib.externals import loky

# A shell that starts the tests in the background lets them ignore Ctrl-C, and what they start too.
signal.signal(signal.SIGINT, signal.default_int_handler)

REQUIRE_ALL = os.environ.get("SKDVL_REQUIRE_ALL") == "1"


def missing_part(reason: str) -> None:
    """Skip the test because a real part is missing; fail instead where all parts are required."""
    if REQUIRE_ALL:
        pytest.fail(f"SKDVL_REQUIRE_ALL=1, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def needs():
    """Call with the name of a library that a test cannot do without."""

    def need(name):
        try:
            importlib.import_module(name)
        except ImportError:
            missing_part(f"{name} is not installed")

    return need


@pytest.fixture(scope="session")
def skip_missing_part():
    """Call with a reason where a program or a library is not installed."""
    return missing_part


def needed_clusters(item):
    return [item.get_closest_marker(name) is not None for name in ("dask", "ray")]


def in_groups(session):
    """Tell whether pytest-xdist runs the tests of a group in one process, one after the other."""
    return getattr(session.config.option, "loadgroup", False)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(items):
    """Let tests of Dask and Ray come last: their idle clusters slow down what runs beside them.

    With pytest-xdist they share one process, and one Ray, as do the others that watch a clock. What
    starts a cluster of its own is marked to run with those.
    """
    items.sort(key=needed_clusters)
    for item in items:
        if item.get_closest_marker("xdist_group"):
            continue
        if any(needed_clusters(item)):
            item.add_marker(pytest.mark.xdist_group("clusters"))
        elif item.path.parent.name == "parallel":
            item.add_marker(pytest.mark.xdist_group("clocks"))


def pytest_collection_finish(session):
    """Refuse to run where pytest-xdist would ignore the groups, as some of its versions do."""
    if in_groups(session):
        grouped = [item for item in session.items if item.get_closest_marker("xdist_group")]
        if any("@" not in item.nodeid for item in grouped):
            raise pytest.UsageError("pytest-xdist ignores xdist_group with this version of pytest")


SHARED_CLUSTERS = pytest.StashKey[contextlib.ExitStack]()


@pytest.fixture(scope="session")
def shared_clusters(request):
    """Return a stack of what ends with the last test that needs a cluster."""
    with contextlib.ExitStack() as stack:
        request.session.stash[SHARED_CLUSTERS] = stack
        yield stack


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """End the shared clusters after their group: idle ones take a sixth of a processor."""
    follows = nextitem is not None and not any(needed_clusters(nextitem))
    if follows and in_groups(item.session) and SHARED_CLUSTERS in item.session.stash:
        item.session.stash[SHARED_CLUSTERS].close()


class MemcachedServer:
    """A real memcached on a free loopback port, which tests may kill, stop and restart."""

    host = "127.0.0.1"

    def __init__(self, *options):
        with socket.socket() as probe:
            probe.bind((self.host, 0))
            self.port = probe.getsockname()[1]
        self.options = options
        self.process = None

    @property
    def address(self):
        return f"{self.host}:{self.port}"

    def start(self):
        # memcached refuses to run as root without being told as whom.
        user = ["-u", "nobody"] if os.getuid() == 0 else []
        command = ["memcached", "-l", self.host, "-p", str(self.port), "-U", "0", *user]
        self.process = subprocess.Popen([*command, *self.options])
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection((self.host, self.port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.02)

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self):
        self.kill()
        self.start()

    def stop(self):
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)  # its threads may answer until they have stopped

    def cont(self):
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="session")
def start_memcached(skip_missing_part):
    """Start a memcached with options of its own; all of them end with the session."""
    if shutil.which("memcached") is None:
        skip_missing_part("the memcached program is not installed")
    servers = []

    def start(*options):
        server = MemcachedServer(*options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def _session_memcached(start_memcached):
    return start_memcached()


@pytest.fixture
def memcached_server(_session_memcached):
    """One running memcached for the session; what a test does to it is mended afterwards."""
    yield _session_memcached
    if _session_memcached.process is None:
        _session_memcached.start()
    else:
        _session_memcached.cont()


@pytest.fixture(scope="session")
def ray_cluster(skip_missing_part, shared_clusters):
    """Start a Ray cluster of two nodes of two processors each, once; this process is connected.

    A test may add nodes and kill those. The first node is the head.
    """
    # to be set before Ray is imported: its raylets print each death of a worker to our stdout
    os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"] = ".*"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
        from ray.cluster_utils import Cluster
    except ImportError:
        skip_missing_part("Ray is not installed")
    node = {"num_cpus": 2, "object_store_memory": 150_000_000, "include_dashboard": False}
    # a killed node is missed after 2 s, not 15; a slow one still has Ray's ten seconds to answer
    checks = {"health_check_period_ms": 1000, "health_check_failure_threshold": 2}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "_system_config": checks})
    cluster.add_node(num_cpus=2, object_store_memory=150_000_000)
    shared_clusters.callback(cluster.shutdown)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    shared_clusters.callback(ray.shutdown)
    return cluster


@pytest.fixture(scope="session")
def dask_client(skip_missing_part, shared_clusters):
    """Start Dask with two worker processes, once; they come back when a test kills them."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        skip_missing_part("dask.distributed is not installed")
    cluster = LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
    )
    shared_clusters.enter_context(cluster)
    return shared_clusters.enter_context(Client(cluster))


def _in_config(backend, **options):
    return lambda get: joblib.parallel_config(backend=backend, n_jobs=2, **options)


def _in_ray_joblib(get):
    get("ray_cluster")
    from ray.util.joblib import register_ray

    register_ray()
    return joblib.parallel_config(backend="ray", n_jobs=2)


def _dask_executor(client):
    # a nanny that loses its worker while it starts it gives up: then another takes its place
    client.cluster.scale(2)
    client.wait_for_workers(2, timeout=60)
    return client.get_executor()


def _in_dask(get):
    _dask_executor(get("dask_client"))
    return joblib.parallel_config(backend="dask")


def _on_executor(make, *needed):
    @contextlib.contextmanager
    def enter(get):
        from skdvl.parallel import ExecutorBackend

        with (
            make(*(get(name) for name in needed)) as executor,
            joblib.parallel_config(backend=ExecutorBackend(executor), n_jobs=2),
        ):
            yield

    return enter


def _ray_executor(cluster):
    from skdvl.parallel import RayExecutor

    return RayExecutor(2)


# every way to run work: from its name to a context, given a function that gets a fixture
_BACKENDS = {
    "sequential": lambda get: joblib.parallel_config(backend="sequential", n_jobs=1),
    "threading": _in_config("threading"),
    "loky": _in_config("loky"),
    "multiprocessing": _in_config("multiprocessing"),
    "ThreadPoolExecutor": _on_executor(lambda: concurrent.futures.ThreadPoolExecutor(2)),
    "ProcessPoolExecutor": _on_executor(lambda: concurrent.futures.ProcessPoolExecutor(2)),
    "loky executor": _on_executor(lambda: loky.get_reusable_executor(max_workers=2)),
    "dask": _in_dask,
    "dask executor": _on_executor(_dask_executor, "dask_client"),
    "ray joblib": _in_ray_joblib,
    "RayExecutor": _on_executor(_ray_executor, "ray_cluster"),
}
_MARKS = {
    "dask": pytest.mark.dask,
    "dask executor": pytest.mark.dask,
    "ray joblib": pytest.mark.ray,
    "RayExecutor": pytest.mark.ray,
}


@pytest.fixture
def open_backend(request):
    """Call with the name of a way to run work; returns the context in which it is in force."""
    return lambda name: _BACKENDS[name](request.getfixturevalue)


@pytest.fixture(
    params=[pytest.param(name, marks=_MARKS.get(name, ())) for name in _BACKENDS],
)
def each_backend(request, open_backend):
    """Run the test in each way to run work, with two workers; gives its name."""
    with open_backend(request.param):
        yield request.param


_BLOCK = re.compile(
    r"^( *)```python\n(?P<code>.*?)^\1```$(?:\s*^\1```text\n(?P<shown>.*?)^\1```$)?", re.M | re.S
)
_AS_SHOWN = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.fixture
def run_page(tmp_path, monkeypatch):
    """Call with a page of the docs to run its Python blocks in turn, in one namespace.

    A block with a block of text after it must print that text. ``names`` is what the reader has
    at hand, ``replace`` puts what exists here in the place of what is shown, ``only`` is a part
    of the one block to run. Returns the number of blocks.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKDVL_CACHE_DIR", str(tmp_path / "default cache"))

    def run(page, names=(), *, replace=types.MappingProxyType({}), only=""):
        text = page.read_text()
        namespace = {"__name__": "page", **dict(names)}
        blocks = [block for block in _BLOCK.finditer(text) if only in block["code"]]
        for block in blocks:
            code = textwrap.dedent(block["code"])
            for old, new in replace.items():
                code = code.replace(old, new)
            # errors name the page and the line
            lines = "\n" * (text[: block.start("code")].count("\n"))
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(lines + code, str(page), "exec"), namespace)
            shown = textwrap.dedent(block["shown"] or "")
            got = printed.getvalue()
            assert doctest.OutputChecker().check_output(shown, got, _AS_SHOWN), (
                f"{page.name} shows\n{shown}but\n{code}prints\n{got}"
            )
        return len(blocks)

    with sklearn.config_context():  # a block may set it
        yield run

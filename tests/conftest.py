"""Fixtures for the whole suite, and the one place that decides what a missing part means."""

import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

REQUIRE_ALL = os.environ.get("SKDVL_REQUIRE_ALL") == "1"


def missing_part(reason: str) -> None:
    """Skip the test because a real part is missing; fail instead where all parts are required."""
    if REQUIRE_ALL:
        pytest.fail(f"SKDVL_REQUIRE_ALL=1, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def skip_missing_part():
    """Call with a reason where a program or a library is not installed."""
    return missing_part


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

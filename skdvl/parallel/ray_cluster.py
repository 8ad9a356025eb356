"""Find, join or start a Ray cluster, and know what it can run."""

import os
import socket
import tempfile
import threading
import warnings
from types import ModuleType
from typing import Any

_PROBE_SECONDS = 3.0
_LOCK = threading.RLock()
# The cluster that skdvl itself joined or started, and how many executors use it. Ray knows one
# cluster for each process, hence one variable of the module.
_own: dict[str, Any] = {"session": None, "n_users": 0}


def import_ray() -> ModuleType:
    """Import ray where it is needed, or say how to get it."""
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            'RayExecutor needs Ray, which is not installed: pip install "skdvl[ray]"'
        ) from error
    return ray


class Lease:
    """The right to use Ray; the last lease to end stops what skdvl started, and nothing else."""

    def __init__(self, address: str | None, n_cpus: float) -> None:
        ray = import_ray()
        with _LOCK:
            if ray.is_initialized():
                _refuse_other_cluster(ray, address)
            else:
                _initialise(ray, address, n_cpus)
                _own.update(session=_session(ray), n_users=0)
            self.session = _session(ray)
            self._counts = self.session == _own["session"]
            if self._counts:
                _own["n_users"] += 1

    def is_alive(self) -> bool:
        """Say whether this process is still connected to the same cluster."""
        ray = import_ray()
        try:
            return ray.is_initialized() and _session(ray) == self.session
        except Exception:  # it was shut down after it had said that it was initialised
            return False

    def release(self) -> None:
        """End the lease."""
        ray = import_ray()
        with _LOCK:
            if not self._counts:
                return
            self._counts = False
            _own["n_users"] -= 1
            if _own["n_users"] == 0 and self.is_alive():
                ray.shutdown()


def ensure_ray(n_cpus: float) -> None:
    """Connect this process to Ray, as its joblib backend does, until the process ends."""
    ray = import_ray()
    with _LOCK:
        if not ray.is_initialized():
            _initialise(ray, None, n_cpus)


def _session(ray: ModuleType) -> tuple[str, str]:
    """Identify the running cluster: job ids start anew in each, node ids do not."""
    context = ray.get_runtime_context()
    return context.get_node_id(), context.get_job_id()


def _refuse_other_cluster(ray: ModuleType, address: str | None) -> None:
    if address in (None, "auto", "local") or str(address).startswith("ray://"):
        return
    connected = ray.get_runtime_context().gcs_address
    if address != connected and _port(str(address)) != _port(connected):
        raise ValueError(
            f"address={address!r}, but this process is connected to Ray at {connected}; "
            "call ray.shutdown() first, or leave out the address"
        )


def _initialise(ray: ModuleType, address: str | None, n_cpus: float) -> None:
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address != "local":
        probe_address(address)
        ray.init(address=address, **options)
        return
    # always address="local": without it Ray joins whatever a file in its temporary directory
    # names, and that file outlives a head that was killed
    told = os.environ.get("RAY_USAGE_STATS_ENABLED")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, round(n_cpus)),
            include_dashboard=False,
            **options,
        )
    finally:
        if told is None:
            del os.environ["RAY_USAGE_STATS_ENABLED"]
        else:
            os.environ["RAY_USAGE_STATS_ENABLED"] = told


def probe_address(address: str) -> None:
    """Raise a ConnectionError within five seconds if nobody answers at a cluster's address.

    ``ray.init`` retries a dead address for more than ten minutes.
    """
    if address == "auto":
        named = _address_left_on_this_machine()
        if named is None:
            return  # ray.init looks for processes of Ray and fails at once
        address = named
    if not answers(address):
        raise ConnectionError(
            f"no Ray cluster answers at {address}: is its head running (`ray start --head`), is "
            "the port that of the GCS (6379 by default; `ray://` needs the client port 10001), "
            "and do RAY_ADDRESS and the `ray_current_cluster` file name a cluster that still runs?"
        )


def answers(address: str) -> bool:
    """Say within five seconds whether a gRPC server, as Ray's are, is alive at host:port.

    A port that is merely open is not enough: ``ray.init`` waits as long for a head that is
    stopped, or for a server of another kind, as for a dead one.
    """
    found: list[bool] = []

    def connect() -> None:
        host = address.split("://")[-1].rpartition(":")[0].strip("[]")
        try:
            with socket.create_connection((host, _port(address)), timeout=_PROBE_SECONDS) as peer:
                found.append(_speaks_http2(peer))
        except (OSError, ValueError):
            found.append(False)

    # in a thread, because looking up a host name has no time limit
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS + 1)
    return found == [True]


def _speaks_http2(peer: socket.socket) -> bool:
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return True  # it would have to be asked through TLS
    settings = b"\0\0\0\x04\0\0\0\0\0"  # an empty frame of type 4
    peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
    frame = b""
    while len(frame) < 4:
        received = peer.recv(9)
        if not received:
            return False
        frame += received
    return frame[3] == settings[3]


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def _address_left_on_this_machine() -> str | None:
    """Return the address that "auto" stands for, as `ray start` left it, or None."""
    directory = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()
    try:
        with open(os.path.join(directory, "ray", "ray_current_cluster")) as file:
            return file.read().strip() or None
    except OSError:
        return None


def n_that_fit(request: dict[str, float]) -> int:
    """Return how many tasks of such a request the cluster can run at once; 0: not even one."""
    ray = import_ray()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not request:
        return max(1, int(sum(node.get("CPU", 0) for node in nodes)))
    # 1e-9: 0.1 of a processor fits ten times, in floating point too
    return sum(
        int(min(node.get(name, 0) / amount for name, amount in request.items()) + 1e-9)
        for node in nodes
    )


def require_room(request: dict[str, float]) -> int:
    """Return how many tasks fit at once, or refuse a request that no node can ever meet.

    Ray lets such a task wait for ever, without a word.
    """
    n_tasks = n_that_fit(request)
    if n_tasks:
        return n_tasks
    ray = import_ray()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    offers = {name: max((node.get(name, 0) for node in nodes), default=0) for name in request}
    message = f"no node of the Ray cluster can run a task that asks for {request}; the most that "
    message += f"one node offers is {offers}"
    if not may_grow():
        raise ValueError(message)
    warnings.warn(f"{message}. Waiting for the cluster to grow.", RuntimeWarning, stacklevel=4)
    return 1


def may_grow() -> bool:
    """Say whether an autoscaler may add nodes; True where that cannot be found out."""
    try:
        # Ray has no public door to this
        from ray._private.state import state

        return state.get_cluster_config() is not None
    except Exception:
        return True

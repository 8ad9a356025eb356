"""A cache on memcached servers, shared by machines."""

import functools
import re
import secrets
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, final

from skdvl.caching.external import ExternalCache, Store

BATCH = 500  # a server that cannot send its answers stops reading: do not send it everything
GENERATION = re.compile(rb"[0-9a-f]{8}")
FIRST_GENERATION = b"0"


@final
class MemcachedCache(ExternalCache, name="memcached"):
    """Keep utilities on memcached servers, through `pymemcache`.

    For several machines, or where a disk is slow. A server that is down, stopped or full is left
    alone for some seconds and used again when it is back; the others are not affected
    (see `ExternalCache`). Values are numbers, never pickles; but memcached knows no passwords, and
    whoever reaches a server can feed it wrong numbers: keep it on a private network.

    Parameters
    ----------
    servers : str or sequence of str, default=("127.0.0.1:11211",)
        "host:port", "host" (port 11211), "[::1]:11211", or "unix:/path/to/socket". Keys are spread
        over all of them; the order does not matter.
    timeout, connect_timeout : float, default=1.0
        Seconds to wait for an answer, and for a connection.
    namespace : str, default="skdvl"
        Prefix of all keys. Users of one server who must not share need different ones.
    expire : int, default=0
        Seconds after which the server drops an entry; 0 is never (it drops the least recently used
        when its memory is full). Above 30 days memcached takes it for a date.
    tls_context : ssl.SSLContext or callable, default=None
        For servers that speak TLS. A context cannot be sent to worker processes: with those, pass
        a function of a module without parameters that returns one.

    Raises
    ------
    ImportError
        If pymemcache is not installed.

    Notes
    -----
    `clear` never flushes a server. It gives the namespace a new generation, a random number that
    is kept on each server and is part of every key: entries of earlier generations are not found
    any more, by any process, and leave when the server needs their memory. Should the server drop
    the generation itself, the entries of the first one may be found again: they are not wrong,
    since a key is a digest of everything that its value depends on.

    Examples
    --------
    >>> from skdvl.caching import MemcachedCache
    >>> MemcachedCache(["cache1.lan", "cache2.lan:11212"], namespace="team-a").servers
    ('cache1.lan', 'cache2.lan:11212')
    """

    def __init__(
        self,
        servers: str | Sequence[str] = ("127.0.0.1:11211",),
        *,
        timeout: float = 1.0,
        connect_timeout: float = 1.0,
        namespace: str = "skdvl",
        expire: int = 0,
        tls_context: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        try:
            # Without it, fail here and not with a warning later.
            from pymemcache.client.base import normalize_server_spec
        except ImportError as error:
            raise ImportError(
                'MemcachedCache needs pymemcache; install it with: pip install "skdvl[memcached]"'
            ) from error
        self.servers = (servers,) if isinstance(servers, str) else tuple(servers)
        if not self.servers:
            raise ValueError("servers is empty")
        for server in self.servers:
            normalize_server_spec(server)
        if not re.fullmatch(r"[\x21-\x7e]{1,128}", namespace):
            raise ValueError(
                f"namespace must be 1 to 128 printable ASCII characters without spaces, "
                f"got {namespace!r}"
            )
        if timeout <= 0 or connect_timeout <= 0:
            raise ValueError("timeout and connect_timeout must be positive")
        if expire < 0:
            raise ValueError(f"expire must be 0 or positive, got {expire}")
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self.namespace = namespace
        self.expire = expire
        self.tls_context = tls_context

    def connect(self) -> Sequence[Store]:  # noqa: D102 - inherited
        return [
            _Server(
                functools.partial(self._make_client, server),
                self.namespace.encode("ascii"),
                self.expire,
            )
            for server in sorted(self.servers)
        ]

    def _make_client(self, server: str) -> Any:
        from pymemcache.client.base import PooledClient

        # Not pymemcache's HashClient: on an error it either gives up the whole batch, also what
        # the other servers would answer, or swallows the error so that nobody can count it.
        context = self.tls_context
        return PooledClient(
            server,
            timeout=self.timeout,
            connect_timeout=self.connect_timeout,
            no_delay=True,
            tls_context=context() if callable(context) else context,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self.tls_context, ssl.SSLContext):
            raise TypeError(
                "a MemcachedCache with an ssl.SSLContext cannot be sent to another process; pass "
                "as tls_context a function of a module, without parameters, that returns it"
            )
        return super().__reduce__()


class _Server(Store):
    """One server, with a pool of connections for the threads of this process."""

    def __init__(self, make_client: Callable[[], Any], namespace: bytes, expire: int) -> None:
        self._make_client = make_client
        self._generation_name = namespace + b":generation"
        self._namespace = namespace
        self._expire = expire
        self._lock = threading.Lock()
        self._client: Any = None
        self._generation: bytes | None = None

    def read(self, keys: list[bytes]) -> Mapping[bytes, object]:
        found: dict[bytes, object] = {}
        with self._connected() as client:
            for batch in _batches(keys):
                found.update(self._read_batch(client, batch))
        return found

    def write(self, items: dict[bytes, bytes]) -> None:
        with self._connected() as client:
            if self._generation is None:
                self._read_batch(client, [])
            generation = self._generation or FIRST_GENERATION
            for batch in _batches(items):
                entries = {self._name(generation, key): items[key] for key in batch}
                # With noreply, a server that has died or is full would go unnoticed.
                failed = client.set_many(entries, expire=self._expire, noreply=False)
                if failed:
                    raise OSError(f"{len(failed)} of {len(entries)} entries were not stored")

    def clear(self) -> None:
        generation = secrets.token_hex(4).encode("ascii")
        with self._connected() as client:
            client.set(self._generation_name, generation, noreply=False)
        self._generation = generation

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()

    def _read_batch(self, client: Any, batch: list[bytes]) -> dict[bytes, object]:
        # The generation comes along with every batch: that keeps it from being the entry that the
        # server has not used for longest, and shows at once when another process changed it.
        found: dict[bytes, object] = {}
        for _ in range(2):
            assumed = self._generation or FIRST_GENERATION
            names = {self._name(assumed, key): key for key in batch}
            answer = client.get_many([self._generation_name, *names])
            data = answer.pop(self._generation_name, b"")
            found = {names[name]: entry for name, entry in answer.items()}
            self._generation = data if GENERATION.fullmatch(data) else FIRST_GENERATION
            if self._generation == assumed:
                break
        return found

    def _name(self, generation: bytes, key: bytes) -> bytes:
        # In hex, since a digest may contain the spaces and line ends that separate keys.
        return b"%b:%b:%b" % (self._namespace, generation, key.hex().encode("ascii"))

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        from pymemcache.exceptions import MemcacheUnexpectedCloseError

        with self._lock:
            if self._client is None:
                self._client = self._make_client()
            client = self._client
        try:
            yield client
        except Exception as error:
            # The other connections of the pool are to the same dead server, and each would fail
            # once more when it is back.
            if isinstance(error, OSError | MemcacheUnexpectedCloseError):
                self.close()
            raise


def _batches(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    rest = iter(keys)
    while batch := list(islice(rest, BATCH)):
        yield batch

"""The memcached cache on real servers: what is stored, and what happens when they fail."""

import os
import pickle
import secrets
import shutil
import ssl
import subprocess
import threading
import time
import warnings

import pytest
from pymemcache import Client
from pymemcache.serde import PickleSerde

from skdvl.caching import CacheWarning, MemcachedCache
from skdvl.caching.codec import ENCODED_SIZE, encode
from skdvl.caching.memcached import BATCH

pytestmark = pytest.mark.memcached

KEY = b"0123456789abcdef"


@pytest.fixture
def make_cache(memcached_server):
    """A cache on the server of the session, in a namespace of the test's own."""
    namespace = secrets.token_hex(8)
    made = []

    def make(**options):
        options = {"namespace": namespace, "timeout": 0.3, **options}
        cache = MemcachedCache(memcached_server.address, **options)
        cache.retry_after = 0.2
        made.append(cache)
        return cache

    yield make
    for cache in made:
        cache.close()


@pytest.fixture
def client(memcached_server):
    """A plain client of the same server."""
    client = Client((memcached_server.host, memcached_server.port), timeout=5)
    yield client
    client.close()


def name_of(cache, key):
    return f"{cache.namespace}:0:{key.hex()}"


def test_what_is_stored_is_thirteen_bytes_under_a_hexadecimal_name(make_cache, client):
    cache = make_cache()
    cache.set_many({KEY: 1 / 3})
    assert client.get(name_of(cache, KEY)) == encode(KEY, 1 / 3)
    assert len(encode(KEY, 1 / 3)) == ENCODED_SIZE


def test_names_stay_below_the_250_bytes_of_memcached(make_cache):
    cache = make_cache(namespace="n" * 128)
    cache.set_many({b"k" * 32: 0.5})
    cache.clear()
    cache.set_many({b"k" * 32: 0.5})
    cache._memory.clear()
    assert cache.get_many([b"k" * 32]) == {b"k" * 32: 0.5}
    assert cache.info().errors == 0


def test_namespaces_do_not_see_each_other(make_cache):
    one, other = make_cache(namespace="one"), make_cache(namespace="other")
    one.set_many({KEY: 0.5})
    assert other.get_many([KEY]) == {}


def test_more_keys_than_one_batch(make_cache, new_keys):
    items = {key: number / 3 for number, key in enumerate(new_keys(20 * BATCH + 7))}
    make_cache().set_many(items)
    assert make_cache().get_many(list(items)) == items


def test_the_order_of_the_servers_does_not_matter(memcached_server, start_memcached, new_keys):
    servers = [memcached_server.address, start_memcached().address]
    items = dict.fromkeys(new_keys(100), 0.5)
    with MemcachedCache(servers, namespace="order") as cache:
        cache.set_many(items)
    with MemcachedCache(servers[::-1], namespace="order") as cache:
        assert cache.get_many(list(items)) == items


def test_entries_expire(make_cache):
    make_cache(expire=2).set_many({KEY: 0.5})  # in whole seconds: 1 may be over at once
    assert make_cache().get_many([KEY]) == {KEY: 0.5}
    deadline = time.monotonic() + 10
    while make_cache().get_many([KEY]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert make_cache().get_many([KEY]) == {}


def test_clear_makes_a_new_generation_for_everybody_and_flushes_nothing(make_cache, client):
    client.set("foreign", b"entry", noreply=False)
    cache, other = make_cache(), make_cache()
    cache.set_many({KEY: 0.5})
    assert other.get_many([KEY]) == {KEY: 0.5}
    cache.clear()
    assert cache.get_many([KEY]) == {}
    other._memory.clear()
    assert other.get_many([KEY]) == {}
    other.set_many({KEY: 0.25})
    assert cache.get_many([KEY]) == {KEY: 0.25}, "both have gone on to the new generation"
    late = make_cache()
    late.set_many({KEY[::-1]: 0.75})  # writes before it has read anything
    assert cache.get_many([KEY[::-1]]) == {KEY[::-1]: 0.75}
    assert client.get("foreign") == b"entry"
    client.delete(f"{cache.namespace}:generation", noreply=False)
    cache._memory.clear()
    assert cache.get_many([KEY]) == {KEY: 0.5}, "the server lost the generation: right all the same"


@pytest.mark.parametrize("planted", [b"x y", b"\r\nflush_all\r\n", b"", b"0" * 200])
def test_a_planted_generation_is_not_believed(make_cache, client, planted):
    cache = make_cache()
    cache.set_many({KEY: 0.5})
    client.set(f"{cache.namespace}:generation", planted, noreply=False)
    assert make_cache().get_many([KEY]) == {KEY: 0.5}


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_planted_pickle_is_not_run_and_is_a_miss(make_cache, memcached_server, tmp_path):
    marker = tmp_path / "the payload ran"
    cache = make_cache()
    attacker = Client((memcached_server.host, memcached_server.port), serde=PickleSerde())
    attacker.set(name_of(cache, KEY), Payload(marker), noreply=False)
    assert cache.get_many([KEY]) == {}
    assert (cache.info().misses, cache.info().errors) == (1, 0)
    assert not marker.exists()
    attacker.get(name_of(cache, KEY)).close()
    assert marker.exists(), "with pymemcache's own serializer it does run"
    attacker.close()


@pytest.mark.parametrize(
    "planted",
    [b"0.25", b"", b"x" * 100_000, encode(KEY[::-1], 0.5), encode(KEY, float("nan"))],
)
def test_foreign_values_are_misses(make_cache, client, planted):
    cache = make_cache()
    client.set(name_of(cache, KEY), planted, noreply=False)
    assert cache.get_many([KEY]) == {}
    assert (cache.info().misses, cache.info().errors) == (1, 0)


def test_a_server_that_is_absent_comes_into_use_when_it_starts(
    memcached_server, make_cache, new_keys
):
    memcached_server.kill()
    cache = make_cache()
    items = dict.fromkeys(new_keys(50), 0.5)
    with pytest.warns(CacheWarning, match="ConnectionRefusedError"):
        assert cache.get_many(list(items)) == {}
    started = time.monotonic()
    for _ in range(1000):
        assert cache.get_many(list(items)[:1]) == {}
    assert time.monotonic() - started < 1, "nothing waits for it"
    memcached_server.start()
    time.sleep(0.25)
    cache.set_many(items)
    assert make_cache().get_many(list(items)) == items


def test_a_server_killed_and_restarted_in_the_middle(memcached_server, make_cache, new_keys):
    cache = make_cache()
    before, during, after = (dict.fromkeys(new_keys(50), value) for value in (0.1, 0.2, 0.3))
    cache.set_many(before)
    memcached_server.kill()
    with pytest.warns(CacheWarning, match="does not work"):
        cache.set_many(during)
    assert cache.get_many([*before, *during]) == {**before, **during}, "in memory"
    assert cache.get_many(new_keys(5)) == {}
    assert cache.info().errors <= 2
    memcached_server.start()
    time.sleep(0.25)
    cache.set_many(after)
    fresh = make_cache()
    assert fresh.get_many([*before, *during, *after]) == after
    assert cache.info().sets == 100
    assert fresh.info().errors == 0


def test_connections_of_many_threads_to_a_restarted_server(memcached_server, make_cache, new_keys):
    cache = make_cache()
    barrier = threading.Barrier(6)

    def work():
        barrier.wait()
        for _ in range(20):
            cache.get_many(new_keys(20))

    def all_threads():
        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    all_threads()
    memcached_server.restart()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        cache.get_many(new_keys(1))
    errors = cache.info().errors
    assert errors <= 1, "one stale connection fails, the others are dropped with it"
    time.sleep(0.25)
    all_threads()
    assert cache.info().errors == errors


def test_a_stopped_server_costs_its_timeout_and_is_used_again(
    memcached_server, make_cache, new_keys
):
    cache = make_cache(timeout=0.2, connect_timeout=0.2)
    items = dict.fromkeys(new_keys(50), 0.5)
    cache.set_many(items)
    memcached_server.stop()
    cache._memory.clear()
    started = time.monotonic()
    with pytest.warns(CacheWarning, match="TimeoutError|timed out"):
        assert cache.get_many(list(items)) == {}
    failed_after = time.monotonic() - started
    assert failed_after < 5
    started = time.monotonic()
    assert cache.get_many(list(items)) == {}
    cache.set_many(items)
    assert time.monotonic() - started < 0.2, "and is left alone afterwards"
    memcached_server.cont()
    time.sleep(6 * failed_after)
    cache._memory.clear()
    assert cache.get_many(list(items)) == items
    assert cache.info().errors == 1


def test_a_full_server_drops_what_is_oldest(start_memcached, new_keys):
    server = start_memcached("-m", "2")
    keys = new_keys(60_000)
    with MemcachedCache(server.address) as cache, warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        for start in range(0, len(keys), 1000):
            cache.set_many(dict.fromkeys(keys[start : start + 1000], 0.5))
    with MemcachedCache(server.address) as cache:
        kept = cache.get_many(keys)
        assert 5_000 < len(kept) < 50_000
        assert set(kept.values()) == {0.5}
        assert set(keys[-1000:]) <= set(kept)
    server.kill()


def test_a_full_server_that_drops_nothing_is_still_read(start_memcached, new_keys):
    server = start_memcached("-m", "2", "-M")
    keys = new_keys(60_000)
    with MemcachedCache(server.address) as cache:
        cache.retry_after = 0.0
        with pytest.warns(CacheWarning, match="out of memory"):
            cache.set_many(dict.fromkeys(keys, 0.5))
        assert cache.info().sets == 0
        cache.set_many(dict.fromkeys(keys[:1000], 0.5))
        cache._memory.clear()
        assert set(keys[:1000]) <= set(cache.get_many(keys[:1000]))
        assert cache.info().errors in (1, 2)
    server.kill()


def test_one_of_two_servers_dies(memcached_server, start_memcached, new_keys):
    dying = start_memcached()
    servers = [memcached_server.address, dying.address]
    items = dict.fromkeys(new_keys(200), 0.5)
    with MemcachedCache(servers, namespace="two") as cache:
        cache.set_many(items)
        dying.kill()
        cache._memory.clear()
        with pytest.warns(CacheWarning):
            kept = cache.get_many(list(items))
        assert 50 < len(kept) < 150
        cache._memory.clear()
        assert cache.get_many(list(items)) == kept
        assert cache.info().errors == 1


def test_a_forked_child_uses_a_connection_of_its_own(make_cache, new_keys, run_in_fork):
    cache = make_cache()
    items = dict.fromkeys(new_keys(100), 0.5)
    cache.set_many(items)

    def child():
        for _ in range(50):
            cache._memory.clear()
            assert cache.get_many(list(items)) == items

    thread = threading.Thread(target=run_in_fork, args=(child,))
    thread.start()
    for _ in range(50):
        cache._memory.clear()
        assert cache.get_many(list(items)) == items
    thread.join()
    assert cache.info().errors == 0


def test_one_connection_per_process_and_not_one_per_task(make_cache, client, new_keys):
    sent = pickle.dumps(make_cache())
    before = client.stats()[b"total_connections"]
    for _ in range(50):
        pickle.loads(sent).get_many(new_keys(5))
    assert client.stats()[b"total_connections"] == before + 1


@pytest.mark.usefixtures("start_memcached")  # skips where the program is missing
def test_a_unix_socket(tmp_path, new_keys):
    path = tmp_path / "socket"
    user = ["-u", "root"] if os.getuid() == 0 else []
    with subprocess.Popen(["memcached", "-s", str(path), *user]) as server:
        deadline = time.monotonic() + 10
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        items = dict.fromkeys(new_keys(10), 0.5)
        with MemcachedCache(f"unix:{path}") as cache:
            cache.set_many(items)
            cache._memory.clear()
            assert cache.get_many(list(items)) == items
        server.kill()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory, skip_missing_part):
    """A self-signed certificate for 127.0.0.1, and its key."""
    if shutil.which("openssl") is None:
        skip_missing_part("the openssl program is not installed")
    folder = tmp_path_factory.mktemp("certificate")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", folder / "key.pem", "-out", folder / "certificate.pem"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "certificate.pem", folder / "key.pem"


def test_tls(start_memcached, certificate, new_keys):
    chain, key = certificate
    server = start_memcached("-Z", "-o", f"ssl_chain_cert={chain},ssl_key={key}")
    items = dict.fromkeys(new_keys(10), 0.5)
    context = ssl.create_default_context(cafile=chain)
    for tls_context in (context, lambda: context):
        with MemcachedCache(server.address, tls_context=tls_context) as cache:
            cache.set_many(items)
            cache._memory.clear()
            assert cache.get_many(list(items)) == items
    with MemcachedCache(server.address) as cache, pytest.warns(CacheWarning):
        assert cache.get_many(list(items)) == {}
    untrusting = MemcachedCache(server.address, tls_context=ssl.create_default_context)
    with untrusting, pytest.warns(CacheWarning, match="CERTIFICATE_VERIFY_FAILED"):
        assert untrusting.get_many(list(items)) == {}


def test_a_tls_context_that_cannot_be_sent_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match="a function of a module, without parameters"):
        pickle.dumps(MemcachedCache(tls_context=ssl.create_default_context()))
    cache = MemcachedCache(tls_context=ssl.create_default_context)
    assert pickle.loads(pickle.dumps(cache)) is cache


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"servers": ()}, "servers is empty"),
        ({"servers": "host:port"}, "invalid literal"),
        ({"namespace": "with space"}, "printable ASCII"),
        ({"namespace": ""}, "printable ASCII"),
        ({"namespace": "n" * 129}, "printable ASCII"),
        ({"timeout": 0}, "must be positive"),
        ({"connect_timeout": -1}, "must be positive"),
        ({"expire": -1}, "expire must be"),
    ],
)
def test_bad_parameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        MemcachedCache(**arguments)

"""What happens to the disk cache when the world around it breaks: nothing worse than misses."""

import hashlib
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import pytest

from skdvl import caching
from skdvl.caching import CacheWarning, DiskCache
from skdvl.caching.database import DATABASE, FOLDER, aside_of


def numbered(start, stop):
    return {hashlib.md5(b"%d" % number).digest(): number / 7 for number in range(start, stop)}


def write_until_killed(directory, acknowledge):
    cache = DiskCache(directory)
    for block in range(1_000_000):
        cache.set_many(numbered(50 * block, 50 * block + 50))
        assert cache.info().errors == 0
        os.write(acknowledge, b".")


def kill_writers(directory, count, fork):
    for number in range(count):
        reader, writer = os.pipe()
        pid = fork(lambda end=writer: write_until_killed(directory, end))
        acknowledged = 50 * sum(len(os.read(reader, 1)) for _ in range(1 + number % 17))
        time.sleep(0.0007 * (number % 13))  # somewhere in a block
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        os.close(writer)
        os.close(reader)

        expected = numbered(0, acknowledged + 5000)
        started = time.monotonic()
        with DiskCache(directory) as cache:
            found = cache.get_many(list(expected))
            assert time.monotonic() - started < 5
            assert found.items() <= expected.items()
            assert set(numbered(0, acknowledged)) <= set(found), "what was acknowledged is there"
            assert len(found) % 50 == 0, "a block is there as a whole or not at all"
            cache.set_many({b"written later...": 0.5})
            assert cache.info().errors == 0


def test_ten_killed_writers(tmp_path, fork):
    kill_writers(tmp_path, 10, fork)


@pytest.mark.full
def test_a_hundred_killed_writers(tmp_path, fork):
    kill_writers(tmp_path, 100, fork)


def truncate(database):
    os.truncate(database, database.stat().st_size // 3)


def break_the_header(database):
    with open(database, "r+b") as file:
        file.write(b"not a database at all" * 10)


def fill_with_noise(database):
    size = database.stat().st_size
    with open(database, "r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))


def drop_the_tables(database):
    connection = sqlite3.connect(database)
    connection.execute("DROP TABLE Cache")
    connection.execute("CREATE TABLE Cache (something, else_)")
    connection.commit()
    connection.close()


DAMAGES = [truncate, break_the_header, fill_with_noise, drop_the_tables]


def filled(directory, keys):
    items = {key: number / 3 for number, key in enumerate(keys)}
    with DiskCache(directory) as cache:
        cache.set_many(items)
    return items


def never_pause(cache):
    cache._end_of_pause = lambda started: started


def use(cache, items):
    """Do what a computation does, many times over; every value that is returned is right."""
    never_pause(cache)
    for _ in range(3):
        cache._memory.clear()
        for start in range(0, len(items), 500):
            part = dict(list(items.items())[start : start + 500])
            assert cache.get_many(list(part)).items() <= part.items()
            cache.set_many(part)
    cache._memory.clear()
    assert cache.get_many(list(items)) == items, "and then it works again"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_database_damaged_before_it_is_opened(tmp_path, new_keys, damage):
    items = filled(tmp_path, new_keys(3000))
    damage(tmp_path / FOLDER / DATABASE)
    with DiskCache(tmp_path) as cache:
        with pytest.warns(CacheWarning, match="moved to") as caught:
            use(cache, items)
        assert len(caught) == 1
        assert cache.info().errors >= 1
    assert (aside_of(tmp_path) / DATABASE).exists()
    assert caching.inspect(tmp_path).damaged
    caching.clear(tmp_path)
    assert not aside_of(tmp_path).exists()
    assert not caching.inspect(tmp_path).damaged


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_database_damaged_while_it_is_open(tmp_path, new_keys, damage):
    items = filled(tmp_path, new_keys(3000))
    with DiskCache(tmp_path) as cache, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cache.get_many(list(items)[:10])
        damage(tmp_path / FOLDER / DATABASE)
        use(cache, items)
        assert len(caught) == (cache.info().errors > 0)
    with DiskCache(tmp_path) as later, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damage that only shows when it is opened again
        use(later, items)


def test_a_file_of_length_zero_is_a_new_database(tmp_path, new_keys):
    items = filled(tmp_path, new_keys(10))
    os.truncate(tmp_path / FOLDER / DATABASE, 0)
    with DiskCache(tmp_path) as cache:
        assert cache.get_many(list(items)) == {}
        cache.set_many(items)
        assert cache.info().errors == 0


def test_clear_of_a_damaged_database(tmp_path, new_keys):
    filled(tmp_path, new_keys(3000))
    break_the_header(tmp_path / FOLDER / DATABASE)
    assert caching.inspect(tmp_path).damaged
    caching.clear(tmp_path)
    assert caching.inspect(tmp_path) == caching.DirectoryInfo(str(tmp_path), 0, 0, False)


def test_a_database_that_another_process_has_replaced_is_opened_again(tmp_path, new_keys):
    items = filled(tmp_path, new_keys(100))
    with DiskCache(tmp_path) as cache:
        assert cache.get_many(list(items)) == items
        shutil.rmtree(tmp_path / FOLDER)
        more = dict.fromkeys(new_keys(10), 0.5)
        cache.set_many(more)
        assert cache.info().errors == 0
    with DiskCache(tmp_path) as later:
        assert later.get_many(list(more)) == more


def test_only_the_file_in_which_damage_was_seen_is_moved_aside(tmp_path, new_keys):
    items = filled(tmp_path, new_keys(3000))
    store = DiskCache(tmp_path).connect()[0]

    def see_damage():
        with store._opened():
            shutil.rmtree(tmp_path / FOLDER)
            filled(tmp_path, list(items))  # another process has already begun a new one
            raise sqlite3.DatabaseError("database disk image is malformed")

    with pytest.raises(sqlite3.DatabaseError, match="malformed"):
        see_damage()
    assert caching.inspect(tmp_path).entries == 3000
    assert not aside_of(tmp_path).exists()
    store.close()


@pytest.fixture
def locked(tmp_path, new_keys):
    """A directory whose database a foreign writer holds, and what is in it."""
    items = filled(tmp_path, new_keys(100))
    writer = sqlite3.connect(tmp_path / FOLDER / DATABASE, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    yield tmp_path, items, writer
    writer.close()


def test_opening_behind_a_writer_takes_bounded_time(locked):
    directory, items, writer = locked
    with DiskCache(directory, timeout=0.5) as cache:
        started = time.monotonic()
        with pytest.warns(CacheWarning, match="locked"):
            assert cache.get_many(list(items)) == {}
        assert 0.4 < time.monotonic() - started < 5, "diskcache alone waits 60 seconds"
        started = time.monotonic()
        assert cache.get_many(list(items)) == {}
        assert time.monotonic() - started < 0.3, "and is not tried again at once"
        assert cache.info().errors == 1
        writer.execute("ROLLBACK")
        cache._guards[0].no_read_before = 0.0  # as if the pause were over
        assert cache.get_many(list(items)) == items


def test_writing_behind_a_writer_takes_bounded_time_and_reading_goes_on(tmp_path, new_keys):
    items = filled(tmp_path, new_keys(100))
    with DiskCache(tmp_path, timeout=0.3) as cache:
        assert cache.get_many(list(items)[:1])
        writer = sqlite3.connect(tmp_path / FOLDER / DATABASE, isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.warns(CacheWarning, match="Timeout"):
            cache.set_many(dict.fromkeys(new_keys(10), 0.5))
        assert time.monotonic() - started < 5
        assert cache.get_many(list(items)) == items
        assert (cache.info().errors, cache.info().sets) == (1, 0)
        writer.close()


def test_a_directory_below_a_file(tmp_path, new_keys):
    (tmp_path / "file").write_text("")
    with DiskCache(tmp_path / "file" / "directory") as cache:
        items = dict.fromkeys(new_keys(10), 0.5)
        with pytest.warns(CacheWarning, match="NotADirectoryError"):
            cache.set_many(items)
        assert cache.get_many(list(items)) == items, "in memory"
        assert cache.get_many(new_keys(10)) == {}
        assert cache.info().errors == 2


@pytest.mark.parametrize("readable", [True, False])
def test_a_directory_without_permission(new_keys, run_in_fork, readable):
    keys = new_keys(10)

    def compute(cache):
        for _ in range(5):
            assert cache.get_many(keys) == {}
            cache.set_many(dict.fromkeys(keys, 0.5))
            assert cache.get_many(keys) == dict.fromkeys(keys, 0.5), "in memory"
            cache._memory.clear()

    def child():
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        cache = DiskCache(directory)
        never_pause(cache)
        with pytest.warns(CacheWarning) as caught:
            compute(cache)
        assert len(caught) == 1
        assert cache.info().errors == 10

    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        directory = Path(parent, "cache")
        filled(directory, keys)
        for path in [*directory.rglob("*"), directory]:
            rights = 0o555 if path.is_dir() else 0o444
            path.chmod(rights if readable else 0)
        try:
            run_in_fork(child)
        finally:
            for path in [directory, *directory.rglob("*")]:
                path.chmod(0o700)
        assert not aside_of(directory).exists(), "it is not damaged"


def store_and_use(cache, blocks):
    for block in blocks:
        cache.set_many(block)
        assert cache.get_many(list(block)) == block, "in memory"


def fill_up(directory):
    cache = DiskCache(directory)
    never_pause(cache)
    blocks = [{os.urandom(20): number / 3 for number in range(500)} for _ in range(60)]
    with pytest.warns(CacheWarning) as caught:
        store_and_use(cache, blocks)
    assert len(caught) == 1
    assert cache.info().errors > 1
    assert cache.info().sets > 1000
    kept = 0
    cache._memory.clear()
    for block in blocks:
        found = cache.get_many(list(block))
        assert found.items() <= block.items()
        kept += len(found)
    assert kept == cache.info().sets, "what was stored before is still read"
    cache.close()


def test_a_quota(tmp_path, run_in_fork):
    def child():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
        fill_up(tmp_path)

    run_in_fork(child)


def test_a_full_disk(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting is not permitted here; the quota test above takes the same path")
    try:
        fill_up(tmp_path)
        # Opening a database writes, so a later process can do nothing but go on without.
        with DiskCache(tmp_path) as cache, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cache.get_many([b"0123456789abcdef"])
            cache.set_many({b"0123456789abcdef": 0.5})
            assert not aside_of(tmp_path).exists()
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)

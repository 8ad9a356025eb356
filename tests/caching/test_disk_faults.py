"""What happens to the disk cache when the world around it breaks: nothing worse than misses."""

import os
import shutil
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

# One interpreter forks all the writers: starting one for each would take most of the time.
KILLS = """if True:
    import hashlib, os, signal, sys, time
    from skdvl.caching import DiskCache

    directory = sys.argv[1]

    def items(start, stop):
        return {hashlib.md5(b"%d" % n).digest(): n / 7 for n in range(start, stop)}

    def write_for_ever(acknowledge):
        cache = DiskCache(directory)
        for block in range(1_000_000):
            cache.set_many(items(50 * block, 50 * block + 50))
            assert cache.info().errors == 0
            os.write(acknowledge, b".")

    for number in range(int(sys.argv[2])):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            write_for_ever(writer)
        acknowledged = 50 * sum(len(os.read(reader, 1)) for _ in range(1 + number % 17))
        time.sleep(0.0007 * (number % 13))  # somewhere in a block
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        os.close(writer), os.close(reader)

        expected = items(0, acknowledged + 5000)
        started = time.monotonic()
        with DiskCache(directory) as cache:
            found = cache.get_many(list(expected))
            assert time.monotonic() - started < 5
            assert all(expected[key] == value for key, value in found.items())
            assert set(items(0, acknowledged)) <= set(found), "what was acknowledged is there"
            assert len(found) % 50 == 0, "a block is there as a whole or not at all"
            cache.set_many({b"written later...": 0.5})
            assert cache.info().errors == 0
    print(number + 1)
"""


def test_ten_killed_writers(tmp_path, run_python):
    printed, _ = run_python(KILLS, tmp_path, 10)
    assert printed.strip() == "10"


@pytest.mark.full
def test_a_hundred_killed_writers(tmp_path, run_python):
    printed, _ = run_python(KILLS, tmp_path, 100)
    assert printed.strip() == "100"


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
        cache.retry_after = 0.0
        started = time.monotonic()
        with pytest.warns(CacheWarning, match="locked"):
            assert cache.get_many(list(items)) == {}
        elapsed = time.monotonic() - started
        assert 0.4 < elapsed < 5, "diskcache alone waits 60 seconds"
        started = time.monotonic()
        assert cache.get_many(list(items)) == {}
        assert time.monotonic() - started < 0.3, "and is not tried again at once"
        assert cache.info().errors == 1
        writer.execute("ROLLBACK")
        time.sleep(6 * elapsed)
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
def test_a_directory_without_permission(new_keys, run_python, as_somebody_else, readable):
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        directory = Path(parent, "cache")
        filled(directory, new_keys(10))
        for path in [*directory.rglob("*"), directory]:
            rights = 0o555 if path.is_dir() else 0o444
            path.chmod(rights if readable else 0)
        script = """if True:
            import sys
            from skdvl.caching import DiskCache
            cache = DiskCache(sys.argv[1])
            exec(sys.argv[2])
            keys = [bytes([i]) * 16 for i in range(10)]
            cache._end_of_pause = lambda started: started
            for _ in range(5):
                assert cache.get_many(keys) == {}
                cache._memory.clear()
                cache.set_many(dict.fromkeys(keys, 0.5))
                assert cache.get_many(keys) == dict.fromkeys(keys, 0.5)
                cache._memory.clear()
            print(cache.info().errors)
        """
        printed, complaints = run_python(script, directory, as_somebody_else)
        for path in [directory, *directory.rglob("*")]:
            path.chmod(0o700)
        assert int(printed) == 10
        assert complaints.count("CacheWarning:") == 1
        assert not aside_of(directory).exists(), "it is not damaged"


FILL = """if True:
    import os, resource, sys
    from skdvl.caching import DiskCache
    if sys.argv[2] == "file size":
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
    cache = DiskCache(sys.argv[1])
    cache._end_of_pause = lambda started: started
    blocks = [{os.urandom(20): i / 3 for i in range(500)} for _ in range(60)]
    for block in blocks:
        cache.set_many(block)
        assert cache.get_many(list(block)) == block, "in memory"
    assert cache.info().errors > 0
    assert cache.info().sets > 1000
    kept = 0
    cache._memory.clear()
    for block in blocks:
        found = cache.get_many(list(block))
        assert found.items() <= block.items()
        kept += len(found)
    assert kept >= cache.info().sets, (kept, cache.info())
    print(kept)
"""


def check_full(run_python, directory, limit):
    printed, complaints = run_python(FILL, directory, limit)
    assert int(printed) > 1000
    assert complaints.count("CacheWarning:") == 1


def test_a_quota(tmp_path, run_python):
    check_full(run_python, tmp_path, "file size")


def test_a_full_disk(tmp_path, run_python):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting is not permitted here; the quota test above takes the same path")
    try:
        check_full(run_python, tmp_path, "file system")
        # Opening a database writes, so a later process can do nothing but go on without.
        with DiskCache(tmp_path) as cache, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cache.get_many([b"0123456789abcdef"])
            cache.set_many({b"0123456789abcdef": 0.5})
            assert not aside_of(tmp_path).exists()
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)

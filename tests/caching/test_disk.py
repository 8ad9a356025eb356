import os
import pickle
import sqlite3
import stat
import time
from pathlib import Path

import diskcache
import pytest

from skdvl import caching
from skdvl.caching import CacheWarning, DiskCache
from skdvl.caching.codec import encode
from skdvl.caching.database import DATABASE, FOLDER, aside_of, database_class
from skdvl.caching.disk import default_directory

KEY = b"0123456789abcdef"


def database_of(directory):
    return Path(directory) / FOLDER / DATABASE


def test_a_later_process_finds_what_an_earlier_one_stored(tmp_path, run_python):
    store = "cache.set_many({bytes([i]) * 20: i / 3 for i in range(100)})"
    load = "assert cache.get_many(keys) == {bytes([i]) * 20: i / 3 for i in range(100)}"
    script = (
        "import sys; from skdvl.caching import DiskCache; cache = DiskCache(sys.argv[1])\n"
        "keys = [bytes([i]) * 20 for i in range(100)]\n"
    )
    run_python(script + store, tmp_path)
    printed = run_python(script + load + "; print(cache.info().misses)", tmp_path)
    assert printed.strip() == "0"


def test_the_folder_is_private(tmp_path):
    with DiskCache(tmp_path / "new" / "deep") as cache:
        cache.set_many({KEY: 0.5})
    assert stat.S_IMODE((tmp_path / "new" / "deep").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "new" / "deep" / FOLDER).stat().st_mode) == 0o700


def test_nothing_is_touched_before_the_first_use(tmp_path):
    DiskCache(tmp_path / "new").close()
    assert not (tmp_path / "new").exists()


def test_clear_leaves_everything_else_alone(tmp_path, new_keys):
    (tmp_path / "thesis.txt").write_text("the only copy")
    with diskcache.Cache(str(tmp_path)) as foreign:
        foreign["foreign"] = "entry"
    items = dict.fromkeys(new_keys(300), 0.5)
    with DiskCache(tmp_path) as cache, DiskCache(tmp_path) as other:
        cache.set_many(items)
        assert len(other.get_many(list(items)[:200])) == 200
        caching.clear(tmp_path)
        other_keys = list(items)[200:]
        assert other.get_many(other_keys) == {}, "another open cache goes on, empty"
        other.set_many({KEY: 0.5})
        cache.clear()
        assert cache.get_many(list(items)) == {}
        assert cache.info().errors == other.info().errors == 0
    assert caching.inspect(tmp_path).entries == 0
    assert (tmp_path / "thesis.txt").read_text() == "the only copy"
    with diskcache.Cache(str(tmp_path)) as foreign:
        assert foreign["foreign"] == "entry"


def test_clear_of_a_directory_that_does_not_exist(tmp_path):
    caching.clear(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_inspect_counts_and_changes_nothing(tmp_path, new_keys):
    assert caching.inspect(tmp_path) == caching.DirectoryInfo(str(tmp_path), 0, 0, False)
    assert not list(tmp_path.iterdir())
    with DiskCache(tmp_path) as cache:
        cache.set_many(dict.fromkeys(new_keys(1000), 0.5))
        info = caching.inspect(tmp_path)  # while it is open
        assert (info.entries, info.damaged) == (1000, False)
        assert info.bytes > 1000 * 50
    assert caching.inspect(tmp_path).entries == 1000


def test_the_default_directory(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("SKDVL_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_directory() == tmp_path / ".cache" / "skdvl"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_directory() == tmp_path / "xdg" / "skdvl"
    monkeypatch.setenv("SKDVL_CACHE_DIR", "~/chosen")
    assert default_directory() == tmp_path / "chosen"
    assert DiskCache().directory == str(tmp_path / "chosen")
    monkeypatch.delenv("SKDVL_CACHE_DIR")
    monkeypatch.setattr("sys.platform", "darwin")
    assert default_directory() == tmp_path / "Library" / "Caches" / "skdvl"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert default_directory() == tmp_path / "local" / "skdvl" / "Cache"


def test_a_relative_directory_is_that_of_the_construction(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = DiskCache("here")
    monkeypatch.chdir("/")
    with cache:
        cache.set_many({KEY: 0.5})
    assert caching.inspect(tmp_path / "here").entries == 1


@pytest.mark.parametrize("arguments", [{"size_limit": 0}, {"timeout": 0}])
def test_bad_parameters(tmp_path, arguments):
    with pytest.raises(ValueError, match="must be positive"):
        DiskCache(tmp_path, **arguments)


@pytest.mark.parametrize("block", [100, 1000, 6000])
def test_the_size_limit_drops_the_oldest_and_never_the_newest(tmp_path, block):
    limit = 2**20
    keys = [number.to_bytes(16, "big") for number in range(24_000)]
    with DiskCache(tmp_path, size_limit=limit) as cache:
        for start in range(0, len(keys), block):
            cache.set_many(dict.fromkeys(keys[start : start + block], 1.0))
        assert cache.info().errors == 0
    with DiskCache(tmp_path) as cache:
        present = cache.get_many(keys)
    kept = [key in present for key in keys]
    first = kept.index(True)
    assert all(kept[first:]), "what is dropped is older than what is kept"
    assert len(keys) - first >= max(block, 3000), "and not more than needed"
    assert database_of(tmp_path).stat().st_size < limit + 200 * block


def test_reads_come_from_memory_the_second_time(tmp_path):
    with DiskCache(tmp_path) as cache, DiskCache(tmp_path) as reader:
        cache.set_many({KEY: 0.5})
        assert reader.get_many([KEY]) == {KEY: 0.5}
        traffic = reader.info().bytes
        assert traffic > 0
        assert reader.get_many([KEY]) == {KEY: 0.5}
        assert reader.info().bytes == traffic
        assert reader.info().hits == 2


class Payload:
    """Makes a directory when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def plant(directory, row):
    with sqlite3.connect(database_of(directory)) as connection:
        names = ("key", "raw", "store_time", "size", "mode", "filename", "value")
        values = {"raw": 1, "store_time": time.time(), "size": 0, "filename": None, **row}
        connection.execute("DELETE FROM Cache")
        connection.execute(
            f"INSERT INTO Cache ({', '.join(names)}) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [values[name] for name in names],
        )
    connection.close()


@pytest.fixture
def planted_rows(tmp_path):
    marker = tmp_path / "the payload ran"
    payload = pickle.dumps(Payload(marker))
    with DiskCache(tmp_path) as cache:
        cache.set_many({KEY: 0.5})
    (tmp_path / FOLDER / "payload.val").write_bytes(payload)
    rows = [
        {"key": KEY, "mode": 4, "value": payload},
        {"key": KEY, "mode": 1, "value": payload},
        {"key": KEY, "mode": 4, "filename": "payload.val", "value": None},
        {"key": KEY, "mode": 2, "filename": "payload.val", "value": None},
        {"key": KEY, "mode": 4, "value": encode(KEY, 0.5)},
        {"key": KEY, "mode": 1, "value": 0.5},
        {"key": KEY, "mode": 1, "value": "thirteen char"},
        {"key": KEY, "mode": None, "value": None},
        {"key": payload, "raw": 0, "mode": 1, "value": encode(KEY, 0.5)},
    ]
    return rows, marker


def test_a_planted_pickle_is_not_run_and_is_a_miss(tmp_path, planted_rows):
    rows, marker = planted_rows
    for row in rows:
        plant(tmp_path, row)
        with DiskCache(tmp_path) as cache:
            assert cache.get_many([KEY]) == {}, row
            assert (cache.info().misses, cache.info().errors) == (1, 0)
            cache.set_many({KEY: 0.25})
        with DiskCache(tmp_path) as cache:
            assert cache.get_many([KEY]) == {KEY: 0.25}
            cache.clear()
    assert (tmp_path / FOLDER / "payload.val").exists(), "nor is the file it names deleted"
    assert not marker.exists()


def test_the_planted_pickle_would_run_in_plain_diskcache(tmp_path, planted_rows):
    rows, marker = planted_rows
    plant(tmp_path, rows[0])
    with diskcache.Cache(str(tmp_path / FOLDER), disk=diskcache.JSONDisk) as unsafe:
        stored_key = sqlite3.connect(database_of(tmp_path))
        stored_key.execute("UPDATE Cache SET key = ?", (unsafe.disk.put(KEY.hex())[0],))
        stored_key.commit()
        stored_key.close()
        with pytest.raises(TypeError):  # the marker has been made; what is returned is no JSON
            unsafe.get(KEY.hex())
    assert marker.exists()


def test_the_database_refuses_all_but_bytes(tmp_path):
    database = database_class()(str(tmp_path), 5.0)
    for key, value in [("text", encode(KEY, 0.5)), (KEY, "text"), (KEY, b"short"), (KEY, 0.5)]:
        with pytest.raises(TypeError):
            database.set(key, value)
    with pytest.raises(TypeError):
        database.get(("a", "tuple"))
    assert len(database) == 0
    database.close()


def test_a_wrong_key_is_no_reason_to_throw_the_database_away(tmp_path):
    with DiskCache(tmp_path) as cache:
        cache.set_many({KEY: 0.5})
        with pytest.warns(CacheWarning, match="keys are bytes"):
            cache.get_many(["text"])
    assert caching.inspect(tmp_path).entries == 1
    assert not aside_of(tmp_path).exists()


def test_a_forked_child_uses_a_connection_of_its_own(tmp_path, new_keys, run_in_fork):
    items = dict.fromkeys(new_keys(100), 0.25)
    more = dict.fromkeys(new_keys(100), 0.75)
    with DiskCache(tmp_path) as cache:
        cache.set_many(items)

        def child():
            cache._memory.clear()
            assert cache.get_many(list(items)) == items
            cache.set_many(more)
            cache.close()

        run_in_fork(child)
        assert cache.get_many(list(more)) == more
        cache._memory.clear()
        assert cache.get_many(list(items)) == items
        assert cache.info().errors == 0

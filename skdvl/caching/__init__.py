"""Caches of utilities: bytes in, floats out. They know nothing of coalitions."""

from skdvl.caching.base import Cache, CacheInfo, CacheWarning, check_cache
from skdvl.caching.disk import DirectoryInfo, DiskCache, clear, inspect
from skdvl.caching.external import ExternalCache, Store
from skdvl.caching.memcached import MemcachedCache
from skdvl.caching.memory import MemoryCache

__all__ = [
    "Cache",
    "CacheInfo",
    "CacheWarning",
    "DirectoryInfo",
    "DiskCache",
    "ExternalCache",
    "MemcachedCache",
    "MemoryCache",
    "Store",
    "check_cache",
    "clear",
    "inspect",
]

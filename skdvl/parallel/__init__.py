"""Run work on any joblib backend, on Ray and on executors."""

from skdvl.parallel.backend import ExecutorBackend
from skdvl.parallel.failures import WorkerLostError
from skdvl.parallel.map_reduce import map_reduce
from skdvl.parallel.ray_executor import RayExecutor
from skdvl.parallel.runner import TaskRunner
from skdvl.parallel.threads import single_threaded

__all__ = [
    "ExecutorBackend",
    "RayExecutor",
    "TaskRunner",
    "WorkerLostError",
    "map_reduce",
    "single_threaded",
]

"""Run work on any joblib backend, on Ray and on executors."""

from skdvl.parallel.failures import WorkerLostError
from skdvl.parallel.runner import TaskRunner
from skdvl.parallel.threads import single_threaded

__all__ = ["TaskRunner", "WorkerLostError", "single_threaded"]

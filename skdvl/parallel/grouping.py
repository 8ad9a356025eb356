"""How many payloads travel in one task: by the clock, and never seen in a result."""

_TASK_SECONDS = 0.25  # of work that a task should take, where there is enough of it
_OVERHEAD_SHARE = 0.05  # of a task's work that sending it may cost
_MOST = 1000  # payloads that a dying worker can take with it


class Grouping:
    """Measures payloads and says how many of them make a task.

    Parameters
    ----------
    overhead : float
        Seconds that a task costs beside its work.
    n_workers : int
        How many tasks run at once.
    """

    def __init__(self, overhead: float, n_workers: int) -> None:
        self._least_seconds = overhead / _OVERHEAD_SHARE
        # all tasks leave from one process: it must not be busy with sending more than half its time
        self._most_seconds = max(_TASK_SECONDS, 2 * overhead * n_workers)
        self._n_workers = n_workers
        self.seconds: float | None = None  # for one payload, lately

    def measure(self, n_payloads: int, seconds: float) -> None:
        """Take note of how long a task took."""
        each = seconds / n_payloads
        self.seconds = each if self.seconds is None else 0.7 * self.seconds + 0.3 * each

    def size(self, n_waiting: int) -> int:
        """Return how many payloads the next task gets.

        One until a first task was measured. Tasks shrink towards the end of a round, so that the
        workers finish together, but not below what makes sending them worth while.
        """
        if self.seconds is None:
            return 1
        each = max(self.seconds, 1e-9)
        fair = n_waiting / (3 * self._n_workers)
        n_payloads = min(fair, self._most_seconds / each)
        n_payloads = max(n_payloads, self._least_seconds / each, 1)
        return int(min(n_payloads, _MOST, n_waiting))

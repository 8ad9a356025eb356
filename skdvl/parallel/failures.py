"""What comes back from a worker where no result does."""

import pickle
import traceback
from concurrent.futures import BrokenExecutor

from skdvl.parallel.pickling import cloudpickle


class WorkerLostError(BrokenExecutor):
    """A worker died, again and again, on one piece of work.

    A ``concurrent.futures.BrokenExecutor``. The message names the piece of work and what killed
    the worker; the cause is the last error of the backend, where it gave one.
    """

    n_attempts: int | None = 1  # how often the backend tried; None: it has nothing left to try with


class Failure:
    """An exception raised by a task, on its way from the worker to the caller.

    It travels as a value: a ``SystemExit`` would end some workers, and an exception that does not
    unpickle breaks loky and a process pool as a whole and is then taken for a dead worker.
    """

    def __init__(self, exception: BaseException, text: str | None) -> None:
        self.exception = exception
        self.text = text

    @classmethod
    def here(cls, exception: BaseException) -> "Failure":
        """Keep an exception that stays in this process, with its traceback."""
        return cls(exception, None)

    @classmethod
    def portable(cls, exception: BaseException) -> "Failure":
        """Keep an exception that goes to another process; a RuntimeError where it cannot."""
        text = "".join(
            traceback.format_exception(type(exception), exception, exception.__traceback__)
        )
        try:
            pickle.loads(cloudpickle.dumps(exception))
        except Exception as error:
            exception = RuntimeError(
                f"a task raised {type(exception).__qualname__}, which does not survive pickling "
                f"({type(error).__name__}: {error}); its traceback on the worker:\n{text}"
            )
        # the frames stay behind: they would pin the data of the worker
        return cls(exception.with_traceback(None), text)

    def to_exception(self) -> BaseException:
        """Return the exception, with the worker's traceback as its cause."""
        if self.text is not None:
            # private, but what people and debuggers know from ProcessPoolExecutor
            from concurrent.futures.process import _RemoteTraceback

            # the stubs take its text for a traceback
            self.exception.__cause__ = _RemoteTraceback(f'\n"""\n{self.text}"""')  # type: ignore[arg-type]
        return self.exception


class Lost:
    """The payloads of a task whose worker died, by number.

    Parameters
    ----------
    numbers : list of int
        The payloads.
    error : BaseException
        What the backend said.
    n_attempts : int or None
        How often the backend itself had tried; None: there is nothing left to try with.
    is_certain : bool
        Whether these payloads ran on the worker that died; else they may be bystanders.
    """

    def __init__(
        self, numbers: list[int], error: BaseException, n_attempts: int | None, *, is_certain: bool
    ) -> None:
        self.numbers = numbers
        self.error = error
        self.n_attempts = n_attempts
        self.is_certain = is_certain


class Unsent:
    """The payloads of a task that joblib had in its hands when a worker died, by number.

    joblib takes as many tasks in advance as there are workers.
    """

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers

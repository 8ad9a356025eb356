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


class RemoteTraceback(Exception):
    """Carries the text of a worker's traceback, as the cause of the exception raised here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


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

    def throw(self) -> None:
        """Raise the exception, with the worker's traceback as its cause."""
        if self.text is None:
            raise self.exception
        raise self.exception from RemoteTraceback(self.text)

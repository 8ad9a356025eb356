"""Map a function over inputs in parallel, then reduce."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from skdvl.parallel.runner import TaskRunner

T = TypeVar("T")
R = TypeVar("R")


def map_reduce(
    map_func: Callable[[T], Any],
    inputs: Iterable[T],
    reduce_func: Callable[[list], R] = list,  # type: ignore[assignment]  # list makes a list
    *,
    n_jobs: int | None = None,
) -> R:
    """Apply a function to each input, on the joblib backend in force, and reduce the results.

    Parameters
    ----------
    map_func : callable
        Applied to each input by itself, so that nothing depends on the number of cores. Lambdas
        and closures will do; what they hold reaches each worker once.
    inputs : iterable
        The inputs.
    reduce_func : callable, default=list
        Applied once, to the list of all results in the order of the inputs.
    n_jobs : int or None, default=None
        None follows ``joblib.parallel_config``.

    Returns
    -------
    object
        ``reduce_func([map_func(x) for x in inputs])``.

    Examples
    --------
    >>> from skdvl.parallel import map_reduce
    >>> map_reduce(lambda x: x + 1, [0, 1, 2], n_jobs=2)
    [1, 2, 3]
    >>> map_reduce(lambda x: x**2, range(10), reduce_func=sum)
    285
    """
    with TaskRunner(_apply, map_func, n_jobs=n_jobs) as runner:
        return reduce_func(list(runner.run(list(inputs))))


def _apply(function: Callable, value: Any) -> Any:
    return function(value)

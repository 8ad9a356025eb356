"""Refitting `LinearDiscriminantAnalysis` with automatic shrinkage at a fraction of the cost.

The shrinkage of a class of two rows is a rounding error. Where no class has more, the covariance
is singular but for that error, and which directions the model takes into account hangs on its
bits. No other way of computing it gives the same bits, so here are scikit-learn's operations on
numbers themselves, in its order and on arrays of its layout. They take a tenth of the time of a
fit, most of which is spent on looking at its input at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from scipy import linalg
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from skdvl.utilities.fold import take_rows
from skdvl.utilities.refit import RefitUtility

__all__ = ["ShrunkDiscriminantRefit", "fit_shrunk"]

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]

_EPS = np.finfo(np.float64).eps


class ShrunkDiscriminantRefit(RefitUtility):
    """Refitting with the solver "lsqr" or "eigen", ``shrinkage="auto"`` and no priors given.

    The coefficients have the bits of scikit-learn's. Where they would not, by a check that is
    made once in every process, and on sets that scikit-learn refuses, it is asked itself.
    """

    def _refit(self, rows: NDArray[np.intp]) -> float:
        model = self._fit_alike(rows)
        return super()._refit(rows) if model is None else self.judge.judge_model(model)

    def _fit_alike(self, rows: NDArray[np.intp]) -> Any:
        solver = self.estimator.solver
        if self.estimator.priors is not None or not _gives_the_same_bits(solver, *_settings()):
            return None
        X = np.asarray(take_rows(self.fold.X, rows), dtype=np.float64)
        classes, codes = np.unique(self.fold.codes[rows], return_inverse=True)
        if len(classes) == len(rows):
            return None
        try:
            coef, intercept = fit_shrunk(X, codes.reshape(-1), solver)
        except linalg.LinAlgError:
            raise
        except ValueError:  # numbers are too large
            return None
        model = LinearDiscriminantAnalysis()
        assert self.fold.classes is not None
        model.classes_, model.n_features_in_ = self.fold.classes[classes], X.shape[1]
        model.coef_, model.intercept_ = coef, intercept
        return model


def fit_shrunk(X: Floats, codes: Codes, solver: str) -> tuple[Floats, Floats]:
    """Return what a model's ``coef_`` and ``intercept_`` are.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features)
        More rows than classes. Of 1000 columns and more, scikit-learn sums block by block.
    codes : ndarray of int, shape (n_rows,)
        Classes, from 0 on without a gap.
    solver : {"lsqr", "eigen"}

    Raises
    ------
    scipy.linalg.LinAlgError
        Where scikit-learn's own fit ends with the same error.
    ValueError
        Where numbers overflow.
    """
    counts = np.bincount(codes)
    priors = counts / float(len(codes))
    means = np.zeros((len(counts), X.shape[1]))
    np.add.at(means, codes, X)
    means /= counts[:, np.newaxis]
    within = np.zeros((X.shape[1], X.shape[1]))
    for code, prior in enumerate(priors):
        within += prior * _shrunk_covariance(X[codes == code, :])
    if solver == "lsqr":
        coef = linalg.lstsq(within, means.T)[0].T
    else:
        between = _shrunk_covariance(X) - within
        lengths, directions = linalg.eigh(between, within)
        directions = directions[:, np.argsort(lengths)[::-1]]
        coef = np.dot(means, directions).dot(directions.T)
    intercept = -0.5 * np.diag(np.dot(means, coef.T)) + np.log(priors)
    if len(counts) == 2:
        return (coef[1] - coef[0]).reshape(1, -1), (intercept[1] - intercept[0]).reshape(1)
    return coef, intercept


def _shrunk_covariance(X: Floats) -> Floats:
    """Return Ledoit's and Wolf's estimate for standardised columns, in the columns' own scales."""
    n, d = X.shape
    mean = X.sum(axis=0) / n
    moved = X - mean
    drift = moved.sum(axis=0)
    variance = ((moved**2).sum(axis=0) - drift**2 / n) / n
    scale = np.sqrt(variance)
    scale[variance <= n * _EPS * variance + (n * mean * _EPS) ** 2] = 1.0
    Z = moved / scale
    Z = Z - Z.mean(axis=0)
    if d == 1:
        shrunk = np.atleast_2d((Z**2).mean())
    else:
        products = np.dot(Z.T, Z)
        shrinkage = _ledoit_wolf(Z**2, products)
        covariance = products / n
        shrunk = (1.0 - shrinkage) * covariance
        shrunk.flat[:: d + 1] += shrinkage * (np.trace(covariance) / d)
    return np.asarray(scale[:, np.newaxis] * shrunk * scale)


def _ledoit_wolf(squares: Floats, products: Floats) -> float:
    """Return the shrinkage, given the squares of centred rows and the sums of their products."""
    n, d = squares.shape
    variances = squares.sum(axis=0) / n
    mean_variance = variances.sum() / d
    of_products = (products**2).sum() / n**2
    of_squares = np.dot(squares.T, squares).sum()
    beta = 1.0 / (d * n) * (of_squares / n - of_products)
    delta = of_products - 2.0 * mean_variance * variances.sum() + d * mean_variance**2
    delta /= d
    beta = min(beta, delta)
    return 0.0 if beta == 0 else float(beta / delta)


# --- whether the installed scikit-learn does the same ----------------------------------------


def _settings() -> tuple[Any, ...]:
    """Return what makes scikit-learn take other paths, on arrays of other layouts."""
    config = sklearn.get_config()
    return config["transform_output"], config["array_api_dispatch"]


@cache
def _gives_the_same_bits(solver: str, *settings: Any) -> bool:
    """Compare with scikit-learn under its present settings."""
    rng = np.random.default_rng(0)
    for d, counts in ((30, (1, 2)), (30, (2, 2)), (7, (2,)), (5, (2, 1, 2)), (5, (9, 12))):
        codes = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        X = rng.normal(size=(len(codes), d)) * np.exp(rng.normal(0, 3, d)) + 1
        X[:, 0] = 3.0
        if _bits(fit_shrunk, X, codes, solver) != _bits(_fit, X, codes, solver):
            return False
    return True


def _fit(X: Floats, codes: Codes, solver: str) -> tuple[Floats, Floats]:
    model = LinearDiscriminantAnalysis(solver=solver, shrinkage="auto").fit(X, codes)
    return model.coef_, model.intercept_


def _bits(
    fit: Callable[[Floats, Codes, str], tuple[Floats, Floats]], X: Floats, codes: Codes, solver: str
) -> list[bytes] | str:
    try:
        return [part.tobytes() for part in fit(X, codes, solver)]
    except Exception as error:
        return f"{type(error).__name__}: {error}"

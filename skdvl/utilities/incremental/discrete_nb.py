"""MultinomialNB, BernoulliNB, ComplementNB and CategoricalNB from counts."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.naive_bayes import BernoulliNB, CategoricalNB, ComplementNB, MultinomialNB

from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental.base import Errors
from skdvl.utilities.incremental.naive_bayes import NaiveBayesUtility
from skdvl.utilities.supervised import FallbackRule

__all__ = [
    "BernoulliNBUtility",
    "CategoricalNBUtility",
    "ComplementNBUtility",
    "MultinomialNBUtility",
]

Floats = NDArray[np.float64]

_LEAST_ALPHA = 1e-10  # scikit-learn's, unless alpha is forced
_LEAST_SHARE = 1e-6
_TABLE_BYTES = 2**26


class _DiscreteNBUtility(NaiveBayesUtility):
    """Base of the four: logarithms of each class's smoothed counts."""

    is_separable = True

    def __init__(self, estimator: Any, fold: Fold, judge: Judge, fallback: FallbackRule) -> None:
        super().__init__(estimator, fold, judge, fallback)
        alpha = np.asarray(estimator.alpha, dtype=np.float64)
        if alpha.min() < _LEAST_ALPHA and not estimator.force_alpha:
            alpha = np.maximum(alpha, _LEAST_ALPHA)
        self.alpha = alpha

    def _row_statistics(self, k: int) -> Floats:
        return self.X[self.members[k]]

    def _features(self, X: Floats) -> Floats:
        return np.concatenate([X, np.ones((len(X), 1))], axis=1)

    def _digest(self, k: int, count: Floats, sums: Floats) -> Floats:
        """Return weights, constant, and whether they are not finite; then zeros stand for them."""
        weights, constant = self._weights(count, sums)
        return _checked(weights, constant, count)

    def _weights(self, count: Floats, sums: Floats) -> tuple[Floats, Floats | float]:
        """Return a class's weights of the features, and its constant without the prior."""
        raise NotImplementedError

    def _additions(self, counts: Floats, rests: list[Floats]) -> tuple[Floats, NDArray[np.bool_]]:
        return self._log_priors(counts), np.any([rest[:, 0] > 0 for rest in rests], axis=0)


class MultinomialNBUtility(_DiscreteNBUtility):
    """Exact utilities of `sklearn.naive_bayes.MultinomialNB`."""

    engine: ClassVar[str] = "multinomial naive Bayes"
    serves = ("MultinomialNB",)

    @classmethod
    def why_not(cls, estimator: Any, fold: Fold, judge: Judge) -> str | None:
        """Add to the base's conditions: what `_why_not_counts` says."""
        return super().why_not(estimator, fold, judge) or _why_not_counts(estimator, fold)

    @classmethod
    def examples(cls) -> list[Any]:
        """Return estimators that show every variant of the parameters that is served."""
        return [
            MultinomialNB(),
            MultinomialNB(alpha=0.0, fit_prior=False),
            MultinomialNB(alpha=1e-12, force_alpha=False, class_prior=[0.5, 0.2, 0.3]),
            MultinomialNB(alpha=[1, 2, 0.5, 1, 1, 3]),
        ]

    def _weights(self, count: Floats, sums: Floats) -> tuple[Floats, Floats | float]:
        smoothed = sums + self.alpha
        return np.log(smoothed) - np.log(smoothed.sum(axis=-1, keepdims=True)), 0.0


class ComplementNBUtility(_DiscreteNBUtility):
    """Exact utilities of `sklearn.naive_bayes.ComplementNB`."""

    engine: ClassVar[str] = "complement naive Bayes"
    serves = ("ComplementNB",)
    is_separable = False

    def __init__(self, estimator: Any, fold: Fold, judge: Judge, fallback: FallbackRule) -> None:
        super().__init__(estimator, fold, judge, fallback)
        self.is_whole = bool((np.rint(self.X) == self.X).all())

    @classmethod
    def why_not(cls, estimator: Any, fold: Fold, judge: Judge) -> str | None:
        """Add to the base's conditions: what `_why_not_counts` says."""
        return super().why_not(estimator, fold, judge) or _why_not_counts(estimator, fold)

    @classmethod
    def examples(cls) -> list[Any]:
        """Return estimators that show every variant of the parameters that is served."""
        return [
            ComplementNB(),
            ComplementNB(norm=True, class_prior=[0.5, 0.2, 0.3]),
            ComplementNB(alpha=1e-12, norm=True),
        ]

    def _log_priors(self, counts: Floats) -> Floats:
        return np.where(counts > 0, 0.0, -np.inf)  # the estimator makes no use of them

    def _digest(self, k: int, count: Floats, sums: Floats) -> Floats:
        return sums

    def _coefficients(
        self, counts: Floats, digests: list[Floats]
    ) -> tuple[list[Floats], NDArray[np.bool_]]:
        total = np.sum(digests, axis=0)
        doubtful = np.zeros(counts.shape[1], dtype=bool)
        coefficients = []
        for count, sums, log_prior in zip(counts, digests, self._log_priors(counts), strict=True):
            others = total + self.alpha - sums
            if not self.is_whole:  # differences of rounded sums: small ones have too few digits
                others = np.where(others < _LEAST_SHARE * total, np.nan, others)
            weights = -np.log(others / others.sum(axis=1, keepdims=True))
            if self.estimator.norm:
                weights /= weights.sum(axis=1, keepdims=True)
            made = _checked(weights, 0.0, count)
            doubtful |= made[:, -1] > 0
            made[:, -2] += log_prior
            coefficients.append(made[:, :-1])
        return coefficients, doubtful


class BernoulliNBUtility(_DiscreteNBUtility):
    """Exact utilities of `sklearn.naive_bayes.BernoulliNB`."""

    engine: ClassVar[str] = "Bernoulli naive Bayes"
    serves = ("BernoulliNB",)

    @classmethod
    def why_not(cls, estimator: Any, fold: Fold, judge: Judge) -> str | None:
        """Add to the base's conditions: one alpha, zeros and ones."""
        reason = super().why_not(estimator, fold, judge)
        if reason is not None:
            return reason
        if not isinstance(estimator.alpha, Real):
            return "alpha is not one number"
        if estimator.binarize is None and not all(
            np.isin(data, (0, 1)).all() for data in (fold.X, fold.X_val)
        ):
            return "the data are not zeros and ones"
        return None

    @classmethod
    def examples(cls) -> list[Any]:
        """Return estimators that show every variant of the parameters that is served."""
        return [
            BernoulliNB(),
            BernoulliNB(binarize=0.5, alpha=1e-10, fit_prior=False),
            BernoulliNB(alpha=0.0, class_prior=[0.5, 0.2, 0.3]),
            BernoulliNB(binarize=None),
        ]

    def _row_statistics(self, k: int) -> Floats:
        return self._binary(self.X[self.members[k]])

    def _features(self, X: Floats) -> Floats:
        return super()._features(self._binary(X))

    def _binary(self, X: Floats) -> Floats:
        threshold = self.estimator.binarize
        return X if threshold is None else np.where(threshold < X, 1.0, 0.0)

    def _weights(self, count: Floats, sums: Floats) -> tuple[Floats, Floats | float]:
        present = np.log(sums + self.alpha) - np.log(count + 2 * self.alpha)[..., np.newaxis]
        # log(count - sums + alpha) has more digits, but scikit-learn's are these
        absent = np.log(1 - np.exp(present))
        return present - absent, absent.sum(axis=-1)


class CategoricalNBUtility(_DiscreteNBUtility):
    """Exact utilities of `sklearn.naive_bayes.CategoricalNB`.

    The features are indicators of the categories that the validation rows have. How many
    categories a coalition knows is the greatest among its rows: further indicators tell which of
    the values it reaches that are at least the greatest of the validation rows.
    """

    engine: ClassVar[str] = "categorical naive Bayes"
    serves = ("CategoricalNB",)

    def __init__(self, estimator: Any, fold: Fold, judge: Judge, fallback: FallbackRule) -> None:
        super().__init__(estimator, fold, judge, fallback)
        d = self.X.shape[1]
        self.needed = self.X_val.max(axis=0) + 1
        known = [np.unique(column) for column in self.X_val.T]
        reached = [
            np.union1d(column[column >= most], most)
            for column, most in zip(self.X.T, self.needed - 1, strict=True)
        ]
        self.columns = np.repeat(np.arange(d), [len(values) for values in known])
        self.values = np.concatenate(known)
        self.reach_columns = np.repeat(np.arange(d), [len(values) for values in reached])
        self.reach_values = np.concatenate(reached)
        self.reach_starts = np.searchsorted(self.reach_columns, np.arange(d))
        while self.block_size > 64 and 8 * self.block_size * len(self.values) > _TABLE_BYTES // 64:
            self.block_size //= 2

    @classmethod
    def why_not(cls, estimator: Any, fold: Fold, judge: Judge) -> str | None:
        """Add to the base's conditions: whole numbers, and not too many categories."""
        reason = super().why_not(estimator, fold, judge)
        if reason is not None:
            return reason
        X, X_val = np.asarray(fold.X), np.asarray(fold.X_val)
        if any((data < 0).any() or (np.rint(data) != data).any() for data in (X, X_val)):
            return "the categories are not whole numbers from 0 on"
        least = np.asarray(0 if estimator.min_categories is None else estimator.min_categories)
        if least.dtype.kind != "i" or least.shape not in ((), X.shape[1:]):
            return "min_categories has not one whole number for each column"
        if (X_val.max(axis=0) >= np.maximum(X.max(axis=0) + 1, least)).any():
            return "the validation rows have categories that no training row has"
        n_categories = sum(len(np.unique(column)) for column in X_val.T)
        if 8 * n_categories * len(X) > max(_TABLE_BYTES, 64 * X.size):
            return "so many categories need too large tables"
        return None

    @classmethod
    def examples(cls) -> list[Any]:
        """Return estimators that show every variant of the parameters that is served."""
        return [
            CategoricalNB(min_categories=12),
            CategoricalNB(alpha=0.3, class_prior=[0.5, 0.2, 0.3]),
            CategoricalNB(min_categories=[4, 4, 3, 5, 3, 3], fit_prior=False),
            CategoricalNB(alpha=0.0),
        ]

    def _row_statistics(self, k: int) -> Floats:
        X = self.X[self.members[k]]
        reached = X[:, self.reach_columns] >= self.reach_values
        return np.concatenate([X[:, self.columns] == self.values, reached], axis=1).astype(float)

    def _features(self, X: Floats) -> Floats:
        return super()._features((X[:, self.columns] == self.values).astype(np.float64))

    def _digest(self, k: int, count: Floats, sums: Floats) -> Floats:
        """Return the base's digest, and which values are reached, with as few copies as can be."""
        n_known = len(self.values)
        digest = np.empty((*count.shape, sums.shape[-1] + 2))
        weights = digest[..., :n_known]
        np.add(sums[..., :n_known], self.alpha, out=weights)
        if self.alpha > 0:
            np.log(weights, out=weights)
            digest[..., n_known : n_known + 2] = 0
        else:
            digest[..., : n_known + 2] = _checked(np.log(weights), 0.0, count)
        digest[..., n_known + 2 :] = sums[..., n_known:]
        return digest

    def _additions(self, counts: Floats, rests: list[Floats]) -> tuple[Floats, NDArray[np.bool_]]:
        additions, doubtful = super()._additions(counts, rests)
        smoothing = self.alpha * self._n_categories(rests)
        for count, addition in zip(counts, additions, strict=True):
            addition -= np.log(np.maximum(count, 1)[:, np.newaxis] + smoothing).sum(axis=1)
        return additions, doubtful

    def _n_categories(self, rests: list[Floats]) -> Floats:
        """Return how many categories the sets know, shape (n_sets, n_columns)."""
        reached = np.sum([rest[:, 1:] for rest in rests], axis=0) > 0
        n_categories = np.maximum.reduceat(
            np.where(reached, self.reach_values + 1, 0), self.reach_starts, axis=1
        )
        least = self.estimator.min_categories
        return n_categories if least is None else np.maximum(n_categories, least)

    def _refusals(self, counts: Floats, rests: list[Floats]) -> Errors:
        errors = super()._refusals(counts, rests)
        unknown = (self._n_categories(rests) < self.needed).any(axis=1)
        for j in np.flatnonzero(unknown).tolist():
            errors.setdefault(j, "IndexError: a category of the validation rows is out of bounds")
        return errors


def _checked(weights: Floats, constant: Floats | float, count: Floats) -> Floats:
    """Join weights, constant, and 1 where these are not finite, which makes them 0.

    Without smoothing logarithms of 0 arise, and then scikit-learn's NaN from 0 · inf.
    """
    n_weights = weights.shape[-1]
    joined = np.empty((*weights.shape[:-1], n_weights + 2))
    joined[..., :n_weights] = weights
    joined[..., n_weights] = constant
    joined[..., n_weights + 1] = 0
    odd = ~np.isfinite(joined.sum(axis=-1))
    joined[odd] = 0
    joined[..., n_weights + 1] = odd & (count > 0)
    return joined


def _why_not_counts(estimator: Any, fold: Fold) -> str | None:
    X = np.asarray(fold.X)
    if (X < 0).any():
        return "some counts are negative"
    if not isinstance(estimator.alpha, Real) and np.shape(estimator.alpha) != X.shape[1:]:
        return "alpha has not one number for each column"
    return None

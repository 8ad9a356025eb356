"""A coalition that has no model gets a number, and is counted with its reason."""

import tracemalloc
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

from skdvl import ShapleyValuator
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.record import recording
from skdvl.utilities.supervised import FallbackRule


def test_the_dummy_of_a_refused_coalition_by_hand(make_fold, make_utility, coalition_of):
    """Two rows of class 0, none of class 1, half of the fold of each: P(0) = 2.5/3."""
    fold = make_fold("two")
    rows = np.flatnonzero(fold.y == 0)[:2]
    found = {
        scoring: make_utility(LogisticRegression(), fold, scoring)(coalition_of(rows))[0]
        for scoring in ("neg_log_loss", "accuracy", "true_class_probability", "roc_auc")
    }
    share = np.mean(fold.y_val == 0)
    assert_allclose(
        [found["neg_log_loss"], found["true_class_probability"]],
        [
            share * np.log(2.5 / 3) + (1 - share) * np.log(0.5 / 3),
            share * 2.5 / 3 + (1 - share) * 0.5 / 3,
        ],
        rtol=1e-14,
    )
    assert found["accuracy"] == share
    assert found["roc_auc"] == 0.5


def test_the_empty_coalition_is_the_prior_of_the_fold(make_fold, make_utility, N_ROWS):
    fold = make_fold("three")
    nobody = np.zeros((1, N_ROWS), dtype=bool)
    prior = np.bincount(fold.y) / N_ROWS
    expected = np.mean(np.log(prior[fold.y_val]))
    assert_allclose(make_utility(GaussianNB(), fold, "neg_log_loss")(nobody), [expected])
    assert make_utility(GaussianNB(), fold, "accuracy", empty_score=-3)(nobody) == [-3.0]


def test_refused_coalitions_are_counted_with_their_reason(make_fold, make_utility, N_ROWS):
    fold = make_fold("two")
    coalitions = np.zeros((4, N_ROWS), dtype=bool)
    coalitions[0, 0] = coalitions[1, :3] = coalitions[2] = True
    coalitions[3, fold.y == 0] = True  # half of the rows, one class
    with recording() as record:
        make_utility(LogisticRegression(), fold)(coalitions)
    assert record.n_refused == 2
    assert record.n_large == 2
    reasons = {(message.split(":")[0], large) for message, large in record.refused}
    assert reasons == {("ValueError", False), ("ValueError", True)}
    assert "class" in next(iter(record.refused))[0]


def test_error_score(make_fold, make_utility, coalition_of):
    fold = make_fold("two")
    refused = coalition_of(np.flatnonzero(fold.y == 0)[:3])
    assert make_utility(LogisticRegression(), fold, error_score=0.25)(refused) == [0.25]
    utility = make_utility(LogisticRegression(), fold, error_score="raise")
    with pytest.raises(ValueError, match=r"Fold 0: .* 3 training rows \[0, 2, 4\].*class"):
        utility(refused)
    good = coalition_of([0, 1, 2, 3])
    assert utility(good) == make_utility(LogisticRegression(), fold)(good)


def test_a_score_too_large_to_estimate_with_is_refused_as_an_infinite_one_is():
    class Explodes(RegressorMixin, BaseEstimator):
        def fit(self, X, y):
            self.at_ = 1e70 if len(X) < 5 else y.mean()
            return self

        def predict(self, X):
            return np.full(len(X), self.at_)

    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 2)), rng.normal(size=30)
    valuator = ShapleyValuator(Explodes(), max_evals=400, random_state=0)
    valuator.fit(X[:10], y[:10], X_val=X[10:], y_val=y[10:])
    assert valuator.n_refused_ > 0
    assert np.abs(valuator.values_).max() < 10
    refuses = ShapleyValuator(Explodes(), max_evals=400, random_state=0, error_score="raise")
    with pytest.raises(ValueError, match="the score is -"):
        refuses.fit(X[:10], y[:10], X_val=X[10:], y_val=y[10:])


def test_many_dummies_take_little_memory():
    """Dummies of targets are judged together, but not more than fit a small array."""
    n_val = 50_000
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20 + n_val, 2)), rng.normal(size=20 + n_val)
    fold = Fold(0, X[:20], y[:20], X[20:], y[20:])
    judge = Judge(fold, None, own_score=False)
    rows = rng.random((256, 20)) < 0.5
    tracemalloc.start()
    found = FallbackRule(judge).refused(rows, ["as if"] * len(rows))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * n_val  # bytes; at once they would take 25 times as much
    by_one = [FallbackRule(judge).refused(some[np.newaxis], ["as if"])[0] for some in rows[:9]]
    assert_array_equal(found[:9], by_one)


class Moody(ClassifierMixin, BaseEstimator):
    """Fails in a chosen way on coalitions of three rows."""

    def __init__(self, mood):
        self.mood = mood

    def fit(self, X, y):
        self.classes_ = np.array([0, 1])
        self.moody = len(X) == 3
        if self.moody and isinstance(self.mood, BaseException):
            raise self.mood
        return self

    def predict(self, X):
        return np.zeros(len(X), dtype=int)

    def predict_proba(self, X):
        proba = np.full((len(X), 2), 0.5)
        if self.moody and self.mood == "NaN":
            proba[0] = np.nan
        return proba


@pytest.mark.parametrize("mood", [ValueError("x"), RuntimeError("x"), KeyError("x"), "NaN"])
@pytest.mark.parametrize("scoring", ["neg_log_loss", "true_class_probability", "roc_auc"])
def test_whatever_goes_wrong_costs_one_coalition(
    make_fold, make_utility, coalition_of, mood, scoring
):
    fold = make_fold("two")
    with recording() as record:
        found = make_utility(Moody(mood), fold, scoring)(
            np.concatenate([coalition_of([0, 1, 2]), coalition_of([0, 1, 2, 3])])
        )
    assert np.isfinite(found).all()
    assert record.n_refused == 1


@pytest.mark.parametrize("mood", [MemoryError(), KeyboardInterrupt(), SystemExit()])
def test_what_is_no_failure_of_the_model_ends_the_run(make_fold, make_utility, coalition_of, mood):
    utility = make_utility(Moody(mood), make_fold("two"))
    with pytest.raises(type(mood)):
        utility(coalition_of([0, 1, 2]))


def test_filters_are_restored_after_an_error(make_fold, make_utility, coalition_of):
    before = list(warnings.filters)
    utility = make_utility(Moody(MemoryError()), make_fold("two"))
    with pytest.raises(MemoryError):
        utility(coalition_of([0, 1, 2]))
    assert list(warnings.filters) == before

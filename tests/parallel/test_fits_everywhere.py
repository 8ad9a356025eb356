"""Whole fits, on every way to run work: the same bits."""

import joblib
import pytest
from numpy.testing import assert_array_equal
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.naive_bayes import GaussianNB

from skdvl import ShapleyValuator

X, Y = make_classification(60, 5, n_informative=3, random_state=0)
# how many rows are valued, the budget, and a tolerance that is met before it is spent
GAMES = {"permutation": (16, 400, 0.03), "stratified": (16, 400, 0.03), "exact": (12, 128, 0.1)}


def value(method, *, with_tol, n_jobs=None, **parameters):
    n_rows, max_evals, tol = GAMES[method]
    valuator = ShapleyValuator(
        GaussianNB(),
        method=method,
        scoring="true_class_probability",
        engine="refit",
        cv=2,
        max_evals=max_evals,
        tol=tol if with_tol else None,
        n_jobs=n_jobs,
        random_state=0,
        **parameters,
    )
    return valuator.fit(X[:n_rows], Y[:n_rows])


def value_all(**parameters):
    return {
        (method, with_tol): value(method, with_tol=with_tol, **parameters)
        for method in GAMES
        for with_tol in (False, True)
    }


@pytest.fixture(scope="module")
def expected():
    return value_all()


def assert_same_fits(fits, expected):
    assert fits.keys() == expected.keys()
    for key, fitted in fits.items():
        assert_array_equal(fitted.values_, expected[key].values_, err_msg=str(key))
        assert_array_equal(fitted.standard_errors_, expected[key].standard_errors_)
        assert fitted.n_evals_ == expected[key].n_evals_
        assert fitted.converged_ == expected[key].converged_


def test_the_tolerances_are_met_on_the_way(expected):
    for method in ("permutation", "stratified"):
        assert expected[method, True].converged_
        assert expected[method, True].n_evals_ < expected[method, False].n_evals_


def test_the_same_bits_everywhere(each_backend, expected):
    assert_same_fits(value_all(), expected)


def test_the_same_bits_with_three_jobs(expected):
    with joblib.parallel_config(backend="loky"):
        assert_same_fits(value_all(n_jobs=3), expected)


def test_scikit_learn_on_every_backend(each_backend):
    """Also on our backends over executors: they are for everything that runs on joblib."""
    with joblib.parallel_config(backend="sequential", n_jobs=1):
        alone = cross_val_score(LogisticRegression(), X, Y)
    assert_array_equal(cross_val_score(LogisticRegression(), X, Y), alone)

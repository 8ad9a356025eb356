"""Fits of valuators by retraining: extended, resumed, read again, stopped, on models that fail."""

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 - makes the next import possible
from sklearn.impute import IterativeImputer
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skdvl
from skdvl import ShapleyValuator
from skdvl.utilities.refit import can_refit_in_place

X, Y = make_classification(n_samples=40, n_features=4, random_state=0)


def test_warm_start_extends():
    fresh = ShapleyValuator(GaussianNB(), engine="refit", max_evals=900, random_state=0).fit(X, Y)
    grown = ShapleyValuator(
        GaussianNB(), engine="refit", max_evals=400, warm_start=True, random_state=0
    ).fit(X, Y)
    grown.set_params(max_evals=900).fit(X, Y)
    np.testing.assert_array_equal(grown.values_, fresh.values_)
    np.testing.assert_array_equal(grown.standard_errors_, fresh.standard_errors_)
    assert grown.n_evals_ == fresh.n_evals_
    with pytest.raises(ValueError, match="it is the total"):
        grown.set_params(max_evals=500).fit(X, Y)
    with pytest.raises(ValueError, match="have changed"):
        grown.set_params(max_evals=1000).fit(X, 1 - Y)


def test_checkpoint(tmp_path):
    def run():
        return ShapleyValuator(
            GaussianNB(), engine="refit", max_evals=300, checkpoint=tmp_path, random_state=0
        ).fit(X, Y)

    first, second = run(), run()
    np.testing.assert_array_equal(first.values_, second.values_)
    files = list(tmp_path.glob("*.skdvl"))
    assert len(files) == 1
    files[0].write_bytes(files[0].read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read"):
        run()
    assert files[0].stat().st_size == 100


def test_revalue_and_intervals():
    valuator = ShapleyValuator(GaussianNB(), method="exact").fit(X[:8], Y[:8])
    banzhaf = skdvl.BanzhafValuator(GaussianNB(), method="exact").fit(X[:8], Y[:8])
    np.testing.assert_allclose(valuator.revalue("banzhaf")["value"], banzhaf.values_, atol=1e-12)
    np.testing.assert_array_equal(valuator.confidence_interval()[:, 0], valuator.values_)
    sampled = ShapleyValuator(GaussianNB(), max_evals=4000, method="stratified", random_state=0)
    low, high = sampled.fit(X, Y).confidence_interval(0.95).T
    half = 1.959963984540054 * sampled.standard_errors_
    np.testing.assert_allclose(high - sampled.values_, half)
    np.testing.assert_allclose(sampled.values_ - low, half)
    with pytest.warns(UserWarning, match="truncated orders are biased"):
        ShapleyValuator(GaussianNB(), method="tmc", random_state=0).fit(X, Y).confidence_interval()


def test_converged():
    loose = ShapleyValuator(GaussianNB(), tol=0.5, random_state=0).fit(X, Y)
    assert loose.converged_
    with pytest.warns(ConvergenceWarning, match="did not reach"):
        tight = ShapleyValuator(GaussianNB(), tol=1e-9, max_evals=600, random_state=0).fit(X, Y)
    assert not tight.converged_
    assert not ShapleyValuator(GaussianNB(), max_evals=600, random_state=0).fit(X, Y).converged_


def test_models_that_often_fail():
    class Moody(KNeighborsClassifier):
        def fit(self, X, y):
            if len(y) not in (20, 40):
                raise RuntimeError("not in the mood")
            return super().fit(X, y)

    with pytest.warns(FitFailedWarning, match="not in the mood"):
        valuator = ShapleyValuator(Moody(), cv=KFold(2), max_evals=200, random_state=0).fit(X, Y)
    assert valuator.n_refused_ == valuator.n_evals_ - 4
    with pytest.raises(ValueError, match=r"Fold 0: the model fails on the \d+ training rows"):
        ShapleyValuator(Moody(), cv=KFold(2), error_score="raise", max_evals=200).fit(X, Y)


def test_models_that_go_on_with_a_generator_are_cloned():
    imputer = IterativeImputer(sample_posterior=True, imputation_order="random", random_state=0)
    assert not can_refit_in_place(make_pipeline(imputer, Ridge()))
    assert can_refit_in_place(make_pipeline(StandardScaler(), Ridge()))

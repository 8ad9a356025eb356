"""Pipelines whose first steps are fixed: an engine serves the last one, as refitting would."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.base import is_regressor
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler, scale

from skdvl import ShapleyValuator

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)) + 3
X[1], X[3] = X[0], X[2]  # of equal rows least squares leave much to be decided by rounding
TARGETS = X @ [1.0, 2.0, -1.0, 0.5] + RNG.normal(size=60)
LABELS = np.where(np.median(TARGETS) < TARGETS, "yes", "no")
N_TRAIN = 7

STEPS = {
    "normalizer": Normalizer(),
    "first columns": FunctionTransformer(lambda X: X[:, :2]),
    "more columns": FunctionTransformer(lambda X: np.hstack([X, X[:, :1] ** 2])),
    "frozen scaler": FrozenEstimator(StandardScaler().fit(100 * X)),
    "frozen components": FrozenEstimator(PCA(3).fit(X)),
    "passthrough": "passthrough",
}
MODELS = {
    "ridge": Ridge(),
    "linear regression": LinearRegression(),
    "Gaussian naive Bayes": GaussianNB(var_smoothing=0),
    "nearest neighbors": KNeighborsClassifier(2, metric="manhattan"),
    "linear discriminant analysis": LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
}


def value(model, engine, y, X=X, **options):
    valuator = ShapleyValuator(model, engine=engine, method="exact", **options)
    rows = slice(N_TRAIN), slice(N_TRAIN, None)
    first, others = (X.iloc[part] if hasattr(X, "iloc") else X[part] for part in rows)
    return valuator.fit(first, y[:N_TRAIN], X_val=others, y_val=y[N_TRAIN:])


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", MODELS)
def test_values_are_those_of_refitting(name, step):
    """Refitting serves the coalitions that the engine leaves to it, from the transformed rows."""
    model = make_pipeline(STEPS[step], MODELS[name])
    y = TARGETS if is_regressor(MODELS[name]) else LABELS
    found, expected = value(model, "auto", y), value(model, "refit", y)
    # seven rows, of which two pairs are equal, leave least squares of five columns undetermined
    is_served = (name, step) != ("linear regression", "more columns")
    assert found.engine_ == (name if is_served else "refit")
    assert found.n_refused_ == expected.n_refused_
    size = max(1.0, np.abs(expected.values_).max())
    assert_allclose(found.values_, expected.values_, atol=1e-9 * size)
    assert found.score_ == pytest.approx(expected.score_, rel=1e-9)


def test_columns_may_be_chosen_by_name():
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = make_pipeline(FunctionTransformer(lambda frame: frame[["a", "d"]]), GaussianNB())
    found = value(model, "auto", LABELS, X=frame)
    assert found.engine_ == "Gaussian naive Bayes"
    assert_allclose(found.values_, value(model, "refit", LABELS, X=frame).values_, atol=1e-12)


class Contrary(Pipeline):
    def predict(self, X, **params):
        return np.where(super().predict(X, **params) == "no", "yes", "no")


class Picky:
    """A function that wants several rows."""

    def __call__(self, X):
        if len(X) < 2:
            raise ValueError("one row is not enough")
        return X


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (make_pipeline(FunctionTransformer(scale), GaussianNB()), "transforms rows together"),
        (make_pipeline(FunctionTransformer(Picky()), GaussianNB()), "transforms rows together"),
        (make_pipeline(StandardScaler(), GaussianNB()), "learns from the rows"),
        (Contrary([("step", Normalizer()), ("model", GaussianNB())]), "no engine serves Contrary"),
    ],
    ids=["scale", "picky", "scaler", "subclass"],
)
def test_steps_and_pipelines_that_are_not_fixed_are_refitted(model, why, capsys):
    found = value(model, "auto", LABELS, verbose=1)
    assert found.engine_ == "refit"
    assert why in capsys.readouterr().out
    expected = value(model, "refit", LABELS)
    np.testing.assert_array_equal(found.values_, expected.values_)


def test_a_scaler_before_logistic_regression_has_an_engine_of_its_own():
    model = make_pipeline(StandardScaler(), LogisticRegression())
    assert value(model, "auto", LABELS).engine_ == "logistic (exact optimum)"

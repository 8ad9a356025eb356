"""Filters: which samples stay, and that filters work wherever estimators work."""

import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from imblearn.pipeline import Pipeline as ResamplingPipeline
from sklearn.base import is_classifier, is_regressor
from sklearn.datasets import make_classification, make_regression
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import check_estimator

from skdvl import CleanedEstimator, SampleSelector, ShapleyValuator
from skdvl.selection import support_mask

X, Y = make_classification(n_samples=60, random_state=0)
NOISY = Y.copy()
NOISY[:6] = 1 - NOISY[:6]


def valuator(base=None, **parameters):
    parameters = {"max_evals": 400, "random_state": 0, **parameters}
    return ShapleyValuator(GaussianNB() if base is None else base, **parameters)


def test_the_highest_values_stay():
    values = np.array([0.1, 0.4, 0.2, 0.2, 0.3])
    assert support_mask(values, None, keep=0.6).tolist() == [False, True, True, False, True]
    assert support_mask(values, None, keep=0.41).tolist() == [False, True, True, False, True]
    assert support_mask(values, None, keep=1.0).all()
    assert support_mask(values, None, threshold=0.2).tolist() == [False, True, True, True, True]
    ten = np.arange(10.0)
    assert support_mask(ten, None, keep=0.7).sum() == 7  # 0.7 · 10 is 7.000000000000001


def test_rows_without_a_value_and_last_rows_of_a_class_stay():
    values = np.array([0.1, np.nan, 0.3, 0.2])
    assert support_mask(values, None, keep=0.5).tolist() == [False, True, True, False]
    classes = np.array(["a", "b", "b", "a"])
    assert support_mask(values, classes, threshold=9).tolist() == [False, True, False, True]
    assert support_mask(values[[0, 2, 3]], None, threshold=9).tolist() == [False, True, False]


CLEANED = {
    "gnb": CleanedEstimator(GaussianNB(), valuator()),
    "logistic": CleanedEstimator(LogisticRegression(), valuator()),
    "svc": CleanedEstimator(SVC(), valuator()),
    "tree": CleanedEstimator(DecisionTreeClassifier(random_state=0), valuator()),
    "pipeline": CleanedEstimator(make_pipeline(StandardScaler(), SVC()), valuator()),
    "ridge": CleanedEstimator(Ridge(), valuator(Ridge(), max_evals=60)),
    "svr": CleanedEstimator(SVR(), valuator(Ridge(), max_evals=60)),
}


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(m, id=name, marks=[pytest.mark.oldest] * (name in ("gnb", "ridge")))
        for name, m in CLEANED.items()
    ],
)
def test_check_estimator(model, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # checks feed tiny and degenerate data on purpose
        results = check_estimator(model, on_skip=None, on_fail=None)
    failed = [r for r in results if r["status"] not in ("passed", "skipped")]
    assert failed == []


def test_cleaned_estimator_is_the_model_without_the_worst_rows():
    model = CleanedEstimator(GaussianNB(), valuator(), keep=0.9).fit(X, NOISY)
    assert model.support_mask_.sum() == 54
    kept = model.support_mask_
    expected = GaussianNB().fit(X[kept], NOISY[kept])
    np.testing.assert_array_equal(model.predict_proba(X), expected.predict_proba(X))
    assert model.score(X, Y) == expected.score(X, Y)
    assert not hasattr(model, "decision_function")
    assert not hasattr(model, "transform")
    assert is_classifier(model)
    assert is_regressor(CleanedEstimator(Ridge()))
    assert model.valuator_.values_[kept].min() >= model.valuator_.values_[~kept].max()


def test_default_valuator_and_frames():
    frame = pd.DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])])
    labels = pd.Series(np.array(["no", "yes"])[NOISY])
    model = CleanedEstimator(GaussianNB()).fit(frame, labels)
    assert set(model.predict(frame)) == {"no", "yes"}
    assert model.feature_names_in_.tolist() == frame.columns.tolist()


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_grid_search(n_jobs):
    pipe = Pipeline(
        [
            ("scale", StandardScaler()),
            ("clean", CleanedEstimator(LogisticRegression(), valuator())),
        ]
    )
    grid = {
        "clean__keep": [0.8, 1.0],
        "clean__valuator__max_evals": [200, 300],
        "clean__estimator__C": [0.1, 1.0],
    }
    search = GridSearchCV(pipe, grid, cv=3, n_jobs=n_jobs, error_score="raise").fit(X, NOISY)
    assert search.best_score_ > 0.5
    assert len(search.cv_results_["params"]) == 8


class CountingValuator(ShapleyValuator):
    """Appends a line to a file for every valuation."""

    def __init__(self, estimator, *, path=None, max_evals=200, random_state=0, n_jobs=None):
        super().__init__(estimator, max_evals=max_evals, random_state=random_state, n_jobs=n_jobs)
        self.path = path

    def fit(self, X, y, **params):
        with open(self.path, "a") as file:
            file.write("valued\n")
        return super().fit(X, y, **params)


CountingValuator._parameter_constraints = {
    **ShapleyValuator._parameter_constraints,
    "path": "no_validation",
}


def test_memory_values_each_fold_once(tmp_path):
    counts = tmp_path / "counts"
    counts.write_text("")
    model = CleanedEstimator(
        GaussianNB(),
        CountingValuator(GaussianNB(), path=str(counts)),
        memory=joblib.Memory(tmp_path / "memory", verbose=0),
    )
    keeps = {"keep": [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]}
    search = GridSearchCV(model, keeps, cv=5).fit(X, NOISY)
    assert counts.read_text().count("\n") == 6
    again = GridSearchCV(model, {**keeps, "estimator__var_smoothing": [1e-9, 1e-3]}, cv=5)
    again.fit(X, NOISY)
    assert counts.read_text().count("\n") == 6
    model.set_params(valuator__n_jobs=2).fit(X, NOISY)  # not part of the key
    assert counts.read_text().count("\n") == 6
    model.set_params(valuator__max_evals=250).fit(X, NOISY)
    assert counts.read_text().count("\n") == 7
    assert search.best_params_["keep"] in keeps["keep"]


def test_memory_refuses_unseeded_valuators(tmp_path):
    model = CleanedEstimator(GaussianNB(), valuator(random_state=None), memory=str(tmp_path))
    with pytest.raises(ValueError, match="integer random_state"):
        model.fit(X, Y)


def test_metadata_is_routed():
    with sklearn.config_context(enable_metadata_routing=True):
        base = LogisticRegression().set_fit_request(sample_weight=True)
        inner = valuator(LogisticRegression()).set_fit_request(X_val=True, y_val=True)
        inner.estimator.set_fit_request(sample_weight=False)
        weights = np.linspace(1, 2, 60)
        model = CleanedEstimator(base, inner, keep=0.9)
        model.fit(X, NOISY, X_val=X[:20], y_val=Y[:20], sample_weight=weights)
        kept = model.support_mask_
        expected = LogisticRegression().fit(X[kept], NOISY[kept], sample_weight=weights[kept])
        np.testing.assert_array_equal(model.estimator_.coef_, expected.coef_)
    with pytest.raises(ValueError, match="sample_weight"):
        CleanedEstimator(LogisticRegression()).fit(X, Y, sample_weight=weights)


def test_selector_in_a_resampling_pipeline():
    frame = pd.DataFrame(X, index=np.arange(500, 560)).add_prefix("x")
    labels = pd.Series(NOISY, index=frame.index)
    selector = SampleSelector(valuator(), keep=0.9)
    kept, kept_labels = selector.fit_resample(frame, labels)
    assert kept.index.equals(frame.index[selector.sample_indices_])
    assert kept_labels.index.equals(kept.index)
    assert selector.get_support().sum() == len(selector.get_support(indices=True)) == 54
    pipe = ResamplingPipeline([("select", selector), ("model", GaussianNB())])
    expected = GaussianNB().fit(kept, kept_labels)
    np.testing.assert_array_equal(
        pipe.fit(frame, labels).predict_proba(frame), expected.predict_proba(frame)
    )
    search = GridSearchCV(pipe, {"select__keep": [0.8, 1.0]}, cv=3).fit(frame, labels)
    assert search.best_params_["select__keep"] in (0.8, 1.0)


def test_selector_with_regression_targets():
    features, targets = make_regression(n_samples=40, n_features=3, random_state=0)
    pipe = ResamplingPipeline(
        [("select", SampleSelector(valuator(Ridge()), threshold=0.0)), ("model", Ridge())]
    ).fit(features, targets)
    mask = pipe["select"].get_support()
    assert (pipe["select"].valuator_.values_[mask] >= 0).all()
    assert pipe.predict(features).shape == (40,)


@pytest.mark.parametrize("keep", [0, 1.5, "all"])
def test_bad_keep(keep):
    with pytest.raises(ValueError, match="'keep' parameter"):
        CleanedEstimator(GaussianNB(), keep=keep).fit(X, Y)
    with pytest.raises(ValueError, match="'keep' parameter"):
        SampleSelector(valuator(), keep=keep).fit_resample(X, Y)

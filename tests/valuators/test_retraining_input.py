"""Which data, pipelines and scorers valuators by retraining take, and what they refuse."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

import skdvl
from skdvl import ShapleyValuator

X, Y = make_classification(n_samples=40, n_features=4, random_state=0)
X_VAL, Y_VAL = make_classification(n_samples=70, n_features=4, random_state=1)


# --- taken ------------------------------------------------------------------------------------


def test_labels_do_not_matter_nor_does_the_container():
    plain = ShapleyValuator(GaussianNB(), random_state=0).fit(X, Y)
    strings = np.array(["no", "yes"])[Y]
    frame = pd.DataFrame(X, columns=list("abcd"), index=np.arange(100, 140))
    for data, labels in [
        (X, strings),
        (frame, pd.Series(strings, index=frame.index)),
        (pl.DataFrame(X, schema=list("abcd")), pl.Series(strings)),
        (X.tolist(), strings.tolist()),
        (X.astype(np.float64, order="F"), strings),
    ]:
        found = ShapleyValuator(GaussianNB(), random_state=0).fit(data, labels)
        np.testing.assert_array_equal(found.values_, plain.values_)
    framed = ShapleyValuator(GaussianNB(), random_state=0).fit(frame, strings).to_frame()
    assert framed.index.equals(frame.index)
    assert framed["label"].tolist() == strings.tolist()
    assert framed["rank"].tolist() == (framed["value"].rank().astype(int)).tolist()


def test_sparse_rows():
    dense = ShapleyValuator(LogisticRegression(), engine="refit", max_evals=200, random_state=0)
    dense.fit(X, Y)
    rows = clone(dense)
    rows.fit(sparse.csr_matrix(X), Y)
    np.testing.assert_allclose(rows.values_, dense.values_, atol=1e-10)
    np.testing.assert_allclose(rows.transform(X), dense.transform(X), atol=1e-10)


def test_mixed_frames_and_missing_values():
    frame = pd.DataFrame({"number": X[:, 0], "word": np.where(X[:, 1] > 0, "up", "down")})
    columns = make_column_transformer((OneHotEncoder(), ["word"]), remainder="passthrough")
    model = make_pipeline(columns, LogisticRegression())
    valuator = ShapleyValuator(model, max_evals=100, random_state=0).fit(frame, Y)
    np.testing.assert_array_equal(valuator.transform(frame)[:, 0], valuator.values_)
    gaps = X.copy()
    gaps[::7, 2] = np.nan
    trees = HistGradientBoostingClassifier(max_iter=2)
    found = ShapleyValuator(trees, max_evals=50, random_state=0).fit(gaps, Y)
    np.testing.assert_array_equal(found.transform(gaps)[:, 0], found.values_)
    with pytest.raises(ValueError, match="NaN"):
        ShapleyValuator(GaussianNB()).fit(gaps, Y)


def test_transform_finds_rows_by_content():
    doubled = np.concatenate([X, X[:1]])
    valuator = ShapleyValuator(GaussianNB(), random_state=0).fit(doubled, np.append(Y, 1 - Y[0]))
    column = valuator.transform(doubled)[:, 0]
    assert column[0] == column[40] == np.mean(valuator.values_[[0, 40]])
    np.testing.assert_array_equal(column[1:40], valuator.values_[1:40])
    assert np.isnan(valuator.transform(X + 1)).all()
    assert valuator.get_feature_names_out().tolist() == ["shapley_value"]
    assert list(valuator.set_output(transform="pandas").transform(X).columns) == ["shapley_value"]


def test_single_precision():
    targets = X[:, 0].astype(np.float32)
    found = ShapleyValuator(Ridge(), max_evals=200, random_state=0).fit(
        X.astype(np.float32), targets
    )
    assert found.engine_ == "refit"
    plain = ShapleyValuator(Ridge(), max_evals=200, random_state=0).fit(X, X[:, 0])
    np.testing.assert_allclose(found.values_, plain.values_, atol=1e-4)


def test_metadata_routing_and_pipelines():
    scaled = StandardScaler().fit(X)
    expected = ShapleyValuator(GaussianNB(), random_state=0).fit(
        scaled.transform(X), Y, X_val=scaled.transform(X_VAL), y_val=Y_VAL
    )
    with sklearn.config_context(enable_metadata_routing=True):
        valuator = ShapleyValuator(GaussianNB(), random_state=0)
        valuator.set_fit_request(X_val=True, y_val=True)
        pipe = Pipeline(
            [("scale", StandardScaler()), ("value", valuator)], transform_input=["X_val"]
        ).fit(X, Y, X_val=X_VAL, y_val=Y_VAL)
    np.testing.assert_array_equal(pipe[-1].values_, expected.values_)
    assert "ShapleyValuator" in valuator._repr_html_()


def coefficient_scorer(pipeline, X, y):
    return float(pipeline[-1].coef_[0, 0])


def test_a_scorer_may_look_into_the_steps_of_a_pipeline():
    model = make_pipeline(StandardScaler(), LogisticRegression())
    valuator = ShapleyValuator(
        model, scoring=coefficient_scorer, empty_score=0.0, error_score=0.0, max_evals=200
    ).fit(X, Y)
    assert np.isfinite(valuator.values_).all()


def test_probabilities_of_svc_are_not_needed_for_margins():
    found = ShapleyValuator(SVC(), scoring="roc_auc", max_evals=200, random_state=0).fit(X, Y)
    assert np.isfinite(found.values_).all()


# --- refused ----------------------------------------------------------------------------------


def failing_scorer(estimator, X, y):
    raise RuntimeError("no score today")


def nan_scorer(estimator, X, y):
    return np.nan


BAD_INPUT = {
    "X_val alone": ({}, {"X_val": X_VAL}, "X_val is provided, but y_val was not provided"),
    "y_val alone": ({}, {"y_val": Y_VAL}, "y_val is provided, but X_val was not provided"),
    "other columns": ({}, {"X_val": X_VAL[:, :3], "y_val": Y_VAL}, "expecting 4 features"),
    "other lengths": ({}, {"X_val": X_VAL, "y_val": Y_VAL[:9]}, "inconsistent numbers of samples"),
    "with cv": ({"cv": 3}, {"X_val": X_VAL, "y_val": Y_VAL}, "together with cv"),
    "unknown label": ({}, {"X_val": X_VAL, "y_val": Y_VAL + 7}, "labels that y lacks"),
    "method": ({"method": "magic"}, {}, "method='magic' is not known"),
    "engine": ({"engine": "magic"}, {}, "'engine' parameter"),
    "scoring": ({"scoring": "magic"}, {}, "'magic' is not a known scoring"),
    "budget": ({"max_evals": 9}, {}, "too small"),
    "exact": ({"method": "exact"}, {}, "to enumerate"),
    "cv": ({"cv": 50}, {}, "n_splits=50"),
    "failing scorer": ({"scoring": failing_scorer}, {}, "Fold 0: .*no score today"),
    "nan scorer": ({"scoring": nan_scorer}, {}, "Fold 0: .*is nan"),
    "several scorers": ({"scoring": ["r2", "accuracy"]}, {}, "'scoring' parameter"),
    "semivalue": ({"method": "permutation", "max_evals": 10**6}, {}, None),
}


@pytest.mark.parametrize(("parameters", "fit", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input(parameters, fit, message):
    if message is None:
        valuator = skdvl.SemivalueValuator(GaussianNB(), semivalue="loo", **parameters)
        with pytest.raises(ValueError, match="efficiency"):
            valuator.fit(np.repeat(X, 8, axis=0), np.repeat(Y, 8))
        return
    with pytest.raises(ValueError, match=message):
        ShapleyValuator(GaussianNB(), **parameters).fit(X, Y, **fit)


def test_more_bad_input():
    with pytest.raises(ValueError, match="requires y to be passed"):
        ShapleyValuator(GaussianNB()).fit(X, None)
    with pytest.raises(ValueError, match="minimum of 2"):
        ShapleyValuator(GaussianNB()).fit(X[:1], Y[:1])
    with pytest.raises(ValueError, match="minimum of 2"):
        ShapleyValuator(GaussianNB()).fit(pd.DataFrame(X[:1]), Y[:1])
    with pytest.raises(ValueError, match="1d array"):
        ShapleyValuator(GaussianNB()).fit(X, np.column_stack([Y, Y]))
    with pytest.raises(TypeError, match="sample_weight"):
        ShapleyValuator(GaussianNB()).fit(X, Y, sample_weight=np.ones(40))
    with pytest.raises(ValueError, match="neg_mean_squared_error"):
        ShapleyValuator(Ridge()).fit(X, X[:, 0], X_val=X[:1], y_val=X[:1, 0])

    class NoParameters(BaseEstimator):
        def __init__(self, *args):
            self.args = args

        def fit(self, X, y):
            return self

        def predict(self, X):
            return np.zeros(len(X))

    with pytest.raises(RuntimeError, match="varargs"):
        ShapleyValuator(NoParameters()).fit(X, Y)


def test_splitters_that_shuffle_anew_are_refused():
    search = GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=KFold(3, shuffle=True))
    with pytest.raises(ValueError, match=r"cv=KFold.*integer random_state"):
        ShapleyValuator(search, scoring="r2").fit(X, X[:, 0])


def test_the_size_of_an_enumeration_is_told_at_once():
    many = np.random.default_rng(0).normal(size=(3000, 2))
    with pytest.raises(ValueError, match="over 10"):
        ShapleyValuator(GaussianNB(), method="exact").fit(many, many[:, 0] > 0)

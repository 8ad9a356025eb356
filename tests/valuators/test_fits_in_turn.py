"""Fits that follow other fits, and inputs that used to be taken for something else."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegressionCV, Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline

from skdvl import CleanedEstimator, SampleSelector, ShapleyValuator
from skdvl.metrics import true_class_probability
from skdvl.utilities.dispatch import followed_scoring
from skdvl.utilities.fingerprint import FingerprintError
from skdvl.valuators.row_lookup import RowLookup

X, Y = make_classification(n_samples=24, random_state=0)
OTHER_X, OTHER_Y = make_classification(n_samples=24, random_state=1)
REG_X, REG_Y = make_regression(n_samples=24, n_features=3, random_state=0)


def valuator(estimator=None, **params):
    params = {"max_evals": 300, "random_state": 0, **params}
    return ShapleyValuator(estimator or GaussianNB(), **params)


def minus_coefficients(estimator, X, y):
    return -float(np.abs(estimator.coef_).sum())


def test_warm_start_after_a_fit_without_it_gives_a_fresh_run():
    fresh = valuator(max_evals=600).fit(X, Y)
    turned_on = valuator().fit(X, Y).set_params(warm_start=True, max_evals=600).fit(X, Y)
    assert np.array_equal(turned_on.values_, fresh.values_)
    # a fit of another game in between must not be extended
    between = valuator(warm_start=True).fit(X, Y)
    between.set_params(warm_start=False).fit(OTHER_X, OTHER_Y)
    between.set_params(warm_start=True, max_evals=600).fit(X, Y)
    assert np.array_equal(between.values_, fresh.values_)


def test_warm_start_refuses_a_smaller_total_and_another_seed():
    fitted = valuator(warm_start=True, max_evals=3000, random_state=np.int64(0)).fit(X, Y)
    with pytest.raises(ValueError, match="max_evals='auto' allows 2400 evaluations, less than"):
        fitted.set_params(max_evals="auto").fit(X, Y)
    with pytest.raises(ValueError, match="have changed"):
        fitted.set_params(max_evals=3100, random_state=np.int64(1)).fit(X, Y)
    fitted.set_params(random_state=0).fit(X, Y)  # the same seed, however it is written


def test_warm_start_of_a_game_that_it_could_not_tell_apart():
    with pytest.raises(FingerprintError, match="warm_start=True must be able to tell"):
        valuator(scoring=lambda model, X, y: 1.0, warm_start=True).fit(X, Y)


def test_a_pickled_fit_is_extended_and_read_like_the_original():
    fitted = valuator(warm_start=True, max_evals=900).fit(X, Y)
    copy = pickle.loads(pickle.dumps(fitted))
    pd.testing.assert_frame_equal(
        copy.revalue("banzhaf"), fitted.revalue("banzhaf"), check_exact=True
    )
    extended = copy.set_params(max_evals=1500).fit(X, Y)
    assert np.array_equal(extended.values_, valuator(max_evals=1500).fit(X, Y).values_)


def test_a_fit_leaves_nothing_of_an_earlier_one():
    fitted = valuator().fit(X, Y, groups=np.arange(24) % 4)
    fitted.set_params(estimator=Ridge()).fit(X, X[:, 0])
    left = ("group_labels_", "group_values_", "group_standard_errors_", "classes_")
    assert not any(hasattr(fitted, name) for name in left)


@pytest.mark.parametrize("kind", [SampleSelector, lambda v: CleanedEstimator(GaussianNB(), v)])
def test_a_filter_has_the_feature_names_of_its_last_fit(kind):
    frame = pd.DataFrame(X).add_prefix("x")
    fitted = kind(valuator()).fit(frame, Y)
    assert fitted.feature_names_in_.tolist() == frame.columns.tolist()
    assert not hasattr(fitted.fit(X, Y), "feature_names_in_")


@pytest.mark.parametrize(
    "groups",
    [
        [1, "1", 2, "a"] * 6,
        pd.Series([1, "1", 2, "a"] * 6, dtype=object),
        [("a", 1), ("a", 2), ("b", 1), ("b", 2)] * 6,
    ],
)
def test_groups_have_any_labels(groups):
    expected = valuator().fit(X, Y, groups=np.arange(24) % 4)
    fitted = valuator().fit(X, Y, groups=groups)
    assert np.array_equal(fitted.values_, expected.values_)
    assert len(fitted.group_labels_) == 4
    place = {label: fitted.values_[row] for row, label in enumerate(groups)}
    shares = [place[label] * 6 for label in fitted.group_labels_]
    np.testing.assert_allclose(shares, fitted.group_values_)


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_label_among_texts_is_missing(missing):
    labels = ["a", missing, "b"] * 8
    with pytest.raises(ValueError, match="groups has 8 missing labels"):
        valuator().fit(X, Y, groups=labels)
    for data in (X, pd.DataFrame(X).add_prefix("x")):
        with pytest.raises(ValueError, match="contains NaN"):
            valuator().fit(data, pd.Series(labels, dtype=object))


def test_a_missing_target_of_the_validation_rows():
    y_val = np.r_[np.nan, REG_Y[1:]]
    with pytest.raises(ValueError, match="Input y_val contains NaN: 1 of 24"):
        valuator(Ridge()).fit(REG_X, REG_Y, X_val=REG_X, y_val=y_val)


def test_splits_may_be_masks():
    mask = np.arange(24) % 3 > 0
    masks = [(mask, ~mask), (~mask, mask)]
    places = [(np.flatnonzero(train), np.flatnonzero(test)) for train, test in masks]
    by_mask = valuator(cv=masks).fit(X, Y)
    assert np.array_equal(by_mask.values_, valuator(cv=places).fit(X, Y).values_)


@pytest.mark.parametrize("params", [{"monotonic_cst": {"a": 1}}, {"categorical_features": ["a"]}])
def test_a_model_that_goes_by_column_names_gets_them(params):
    frame = pd.DataFrame(REG_X, columns=list("abc")).assign(a=np.arange(24.0) % 3)
    model = HistGradientBoostingRegressor(max_iter=2, **params)
    assert np.isfinite(valuator(model, max_evals=15).fit(frame, REG_Y).values_).all()


def test_a_search_and_the_dummy_are_judged_in_the_same_units():
    search = GridSearchCV(Ridge(), {"alpha": [1.0]}, cv=2, scoring="neg_mean_squared_error")
    fitted = valuator(search, max_evals=15).fit(REG_X, REG_Y)
    plain = valuator(Ridge(), max_evals=15, scoring="neg_mean_squared_error").fit(REG_X, REG_Y)
    assert fitted.empty_score_ == plain.empty_score_
    assert fitted.score_ == pytest.approx(plain.score_, rel=1e-12)


def test_which_scoring_a_score_goes_by():
    several = {"mse": "neg_mean_squared_error", "r2": "r2"}
    search = GridSearchCV(Ridge(), {}, scoring=several, refit="mse")
    assert followed_scoring(search) == "neg_mean_squared_error"
    assert followed_scoring(GridSearchCV(Ridge(), {}, scoring=["r2"], refit="r2")) == "r2"
    assert followed_scoring(make_pipeline(LogisticRegressionCV(scoring="roc_auc"))) == "roc_auc"
    assert followed_scoring(GridSearchCV(Ridge(), {})) is None
    assert followed_scoring(Ridge()) is None


def test_a_scorer_that_needs_more_than_predictions_asks_for_a_number():
    fails = valuator(Ridge(), scoring=minus_coefficients, max_evals=15)
    with pytest.raises(ValueError, match=r"Fold 0: .* Give empty_score a number"):
        fails.fit(REG_X, REG_Y)
    assert fails.set_params(empty_score=0.0).fit(REG_X, REG_Y).empty_score_ == 0.0


def test_whether_an_entry_is_a_text_does_not_depend_on_other_rows():
    frame = pd.DataFrame(
        {"x": ["1", "2", "a", None] * 2, "y": [1, "b", 2.5, "2.5"] * 2, "z": np.arange(8.0)}
    )
    lookup = RowLookup(frame, np.arange(8.0))
    for row in range(8):
        assert lookup.find(frame.iloc[[row]]).tolist() == [row]
    assert np.array_equal(lookup.find(frame), np.arange(8.0))


def test_a_class_that_a_model_never_saw_has_probability_zero():
    model = GaussianNB().fit(X, 2 * Y)
    proba = model.predict_proba(X)
    labels = np.r_[[1, 3], 2 * Y[2:]]
    expected = proba[np.arange(2, 24), Y[2:]].sum() / 24
    assert true_class_probability(model, X, labels) == pytest.approx(expected, rel=1e-12)


def test_constant_targets_are_worth_nothing():
    fitted = valuator(Ridge(), max_evals=100).fit(REG_X, np.ones(24))
    assert fitted.score_ == fitted.empty_score_ == r2_score(np.ones(5), np.ones(5))
    np.testing.assert_allclose(fitted.values_, 0, atol=1e-15)

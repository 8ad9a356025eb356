"""Data-OOB against a slow loop over members and rows."""

import warnings

import numpy as np
import pandas as pd
import polars
import pytest
from scipy.sparse import csr_matrix
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelEncoder, OneHotEncoder
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from skdvl.valuators import DataOOBValuator
from skdvl.valuators.out_of_bag import RowMoments


@parametrize_with_checks(
    [
        DataOOBValuator(n_estimators=40, random_state=0),
        DataOOBValuator(GaussianNB(), n_estimators=40, random_state=0),
    ]
)
def test_scikit_learn_conformance(estimator, check):
    check(estimator)


def iris():
    X, y = load_iris(return_X_y=True)
    rows = np.random.default_rng(0).permutation(150)[:60]
    return X[rows], np.array(["setosa", "versicolor", "virginica"])[y[rows]]


def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return X[:60], y[:60]


class OwnTree(DecisionTreeClassifier):
    """A tree that predicts in its own way, so that its leaves must not be read directly."""

    def predict(self, X):
        return np.full(len(X), self.classes_[-1])


CLASSIFIERS = [
    RandomForestClassifier(12, random_state=0),
    RandomForestClassifier(12, max_samples=0.3, class_weight="balanced", random_state=0),
    ExtraTreesClassifier(12, bootstrap=True, random_state=0),
    BaggingClassifier(n_estimators=12, random_state=0),
    BaggingClassifier(n_estimators=12, max_features=2, random_state=0),
    BaggingClassifier(n_estimators=12, bootstrap_features=True, max_samples=5, random_state=0),
    BaggingClassifier(n_estimators=12, bootstrap=False, max_samples=0.5, random_state=0),
    BaggingClassifier(GaussianNB(), n_estimators=12, random_state=0),
    BaggingClassifier(OwnTree(), n_estimators=12, random_state=0),
]
REGRESSORS = [
    RandomForestRegressor(12, random_state=0),
    ExtraTreesRegressor(12, bootstrap=True, random_state=0),
    BaggingRegressor(n_estimators=12, max_features=5, random_state=0),
    BaggingRegressor(Ridge(), n_estimators=12, random_state=0),
]


def slow_loop(ensemble, X, y, score):
    """Scores of every row by every member that was not fitted on it, one prediction at a time."""
    scores = [[] for _ in y]
    columns = getattr(ensemble, "estimators_features_", [slice(None)] * len(ensemble.estimators_))
    for member, samples, own in zip(
        ensemble.estimators_, ensemble.estimators_samples_, columns, strict=True
    ):
        for i in set(range(len(y))) - set(samples):
            scores[i].append(score(member, X[i : i + 1, own], y[i]))
    count = np.array([len(s) for s in scores])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of rows with fewer than two scores
        mean = np.array([np.mean(s) for s in scores])
        error = np.array([np.std(s, ddof=1) / np.sqrt(len(s)) for s in scores])
    return count, mean, error


def is_right(code):
    return lambda member, x, wanted: member.predict(x)[0] == code(wanted)


def probability(code):
    def score(member, x, wanted):
        known = member.classes_.tolist()
        wanted = code(wanted)
        return member.predict_proba(x)[0, known.index(wanted)] if wanted in known else 0

    return score


@pytest.mark.filterwarnings("ignore:No member left out:UserWarning")
@pytest.mark.parametrize("scoring", [None, "accuracy", "true_class_probability"])
@pytest.mark.parametrize("ensemble", CLASSIFIERS, ids=str)
def test_values_of_classifiers_are_those_of_a_slow_loop(ensemble, scoring):
    X, y = iris()
    valuator = DataOOBValuator(ensemble, scoring=scoring).fit(X, y)
    encoder = LabelEncoder().fit(y)
    make = probability if scoring == "true_class_probability" else is_right
    score = make(lambda label: encoder.transform([label])[0])
    count, mean, error = slow_loop(valuator.estimator_, X, y, score)
    assert np.array_equal(valuator.n_out_of_bag_, count)
    np.testing.assert_allclose(valuator.values_, mean, rtol=1e-13)
    np.testing.assert_allclose(valuator.standard_errors_, error, rtol=1e-11, atol=1e-15)
    assert valuator.classes_.tolist() == encoder.classes_.tolist()


@pytest.mark.filterwarnings("ignore:No member left out:UserWarning")
@pytest.mark.parametrize("scoring", [None, "neg_mean_absolute_error"])
@pytest.mark.parametrize("ensemble", REGRESSORS, ids=str)
def test_values_of_regressors_are_those_of_a_slow_loop(ensemble, scoring):
    X, y = diabetes()
    valuator = DataOOBValuator(ensemble, scoring=scoring).fit(X, y)
    power = 1 if scoring else 2
    score = lambda member, x, wanted: -(abs(member.predict(x)[0] - wanted) ** power)  # noqa: E731
    count, mean, error = slow_loop(valuator.estimator_, X, y, score)
    assert np.array_equal(valuator.n_out_of_bag_, count)
    np.testing.assert_allclose(valuator.values_, mean, rtol=1e-12)
    np.testing.assert_allclose(valuator.standard_errors_, error, rtol=1e-9)


def test_a_callable_scores_rows_by_targets_and_predictions():
    X, y = iris()
    forest = RandomForestClassifier(20, random_state=0)
    costs = {"setosa": 3.0, "versicolor": 2.0, "virginica": 1.0}

    def cost(targets, predictions):
        return -np.array([costs[t] * (t != p) for t, p in zip(targets, predictions, strict=True)])

    by_cost = DataOOBValuator(forest, scoring=cost).fit(X, y)
    by_accuracy = DataOOBValuator(forest).fit(X, y)
    weight = np.array([costs[label] for label in y])
    np.testing.assert_allclose(by_cost.values_, weight * (by_accuracy.values_ - 1), atol=1e-14)


@pytest.mark.parametrize("wrong", [lambda t, p: 1.0, lambda t, p: np.full(len(t), np.nan)])
def test_scores_of_a_callable_are_checked(wrong):
    with pytest.raises(ValueError, match="one finite score per row"):
        DataOOBValuator(n_estimators=20, scoring=wrong).fit(*iris())


@pytest.mark.parametrize(
    ("data", "scoring"), [(iris, "neg_mean_squared_error"), (diabetes, "accuracy"), (iris, "f1")]
)
def test_scores_that_are_no_means_over_rows_are_refused(data, scoring):
    with pytest.raises(ValueError, match="one by one; use one of"):
        DataOOBValuator(n_estimators=20, scoring=scoring).fit(*data())


def test_without_an_estimator_targets_decide_on_the_forest():
    forest = DataOOBValuator(random_state=0).fit(*iris())
    assert isinstance(forest.estimator_, RandomForestClassifier)
    assert len(forest.estimator_.estimators_) == 200
    X, y = diabetes()
    again = forest.set_params(n_estimators=30).fit(X, y)
    assert isinstance(again.estimator_, RandomForestRegressor)
    assert len(again.estimator_.estimators_) == 30
    assert not hasattr(again, "classes_")


def test_any_model_is_bagged():
    X, y = iris()
    valuator = DataOOBValuator(LogisticRegression(max_iter=1000), n_estimators=30, random_state=1)
    valuator.fit(X, y)
    assert isinstance(valuator.estimator_, BaggingClassifier)
    assert valuator.estimator_.random_state == 1
    bagging = BaggingClassifier(LogisticRegression(max_iter=1000), n_estimators=30, random_state=1)
    assert np.array_equal(DataOOBValuator(bagging).fit(X, y).values_, valuator.values_)


def mixed_frame():
    rng = np.random.default_rng(0)
    ages = rng.normal(40, 10, 60)
    ages[::9] = np.nan
    towns = pd.Categorical(rng.choice(["Basel", "Bern", "Chur"], 60), ["Chur", "Bern", "Basel"])
    jobs = rng.choice(["cook", "smith"], 60)
    frame = pd.DataFrame(
        {"age": ages, "town": towns, "job": jobs, "count": rng.integers(9, size=60)}
    )
    return frame, np.where((frame["count"] > 4) ^ (rng.random(60) < 0.2), "yes", "no")


def by_column(model):
    columns = [
        ("numbers", SimpleImputer(), ["age", "count"]),
        ("texts", OneHotEncoder(handle_unknown="ignore"), ["town", "job"]),
    ]
    return make_pipeline(ColumnTransformer(columns), model)


def in_polars(frame):
    return polars.DataFrame(frame.astype({"town": str}).to_dict("list"))


@pytest.mark.parametrize("convert", [pd.DataFrame, in_polars])
@pytest.mark.parametrize("model", [LogisticRegression(), Ridge()])
def test_a_model_that_asks_for_columns_by_name_is_bagged(model, convert):
    X, y = mixed_frame()
    frame = convert(X)
    if isinstance(model, Ridge):
        y = X["count"].to_numpy() * 1.5
    valuator = DataOOBValuator(by_column(model), n_estimators=30, random_state=1).fit(frame, y)
    scores = np.full((30, 60), np.nan)
    for member, rows in enumerate(valuator.estimator_.estimators_samples_):
        rest = np.setdiff1d(np.arange(60), rows)
        fitted = by_column(model).fit(X.iloc[rows], y[rows])
        predicted = fitted.predict(X.iloc[rest])
        is_label = y.dtype.kind == "U"
        scores[member, rest] = predicted == y[rest] if is_label else -((predicted - y[rest]) ** 2)
    np.testing.assert_allclose(valuator.values_, np.nanmean(scores, axis=0), rtol=1e-12)
    assert valuator.estimator_.predict(frame[:5]).shape == (5,)


def test_an_ensemble_keeps_what_it_says_itself():
    X, y = iris()
    forest = RandomForestClassifier(15, random_state=3, n_jobs=1)
    fitted = DataOOBValuator(forest, random_state=0, n_jobs=2).fit(X, y).estimator_
    assert (fitted.n_estimators, fitted.random_state, fitted.n_jobs) == (15, 3, 1)
    fitted = DataOOBValuator(RandomForestClassifier(), n_estimators=12, random_state=0).fit(X, y)
    assert (fitted.estimator_.n_estimators, fitted.estimator_.random_state) == (12, 0)
    assert not hasattr(forest, "estimators_"), "the parameter is cloned"


@pytest.mark.parametrize("ensemble", [CLASSIFIERS[0], CLASSIFIERS[4]], ids=str)
def test_a_frozen_ensemble_is_not_fitted_again(ensemble):
    X, y = iris()
    frozen = FrozenEstimator(ensemble.fit(X, y))
    valuator = DataOOBValuator(frozen).fit(X, y)
    assert valuator.estimator_ is ensemble
    assert np.array_equal(valuator.values_, DataOOBValuator(ensemble).fit(X, y).values_)


def test_a_frozen_ensemble_values_its_own_data_only():
    X, y = iris()
    frozen = FrozenEstimator(RandomForestClassifier(20, random_state=0).fit(X, y))
    for other in [(X[:40], y[:40]), (X, np.roll(np.char.add(y, "?"), 1))]:
        with pytest.raises(ValueError, match="was not fitted on these data"):
            DataOOBValuator(frozen).fit(*other)
    with pytest.raises(ValueError, match="fitted on 4 features, but X has 3"):
        DataOOBValuator(frozen).fit(X[:, :3], y)
    with pytest.raises(ValueError, match="n_estimators=30, but the frozen ensemble has 20"):
        DataOOBValuator(frozen, n_estimators=30).fit(X, y)
    with pytest.raises(ValueError, match="must be a forest or a bagging ensemble, got GaussianNB"):
        DataOOBValuator(FrozenEstimator(GaussianNB().fit(X, y))).fit(X, y)
    with pytest.raises(NotFittedError):
        DataOOBValuator(FrozenEstimator(RandomForestClassifier())).fit(X, y)


def test_boosted_models_are_models_to_bag():
    boosted = GradientBoostingClassifier(n_estimators=3)
    valuator = DataOOBValuator(boosted, n_estimators=20, random_state=0).fit(*iris())
    assert isinstance(valuator.estimator_.estimators_[0], GradientBoostingClassifier)


def test_what_predicts_no_target_is_refused():
    with pytest.raises(
        ValueError, match="must be a classifier or a regressor, got IsolationForest"
    ):
        DataOOBValuator(IsolationForest()).fit(*iris())


def test_rows_that_are_never_left_out_get_nan_and_one_warning():
    X, y = iris()
    with pytest.warns(UserWarning, match=r"No member left out \d+ of the 60 samples") as caught:
        valuator = DataOOBValuator(n_estimators=3, random_state=0).fit(X, y)
    assert len(caught) == 1
    never = valuator.n_out_of_bag_ == 0
    assert 0 < never.sum() < 60
    assert np.array_equal(np.isnan(valuator.values_), never)
    assert np.array_equal(np.isnan(valuator.standard_errors_), valuator.n_out_of_bag_ < 2)


def test_an_ensemble_that_leaves_nothing_out_is_refused():
    with pytest.raises(ValueError, match="Use bootstrap=True"):
        DataOOBValuator(ExtraTreesClassifier(5)).fit(*iris())


@pytest.mark.parametrize("base", [None, GaussianNB()])
def test_jobs_change_nothing(base):
    X, y = iris()
    alone, together = (
        DataOOBValuator(base, n_estimators=40, random_state=0, n_jobs=n_jobs).fit(X, y)
        for n_jobs in (1, 2)
    )
    assert np.array_equal(alone.values_, together.values_)
    assert np.array_equal(alone.standard_errors_, together.standard_errors_)


def test_containers_give_the_same_values():
    X, y = iris()
    plain = DataOOBValuator(n_estimators=40, random_state=0).fit(X, y)
    for rows in (csr_matrix(X), pd.DataFrame(X, columns=list("abcd")), X.tolist()):
        other = DataOOBValuator(n_estimators=40, random_state=0).fit(rows, y)
        np.testing.assert_allclose(other.values_, plain.values_, rtol=1e-13)
    assert other.fit_transform(X, y).shape == (60, 1)
    assert other.get_feature_names_out().tolist() == ["data_oob_value"]


def test_verbose_is_the_ensembles(capsys):
    DataOOBValuator(n_estimators=30, random_state=0, verbose=2, n_jobs=1).fit(*iris())
    assert "building tree 1 of 30" in capsys.readouterr().out


def test_intervals_cover_the_value_of_an_endless_ensemble():
    X, y = diabetes()
    parameters = {"scoring": "neg_mean_absolute_error", "n_jobs": 1}
    truth = DataOOBValuator(n_estimators=1000, random_state=0, **parameters).fit(X, y).values_
    missed = 0
    for seed in range(1, 6):
        small = DataOOBValuator(n_estimators=100, random_state=seed, **parameters).fit(X, y)
        lower, upper = small.confidence_interval(0.95).T
        missed += ((truth < lower) | (truth > upper)).sum()
    # 300 intervals at 5 %, widened by sqrt(1.1) for the error of the truth: 18 are expected, and
    # rows of one forest miss together, so that 45 stand for odds below 1e-4
    assert missed <= 45


def test_intervals_of_labels_come_with_a_caveat():
    valuator = DataOOBValuator(n_estimators=30, random_state=0).fit(*iris())
    with pytest.warns(UserWarning, match="few members disagree"):
        valuator.confidence_interval()


def test_wrong_labels_have_low_values():
    X, y = iris()
    flipped = np.arange(0, 60, 10)
    y[flipped] = np.where(y[flipped] == "setosa", "virginica", "setosa")
    values = DataOOBValuator(random_state=0).fit(X, y).values_
    assert len(np.intersect1d(np.argsort(values)[:6], flipped)) >= 4, "chance would find 0.6"


def test_moments_merge_without_cancellation():
    rng = np.random.default_rng(0)
    scores = 1e8 + rng.normal(size=(40, 5))
    is_there = rng.random(scores.shape) < 0.5
    is_there[:, 4] = False
    is_there[:10, 3] = False
    whole = RowMoments(*np.zeros((3, 5)))
    for part in np.split(np.arange(40), [10, 11, 30]):
        whole.merge(RowMoments.of(np.where(is_there[part], scores[part], 0), is_there[part]))
    for j in range(4):
        own = scores[is_there[:, j], j]
        assert whole.means()[j] == pytest.approx(own.mean(), rel=1e-15)
        error = np.std(own, ddof=1) / np.sqrt(len(own))
        assert whole.standard_errors()[j] == pytest.approx(error, rel=1e-7)
    assert np.isnan(whole.means()[4])

"""What holds for every valuator by retraining."""

from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, make_classification
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 - makes the next import possible
from sklearn.impute import IterativeImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneOut,
    ShuffleSplit,
    StratifiedKFold,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

import skdvl
from skdvl import LeaveOneOutValuator, ShapleyValuator
from skdvl.utilities.refit import can_refit_in_place

X, Y = make_classification(n_samples=40, n_features=4, random_state=0)
X_VAL, Y_VAL = make_classification(n_samples=70, n_features=4, random_state=1)
OWNERS = np.array(["anna", "bert", "carl", "dora"])[np.arange(40) % 4]


def games():
    yield "cv", {}, {}
    yield "held out", {}, {"X_val": X_VAL, "y_val": Y_VAL}
    yield "groups", {}, {"groups": OWNERS}
    yield "groups, held out", {}, {"groups": OWNERS, "X_val": X_VAL, "y_val": Y_VAL}
    yield "group folds", {"cv": GroupKFold(3)}, {"groups": OWNERS}


@pytest.mark.parametrize("engine", ["auto", "refit"])
@pytest.mark.parametrize(
    ("parameters", "fit"), [g[1:] for g in games()], ids=[g[0] for g in games()]
)
def test_shapley_values_add_up(parameters, fit, engine):
    valuator = ShapleyValuator(GaussianNB(), engine=engine, random_state=0, **parameters)
    valuator.fit(X, Y, **fit)
    total = valuator.score_ - valuator.empty_score_
    assert valuator.values_.sum() == pytest.approx(total, abs=1e-10)
    assert valuator.values_.shape == valuator.standard_errors_.shape == (40,)
    assert valuator.n_evals_ <= (1000 if engine == "refit" else 4000)


def test_exact_values_add_up():
    valuator = ShapleyValuator(GaussianNB(), method="exact").fit(X[:9], Y[:9])
    assert valuator.method_ == "exact"
    assert valuator.converged_
    assert not valuator.standard_errors_.any()
    total = valuator.score_ - valuator.empty_score_
    assert valuator.values_.sum() == pytest.approx(total, abs=1e-10)


def enumerate_by_hand(model, folds, X, Y):
    """Shapley values of the mean of the folds' games, straight from the definition."""
    values = np.zeros(len(Y))
    for train, test in folds:

        def utility(rows, train=train, test=test):
            prior = np.bincount(Y[train], minlength=2) / len(train)
            counts = np.bincount(Y[list(rows)], minlength=2) if rows else np.zeros(2)
            if (counts > 0).sum() == 2:
                fitted = clone(model).fit(X[sorted(rows)], Y[sorted(rows)])
                return fitted.score(X[test], Y[test])
            dummy = np.argmax((counts + prior) / (counts.sum() + 1))
            return np.mean(Y[test] == dummy)

        for i in train:
            others = [j for j in train if j != i]
            for k in range(len(train)):
                weight = 1 / (len(train) * comb(len(others), k)) / len(folds)
                for rows in combinations(others, k):
                    values[i] += weight * (utility((*rows, i)) - utility(rows))
    return values


@pytest.mark.parametrize("engine", ["auto", "refit"])
def test_the_game_of_cross_validation_by_hand(engine):
    rows = np.concatenate([np.flatnonzero(label == Y)[:4] for label in (0, 1)])
    model = LogisticRegression()
    folds = list(StratifiedKFold(2).split(X[rows], Y[rows]))
    expected = enumerate_by_hand(model, folds, X[rows], Y[rows])
    valuator = ShapleyValuator(model, cv=StratifiedKFold(2), method="exact", engine=engine)
    found = valuator.fit(X[rows], Y[rows])
    np.testing.assert_allclose(found.values_, expected, atol=1e-12)


def test_leave_one_out_by_hand():
    model = GaussianNB()
    found = LeaveOneOutValuator(model).fit(X, Y, X_val=X_VAL, y_val=Y_VAL)
    full = clone(model).fit(X, Y).score(X_VAL, Y_VAL)
    keep = ~np.eye(40, dtype=bool)
    expected = [full - clone(model).fit(X[k], Y[k]).score(X_VAL, Y_VAL) for k in keep]
    np.testing.assert_allclose(found.values_, expected, atol=1e-12)
    assert found.n_evals_ == 42


def test_groups_of_one_row_are_rows():
    labels = np.array([f"owner {(17 * i) % 40}" for i in range(40)])
    rows = ShapleyValuator(GaussianNB(), random_state=3).fit(X, Y)
    groups = ShapleyValuator(GaussianNB(), random_state=3).fit(X, Y, groups=labels)
    np.testing.assert_array_equal(groups.values_, rows.values_)
    np.testing.assert_array_equal(groups.standard_errors_, rows.standard_errors_)


def test_groups():
    valuator = ShapleyValuator(GaussianNB(), random_state=0).fit(X, Y, groups=OWNERS)
    assert valuator.group_labels_.tolist() == ["anna", "bert", "carl", "dora"]
    assert valuator.method_ == "exact"
    for label, value in zip(valuator.group_labels_, valuator.group_values_, strict=True):
        np.testing.assert_allclose(valuator.values_[label == OWNERS], value / 10)
    with pytest.raises(ValueError, match="missing labels"):
        valuator.fit(X, Y, groups=np.where(OWNERS == "anna", None, OWNERS))
    with pytest.raises(ValueError, match="one label per sample"):
        valuator.fit(X, Y, groups=OWNERS[:-1])


def test_rows_without_a_fold():
    with pytest.warns(UserWarning, match="No fold trains on"):
        valuator = ShapleyValuator(
            GaussianNB(), cv=[(np.arange(30), np.arange(30, 40))], random_state=0
        ).fit(X, Y)
    assert np.isnan(valuator.values_[30:]).all()
    assert np.isfinite(valuator.values_[:30]).all()
    assert np.nansum(valuator.values_) == pytest.approx(valuator.score_ - valuator.empty_score_)


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


def test_random_state_never_changes_the_game():
    model = DecisionTreeClassifier(max_features=1, random_state=np.random.RandomState(7))
    found = [
        ShapleyValuator(model, method="exact", random_state=seed).fit(X[:8], Y[:8]).values_
        for seed in (0, 1, None)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


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


def test_one_validation_row_and_regression():
    X, y = load_diabetes(return_X_y=True)
    valuator = ShapleyValuator(Ridge(), scoring="neg_mean_squared_error", random_state=0)
    valuator.fit(X[:30], y[:30], X_val=X[30:31], y_val=y[30:31])
    assert np.isfinite(valuator.values_).all()
    cross_validated = ShapleyValuator(
        Ridge(), scoring="neg_mean_squared_error", cv=LeaveOneOut(), random_state=0
    ).fit(X[:12], y[:12])
    assert np.isfinite(cross_validated.values_).all()


@pytest.mark.parametrize(
    "scoring",
    [
        "accuracy",
        "balanced_accuracy",
        "f1_macro",
        "roc_auc_ovr",
        "neg_log_loss",
        "neg_brier_score",
        "true_class_probability",
    ],
)
def test_a_class_that_coalitions_and_folds_lack(scoring):
    rng = np.random.default_rng(0)
    labels = np.array([0, 1, 2])[rng.integers(0, 2, 40)]
    labels[:6] = 2
    # rows 0..5 are all of class 2; the first fold does not train on them
    folds = [(np.arange(6, 40), np.arange(0, 20)), (np.arange(0, 30), np.arange(0, 40))]
    valuator = ShapleyValuator(
        GaussianNB(), scoring=scoring, cv=folds, max_evals=400, random_state=0
    )
    assert np.isfinite(valuator.fit(X, labels).values_).all()


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


def test_shuffled_splitters_are_drawn_once():
    valuator = ShapleyValuator(
        GaussianNB(), cv=ShuffleSplit(6, train_size=0.9), random_state=0
    ).fit(X, Y)
    total = valuator.score_ - valuator.empty_score_
    assert np.nansum(valuator.values_) == pytest.approx(total, abs=1e-10)


def test_mislabelled_rows_have_low_values():
    """A small version; the figures of the documentation come from tests/benchmarks."""
    features, labels = load_breast_cancer(return_X_y=True)
    features = StandardScaler().fit_transform(features)
    scores = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        rows = rng.choice(len(labels), 80, replace=False)
        noisy = labels[rows].copy()
        flipped = rng.choice(80, 8, replace=False)
        noisy[flipped] = 1 - noisy[flipped]
        valuator = ShapleyValuator(
            LogisticRegression(), scoring="true_class_probability", random_state=seed
        ).fit(features[rows], noisy)
        scores.append(roc_auc_score(np.isin(np.arange(80), flipped), -valuator.values_))
    assert np.mean(scores) > 0.9


def test_probabilities_of_svc_are_not_needed_for_margins():
    found = ShapleyValuator(SVC(), scoring="roc_auc", max_evals=200, random_state=0).fit(X, Y)
    assert np.isfinite(found.values_).all()


def test_models_that_go_on_with_a_generator_are_cloned():
    imputer = IterativeImputer(sample_posterior=True, imputation_order="random", random_state=0)
    assert not can_refit_in_place(make_pipeline(imputer, Ridge()))
    assert can_refit_in_place(make_pipeline(StandardScaler(), Ridge()))


def test_splitters_that_shuffle_anew_are_refused():
    search = GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=KFold(3, shuffle=True))
    with pytest.raises(ValueError, match=r"cv=KFold.*integer random_state"):
        ShapleyValuator(search, scoring="r2").fit(X, X[:, 0])


def coefficient_scorer(pipeline, X, y):
    return float(pipeline[-1].coef_[0, 0])


def test_a_scorer_may_look_into_the_steps_of_a_pipeline():
    model = make_pipeline(StandardScaler(), LogisticRegression())
    valuator = ShapleyValuator(
        model, scoring=coefficient_scorer, empty_score=0.0, error_score=0.0, max_evals=200
    ).fit(X, Y)
    assert np.isfinite(valuator.values_).all()


def test_the_size_of_an_enumeration_is_told_at_once():
    many = np.random.default_rng(0).normal(size=(3000, 2))
    with pytest.raises(ValueError, match="over 10"):
        ShapleyValuator(GaussianNB(), method="exact").fit(many, many[:, 0] > 0)


def test_single_precision():
    targets = X[:, 0].astype(np.float32)
    found = ShapleyValuator(Ridge(), max_evals=200, random_state=0).fit(
        X.astype(np.float32), targets
    )
    assert found.engine_ == "refit"
    plain = ShapleyValuator(Ridge(), max_evals=200, random_state=0).fit(X, X[:, 0])
    np.testing.assert_allclose(found.values_, plain.values_, atol=1e-4)

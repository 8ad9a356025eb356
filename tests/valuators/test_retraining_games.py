"""The games of valuators by retraining: folds, held-out rows, groups; values add up, as by hand."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, make_classification
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, LeaveOneOut, ShuffleSplit, StratifiedKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from skdvl import LeaveOneOutValuator, ShapleyValuator

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


def test_random_state_never_changes_the_game():
    model = DecisionTreeClassifier(max_features=1, random_state=np.random.RandomState(7))
    found = [
        ShapleyValuator(model, method="exact", random_state=seed).fit(X[:8], Y[:8]).values_
        for seed in (0, 1, None)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


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

"""u(S) by refitting: scikit-learn's own numbers, and the rules for what has no model."""

import contextlib
import pickle
import threading
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn import config_context, get_config, metrics
from sklearn.base import BaseEstimator, ClassifierMixin, clone, is_classifier
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, SVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils import all_estimators

from skdvl.metrics import resolve_scorer
from skdvl.parallel import single_threaded
from skdvl.utilities.dispatch import has_own_score
from skdvl.utilities.fold import Fold, Judge, take_rows
from skdvl.utilities.quiet import quiet_warnings
from skdvl.utilities.record import recording
from skdvl.utilities.refit import RefitUtility, can_refit_in_place
from skdvl.utilities.supervised import FallbackRule

N_ROWS = 24


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """As in a valuation: threads that wait for each other take longer than these fits."""
    with single_threaded():
        yield


def make_fold(kind, seed=0, missing_in_val=None):
    """Return a fold: "two" or "three" classes, "words" for labels, or "numbers" for targets."""
    rng = np.random.default_rng(seed)
    n_classes = {"two": 2, "three": 3, "words": 3, "numbers": 2}[kind]
    codes = np.arange(N_ROWS + 40) % n_classes
    X = rng.normal(size=(len(codes), 3))
    X[:, 0] += codes
    y = codes
    classes = np.arange(n_classes)
    if kind == "words":
        classes = np.array(["bird", "cat", "dog"])
        y = classes[codes]
    elif kind == "numbers":
        y, classes = 10 + X @ [1.0, 2.0, 0.5] + rng.normal(size=len(codes)), None
    rows = np.arange(N_ROWS)
    val = np.arange(N_ROWS, len(codes))
    if missing_in_val is not None:
        val = val[codes[val] != missing_in_val]
    return Fold(0, X[rows], y[rows], X[val], y[val], classes)


def make_utility(estimator, fold, scoring=None, **rules):
    scorer = resolve_scorer(scoring, estimator)
    judge = Judge(fold, scorer, scorer is None and has_own_score(estimator))
    return RefitUtility(estimator, fold, judge, FallbackRule(judge, **rules))


def coalition_of(rows):
    coalition = np.zeros((1, N_ROWS), dtype=bool)
    coalition[0, rows] = True
    return coalition


def random_coalitions(n, seed=1):
    rng = np.random.default_rng(seed)
    coalitions = rng.random((n, N_ROWS)) < rng.random((n, 1))
    coalitions[~coalitions.any(axis=1), 0] = True
    return coalitions


def by_hand(estimator, fold, scoring, coalition):
    """Score a plain clone as any user would; None where it fails."""
    with quiet_warnings():
        try:
            model = clone(estimator).fit(take_rows(fold.X, coalition), fold.y[coalition])
            if scoring is None:
                return model.score(fold.X_val, fold.y_val)
            return resolve_scorer(scoring, model)(model, fold.X_val, fold.y_val)
        except ValueError:
            return None


# --- the numbers are scikit-learn's -----------------------------------------------------------

CLASSIFIERS = [
    GaussianNB(),
    LogisticRegression(),
    DecisionTreeClassifier(random_state=0),
    KNeighborsClassifier(3),
    SVC(),
    RidgeClassifier(),
    make_pipeline(StandardScaler(), LogisticRegression()),
]
REGRESSORS = [Ridge(), DecisionTreeRegressor(random_state=0), KNeighborsRegressor(3), SVR()]
BINARY = ["f1", "average_precision", "roc_auc"]
OF_LABELS = [None, "accuracy", "balanced_accuracy", "f1"]
OF_PROBABILITIES = ["roc_auc_ovr", "neg_log_loss", "neg_brier_score", "true_class_probability"]
OF_RANKS = ["average_precision", "roc_auc"]
OF_TARGETS = [None, "r2", "neg_mean_squared_error", "neg_mean_absolute_error", "squashed_r2"]


def combinations():
    for kind in ("two", "words"):
        for estimator in CLASSIFIERS:
            scorings = [*OF_LABELS, *OF_RANKS]
            scorings += OF_PROBABILITIES if hasattr(estimator, "predict_proba") else []
            for scoring in scorings:
                if kind == "two" or scoring not in BINARY:
                    yield kind, estimator, scoring
    for estimator in REGRESSORS:
        for scoring in OF_TARGETS:
            yield "numbers", estimator, scoring


def test_utilities_are_the_scores_of_plain_clones_to_the_bit():
    n_compared = 0
    for kind, estimator, scoring in combinations():
        fold = make_fold(kind)
        utility = make_utility(estimator, fold, scoring)
        coalitions = random_coalitions(4)
        found = utility(coalitions)
        for coalition, value in zip(coalitions, found, strict=True):
            if kind != "numbers" and len(np.unique(fold.y[coalition])) < len(fold.classes):
                continue  # where the view has columns that the model lacks
            expected = by_hand(estimator, fold, scoring, coalition)
            if expected is not None:
                assert value == expected, (kind, estimator, scoring)
                n_compared += 1
    assert n_compared > 150


def test_a_score_of_the_estimators_own_is_taken():
    class Own(GaussianNB):
        def score(self, X, y):
            return 100.0 + super().score(X, y)

    fold = make_fold("two")
    utility = make_utility(Own(), fold)
    plain = make_utility(GaussianNB(), fold)
    coalitions = random_coalitions(5)
    assert_array_equal(utility(coalitions), 100 + plain(coalitions))
    # of a dummy it is the accuracy
    assert utility(np.zeros((1, N_ROWS), bool)) == plain(np.zeros((1, N_ROWS), bool))


def test_a_callable_scorer_gets_the_view_and_the_users_labels():
    seen = []

    def scorer(estimator, X, y):
        seen.append((estimator.classes_.tolist(), set(y), estimator.predict_proba(X).shape))
        return estimator.predict_proba(X)[:, 2].mean()

    fold = make_fold("words")
    utility = make_utility(GaussianNB(), fold, scorer)
    rows = np.flatnonzero(fold.y != "dog")
    assert utility(coalition_of(rows)) == 0.0
    assert seen == [(["bird", "cat", "dog"], {"bird", "cat", "dog"}, (40, 3))]


# --- one class, a class missing ---------------------------------------------------------------


def judged(scoring, fold, labels, proba, margins=None):
    """Judge predictions by scikit-learn's functions."""
    y, classes = fold.y_val, fold.classes
    positive = y == classes[-1]
    ranks = margins if margins is not None else proba[:, -1]
    return {
        "accuracy": lambda: metrics.accuracy_score(y, labels),
        "balanced_accuracy": lambda: metrics.balanced_accuracy_score(y, labels),
        "f1": lambda: metrics.f1_score(y, labels),
        "average_precision": lambda: metrics.average_precision_score(positive, ranks),
        "roc_auc": lambda: metrics.roc_auc_score(positive, ranks),
        "roc_auc_ovr": lambda: (
            metrics.roc_auc_score(positive, proba[:, -1])
            if len(classes) == 2
            else metrics.roc_auc_score(y, proba, multi_class="ovr", labels=classes)
        ),
        "neg_log_loss": lambda: -metrics.log_loss(y, proba, labels=classes),
        "neg_brier_score": lambda: (
            -np.mean((proba[:, -1] - positive) ** 2)
            if len(classes) == 2
            else -metrics.brier_score_loss(y, proba, labels=classes)
        ),
        "true_class_probability": lambda: np.mean(
            proba[np.arange(len(y)), np.searchsorted(classes, y)]
        ),
    }[scoring]()


def predictions_of(model, fold):
    """Return labels, probabilities for all classes, and margins of a fitted model."""
    labels = model.predict(fold.X_val)
    proba = margins = None
    n_classes, seen = len(fold.classes), np.searchsorted(fold.classes, model.classes_)
    if hasattr(model, "predict_proba"):
        proba = np.zeros((len(labels), n_classes))
        proba[:, seen] = model.predict_proba(fold.X_val)
    if hasattr(model, "decision_function"):
        margins = model.decision_function(fold.X_val)
        if len(seen) == 1:
            margins = np.zeros(len(labels))
    return labels, proba, margins


def predictions_of_dummy(fold, counts):
    """Return what stands for a model that fails on a coalition with so many rows of each class."""
    prior = np.bincount(np.searchsorted(fold.classes, fold.y)) / len(fold.y)
    proba = (counts + prior) / (sum(counts) + 1)
    labels = np.full(len(fold.y_val), fold.classes[np.argmax(proba)])
    return labels, np.tile(proba, (len(labels), 1)), np.zeros(len(labels))


SCORINGS = ["accuracy", "balanced_accuracy", *BINARY, *OF_PROBABILITIES]
CASES = [{0}, {-1}, {1, 2}, {0, 1, 2}]  # the classes of a coalition


@pytest.mark.parametrize(
    ("kind", "scoring"),
    [("two", scoring) for scoring in SCORINGS]
    + [(kind, s) for kind in ("three", "words") for s in SCORINGS if s not in BINARY],
)
@pytest.mark.parametrize("estimator", CLASSIFIERS[:3], ids=lambda e: type(e).__name__)
def test_every_scorer_has_a_value_for_every_set_of_classes(kind, scoring, estimator):
    fold = make_fold(kind)
    codes = np.searchsorted(fold.classes, fold.y)
    for wanted in CASES:
        wanted = {code % len(fold.classes) for code in wanted}
        rows = np.flatnonzero(np.isin(codes, list(wanted)))
        value = make_utility(estimator, fold, scoring)(coalition_of(rows))[0]
        with quiet_warnings():
            try:
                model = clone(estimator).fit(fold.X[rows], fold.y[rows])
            except ValueError:
                counts = np.bincount(codes[rows], minlength=len(fold.classes))
                expected = judged(scoring, fold, *predictions_of_dummy(fold, counts))
            else:
                expected = judged(scoring, fold, *predictions_of(model, fold))
        assert_allclose(value, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["two", "three"])
@pytest.mark.parametrize("scoring", SCORINGS)
def test_every_scorer_has_a_value_or_an_error_where_y_val_lacks_a_class(kind, scoring):
    fold = make_fold(kind, missing_in_val=1)
    assert len(np.unique(fold.y_val)) == len(fold.classes) - 1
    undefined = {"roc_auc", "roc_auc_ovr", "neg_log_loss", "neg_brier_score"}
    if kind == "three":
        undefined |= {"average_precision", "f1"}
    coalitions = np.concatenate([np.zeros((1, N_ROWS), bool), random_coalitions(8)])
    utility = make_utility(GaussianNB(), fold, scoring)
    if scoring in undefined and not (kind == "two" and scoring == "neg_brier_score"):
        with pytest.raises(ValueError, match=r"Fold 0: the scorer fails .*Give \w+ a number"):
            utility(coalitions)
        return
    found = utility(coalitions)
    assert np.isfinite(found).all()
    for coalition, value in zip(coalitions[1:], found[1:], strict=True):
        expected = by_hand(GaussianNB(), fold, scoring, coalition)
        if len(np.unique(fold.y[coalition])) == len(fold.classes):
            assert value == expected


@pytest.mark.parametrize("scoring", OF_TARGETS)
@pytest.mark.parametrize("n_rows", [0, 1, 2])
def test_regressors_have_a_value_for_the_smallest_coalitions(scoring, n_rows):
    fold = make_fold("numbers")
    rows = np.arange(n_rows)
    for estimator in (Ridge(), KNeighborsRegressor(3)):
        value = make_utility(estimator, fold, scoring)(coalition_of(rows))[0]
        expected = by_hand(estimator, fold, scoring, coalition_of(rows)[0])
        if expected is None:  # the coalition's mean; of no rows, the mean of all
            mean = fold.y[rows].mean() if n_rows else fold.y.mean()
            constant = np.full(len(fold.y_val), mean)
            r2 = metrics.r2_score(fold.y_val, constant)
            expected = {
                None: r2,
                "r2": r2,
                "squashed_r2": 1 / (2 - r2),
                "neg_mean_squared_error": -metrics.mean_squared_error(fold.y_val, constant),
                "neg_mean_absolute_error": -metrics.mean_absolute_error(fold.y_val, constant),
            }[scoring]
        assert_allclose(value, expected, rtol=1e-12)


def test_constant_targets_have_scikit_learns_values():
    fold = make_fold("numbers")
    flat = Fold(0, fold.X, fold.y, fold.X_val, np.full(40, 3.0), None)
    found = make_utility(Ridge(), flat, "r2")(random_coalitions(3))
    assert_array_equal(found, 0.0)


# --- what fails -------------------------------------------------------------------------------


def test_the_dummy_of_a_refused_coalition_by_hand():
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


def test_the_empty_coalition_is_the_prior_of_the_fold():
    fold = make_fold("three")
    nobody = np.zeros((1, N_ROWS), dtype=bool)
    prior = np.bincount(fold.y) / N_ROWS
    expected = np.mean(np.log(prior[fold.y_val]))
    assert_allclose(make_utility(GaussianNB(), fold, "neg_log_loss")(nobody), [expected])
    assert make_utility(GaussianNB(), fold, "accuracy", empty_score=-3)(nobody) == [-3.0]


def test_refused_coalitions_are_counted_with_their_reason():
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


def test_error_score():
    fold = make_fold("two")
    refused = coalition_of(np.flatnonzero(fold.y == 0)[:3])
    assert make_utility(LogisticRegression(), fold, error_score=0.25)(refused) == [0.25]
    utility = make_utility(LogisticRegression(), fold, error_score="raise")
    with pytest.raises(ValueError, match=r"Fold 0: .* 3 training rows \[0, 2, 4\].*class"):
        utility(refused)
    good = coalition_of([0, 1, 2, 3])
    assert utility(good) == make_utility(LogisticRegression(), fold)(good)


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
def test_whatever_goes_wrong_costs_one_coalition(mood, scoring):
    fold = make_fold("two")
    with recording() as record:
        found = make_utility(Moody(mood), fold, scoring)(
            np.concatenate([coalition_of([0, 1, 2]), coalition_of([0, 1, 2, 3])])
        )
    assert np.isfinite(found).all()
    assert record.n_refused == 1


@pytest.mark.parametrize("mood", [MemoryError(), KeyboardInterrupt(), SystemExit()])
def test_what_is_no_failure_of_the_model_ends_the_run(mood):
    utility = make_utility(Moody(mood), make_fold("two"))
    with pytest.raises(type(mood)):
        utility(coalition_of([0, 1, 2]))


def test_regressors_that_predict_nan_are_refused():
    class Nan(Ridge):
        def predict(self, X):
            return np.full(len(X), np.nan)

    fold = make_fold("numbers")
    for scoring in OF_TARGETS:
        with recording() as record:
            found = make_utility(Nan(), fold, scoring)(random_coalitions(2))
        assert np.isfinite(found).all()
        assert record.n_refused == 2


# --- the same object, fitted again ------------------------------------------------------------

# they take seconds
LEFT_OUT = {
    *("GaussianProcessClassifier", "MLPClassifier", "MLPRegressor", "TunedThresholdClassifierCV"),
    *("GradientBoostingClassifier", "GradientBoostingRegressor", "LassoCV", "ElasticNetCV"),
    *("LogisticRegressionCV", "RFECV", "SequentialFeatureSelector"),
}


def default_instances():
    for kind, base in (("classifier", GaussianNB()), ("regressor", Ridge())):
        members = [("a", base), ("b", clone(base))]
        wanted = {"random_state": 0, "n_estimators": 3, "max_iter": 5}
        wanted |= {"estimator": base, "estimators": members}
        for name, cls in all_estimators(type_filter=kind):
            if name not in LEFT_OUT and not name.startswith(("MultiTask", "MultiOutput")):
                taken = cls._get_param_names()
                options = {key: value for key, value in wanted.items() if key in taken}
                yield pytest.param(cls(**options), id=name)


def default_transformers():
    wanted = {"random_state": 0, "n_components": 2, "n_estimators": 3, "max_iter": 5, "n_iter": 5}
    wanted |= {"estimator": LogisticRegression(), "n_features_to_select": 2}
    for name, cls in all_estimators(type_filter="transformer"):
        if name in LEFT_OUT:
            continue
        taken = cls._get_param_names()
        options = {key: value for key, value in wanted.items() if key in taken}
        with contextlib.suppress(TypeError, ValueError):  # some need more, or take other words
            yield pytest.param(make_pipeline(cls(**options), GaussianNB()), id=name)


with quiet_warnings():  # some are deprecated
    INSTANCES = [*default_instances(), *default_transformers()]


@pytest.mark.parametrize("estimator", INSTANCES)
def test_fitting_the_same_object_again_is_fitting_a_clone(estimator):
    fold = make_fold("two" if is_classifier(estimator) else "numbers")
    fold = with_data(fold, np.abs(fold.X), np.abs(fold.X_val))
    if "Imputer" in str(estimator):
        fold.X[::5, 1] = np.nan
    one_class = np.arange(N_ROWS) % 2 == 0
    one_row = np.arange(N_ROWS) == 3
    coalitions = [random_coalitions(4), [one_class, one_row], random_coalitions(4, seed=2)]
    coalitions = np.concatenate(coalitions)
    as_it_likes, cloning = make_utility(estimator, fold), make_utility(estimator, fold)
    cloning._in_place = False
    assert_array_equal(as_it_likes(coalitions), cloning(coalitions))


class NotOurs(GaussianNB):
    pass


@pytest.mark.parametrize(
    "estimator",
    [
        NotOurs(),
        make_pipeline(StandardScaler(), NotOurs()),
        SGDClassifier(warm_start=True),
        make_pipeline(StandardScaler(), MLPClassifier(warm_start=True)),
        RandomForestClassifier(random_state=np.random.RandomState(0)),
    ],
    ids=lambda e: type(e).__name__,
)
def test_what_may_remember_an_earlier_fit_is_cloned(estimator):
    assert not can_refit_in_place(estimator)


def test_a_utility_is_a_function_even_of_a_model_that_starts_warm():
    fold = make_fold("two")
    utility = make_utility(SGDClassifier(warm_start=True, random_state=0), fold)
    coalitions = random_coalitions(10)
    assert_array_equal(utility(coalitions)[::-1], utility(coalitions[::-1]))


def test_the_users_estimator_is_never_fitted():
    estimator = LogisticRegression()
    make_utility(estimator, make_fold("two"))(random_coalitions(3))
    assert not hasattr(estimator, "coef_")


def test_threads_do_not_share_a_model():
    fold = make_fold("two")
    utility = make_utility(GaussianNB(), fold)
    coalitions = random_coalitions(60)
    expected = utility(coalitions)
    found = {}

    def evaluate(name):
        found[name] = np.concatenate([utility(coalitions[j : j + 1]) for j in range(60)])

    threads = [threading.Thread(target=evaluate, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for values in found.values():
        assert_array_equal(values, expected)


def test_a_pickled_utility_is_the_same_function():
    utility = make_utility(LogisticRegression(), make_fold("words"), "neg_log_loss")
    coalitions = random_coalitions(5)
    expected = utility(coalitions)
    again = pickle.loads(pickle.dumps(utility))
    assert_array_equal(again(coalitions), expected)
    assert again.fingerprint() == utility.fingerprint()


# --- data of all kinds ------------------------------------------------------------------------


def with_data(fold, X, X_val):
    return Fold(0, X, fold.y, X_val, fold.y_val, fold.classes)


def test_frames_sparse_matrices_and_arrays_have_the_same_utilities():
    fold = make_fold("words")
    coalitions = random_coalitions(6)
    model = GaussianNB()
    expected = make_utility(model, fold)(coalitions)
    names = ["a", "b", "c"]
    for convert in (
        lambda X: pd.DataFrame(X, columns=names),
        lambda X: pd.DataFrame(X, columns=names, index=np.arange(len(X))[::-1]),
        lambda X: pl.DataFrame(X, schema=names),
        np.asfortranarray,
    ):
        converted = with_data(fold, convert(fold.X), convert(fold.X_val))
        assert_array_equal(make_utility(model, converted)(coalitions), expected)
    sparse_model = LogisticRegression()
    expected = make_utility(sparse_model, fold)(coalitions)
    for convert in (sparse.csr_matrix, sparse.csc_matrix, sparse.coo_matrix, sparse.csr_array):
        converted = with_data(fold, convert(fold.X), convert(fold.X_val))
        assert_array_equal(make_utility(sparse_model, converted)(coalitions), expected)


def test_mixed_columns_and_missing_values():
    fold = make_fold("two")
    words = np.where(fold.y == 0, "x", "y")
    frame = pd.DataFrame({"number": fold.X[:, 0], "word": words})
    val = pd.DataFrame({"number": fold.X_val[:, 0], "word": np.where(fold.y_val == 0, "x", "y")})
    columns = [("n", "passthrough", ["number"]), ("w", OneHotEncoder(), ["word"])]
    mixed = make_pipeline(ColumnTransformer(columns), GaussianNB())
    found = make_utility(mixed, with_data(fold, frame, val))(random_coalitions(8))
    assert found.max() == 1.0
    holes = fold.X.copy()
    holes[::3, 1] = np.nan
    model = HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=2)
    fold_with_holes = with_data(fold, holes, fold.X_val)
    for coalition in random_coalitions(3):
        expected = by_hand(model, fold_with_holes, None, coalition)
        if expected is not None:
            assert make_utility(model, fold_with_holes)(coalition[np.newaxis]) == expected
    with recording() as record:  # a model that does not take them refuses those coalitions alone
        make_utility(GaussianNB(), fold_with_holes)(np.eye(N_ROWS, dtype=bool))
    assert record.n_refused == len(range(0, N_ROWS, 3))


def test_groups_train_on_all_their_rows():
    fold = make_fold("three")
    players = np.arange(N_ROWS) % 5
    grouped = Fold(0, fold.X, fold.y, fold.X_val, fold.y_val, fold.classes, players)
    by_rows, by_groups = make_utility(GaussianNB(), fold), make_utility(GaussianNB(), grouped)
    assert by_groups.n_players == 5
    coalitions = np.random.default_rng(0).random((10, 5)) < 0.6
    assert_array_equal(by_groups(coalitions), by_rows(coalitions[:, players]))
    orders = np.stack([np.random.default_rng(s).permutation(5) for s in range(3)])
    chains = np.array([list(by_groups.chain(order)) for order in orders])
    assert_array_equal(by_groups.prefixes(orders), chains)


# --- the surroundings -------------------------------------------------------------------------


class Shouting(GaussianNB):
    def fit(self, X, y):
        warnings.warn("I did not converge", ConvergenceWarning, stacklevel=1)
        return super().fit(X, y)

    def predict(self, X):
        warnings.warn("and I doubt it", UserWarning, stacklevel=1)
        return super().predict(X)


def test_warnings_of_coalition_fits_are_silent_and_never_errors():
    fold = make_fold("two")
    coalitions = random_coalitions(5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = make_utility(Shouting(), fold)(coalitions)
    assert_array_equal(found, make_utility(GaussianNB(), fold)(coalitions))


def test_warnings_of_the_dummies_are_silent_too():
    fold = make_fold("words")
    utility = make_utility(LogisticRegression(), fold, "precision_macro")
    one_class = coalition_of(np.flatnonzero(fold.y == "cat")[:3])
    assert np.isfinite(utility(np.concatenate([one_class, ~one_class & False]))).all()


def test_filters_and_configuration_are_restored_around_overlapping_threads():
    before = list(warnings.filters)
    config = get_config()
    inside, outside = threading.Event(), threading.Event()

    def first():
        with quiet_warnings():
            inside.set()
            assert outside.wait(10)

    def second():
        assert inside.wait(10)
        with quiet_warnings():
            outside.set()
            thread.join(10)
            assert warnings.filters[0][0] == "ignore"

    thread = threading.Thread(target=first)
    other = threading.Thread(target=second)
    thread.start()
    other.start()
    other.join(20)
    assert not thread.is_alive()
    assert not other.is_alive()
    assert list(warnings.filters) == before
    make_utility(GaussianNB(), make_fold("two"))(random_coalitions(2))
    assert get_config() == config


def test_filters_are_restored_after_an_error():
    before = list(warnings.filters)
    utility = make_utility(Moody(MemoryError()), make_fold("two"))
    with pytest.raises(MemoryError):
        utility(coalition_of([0, 1, 2]))
    assert list(warnings.filters) == before


def test_a_users_configuration_does_not_change_utilities():
    fold = make_fold("two")
    coalitions = random_coalitions(6)
    model = make_pipeline(StandardScaler(), GaussianNB())
    expected = make_utility(model, fold)(coalitions)
    for option in ({"transform_output": "pandas"}, {"assume_finite": True}):
        with config_context(**option):
            assert_array_equal(make_utility(model, fold)(coalitions), expected)

"""Laws of every incremental engine: its utilities are those of refitting, in any batch.

The tests run over the registry of engines and over the examples that each engine shows, so a new
engine is tested without a test of its own being written.

Predictions are compared one by one: `in_one_number` writes the predictions for all validation
rows into one score. A prediction is left out only where the refitted model itself is undecided:
the two best class scores, or the distances of the last neighbour and the next, agree to within
the engine's `tie`.
"""

import pickle
from collections import Counter

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import cdist
from sklearn.base import is_classifier
from sklearn.metrics import make_scorer

from skdvl.utilities.dispatch import find_engines
from skdvl.utilities.quiet import quiet_warnings
from skdvl.utilities.record import recording

ENGINES = find_engines()
# scikit-learn 1.6 cannot refit them where labels are texts, see `test_neighbors.py`; what is left
# are data with too many ties
NOT_OLDEST = {("nearest neighbors", 2), ("nearest neighbors", 7)}
EXAMPLES = [
    pytest.param(
        engine,
        k,
        id=f"{engine.engine}-{k}",
        marks=[pytest.mark.oldest] * ((engine.engine, k) not in NOT_OLDEST),
    )
    for engine in ENGINES
    for k in range(len(engine.examples()))
]


# --- scorings ---------------------------------------------------------------------------------


def as_one_number(y_true, y_pred):
    """Read predicted classes as the digits of one number, which stays below 2 ** 53."""
    classes = np.unique(y_true)
    digits = np.searchsorted(classes, y_pred)
    return float(digits @ len(classes) ** np.arange(len(y_true), dtype=np.int64))


def weighted_sum(y_true, y_pred):
    return float(np.cos(np.arange(len(y_true))) @ y_pred)


in_one_number = make_scorer(as_one_number)
as_weighted_sum = make_scorer(weighted_sum)


def digits_of(number, n_classes, n_val):
    number = int(number)
    digits = []
    for _ in range(n_val):
        number, digit = divmod(number, n_classes)
        digits.append(digit)
    return digits


SCORINGS = {
    "two_classes": [None, "f1", "roc_auc", "neg_brier_score", "neg_log_loss"],
    "three_words": [None, "balanced_accuracy", "neg_log_loss", "roc_auc_ovr", "roc_auc_ovo"],
    "wide": [None, "roc_auc_ovr"],
    "counts": [None, "f1_macro", "neg_log_loss", "true_class_probability"],
    "categories": [None, "neg_log_loss"],
    "bits": [None, "roc_auc", "neg_log_loss"],
    "many_rows": [None, "neg_log_loss"],
    "line": [None, "squashed_r2", "neg_mean_absolute_error", as_weighted_sum],
    "far_targets": [None, "neg_mean_squared_error", as_weighted_sum],
    "wide_line": [None, as_weighted_sum],
    "whole_targets": [None, "neg_mean_squared_error", as_weighted_sum],
    "many_rows_line": [None, "explained_variance", as_weighted_sum],
}


# --- where the refitted model itself is undecided ---------------------------------------------


def undecided(model, X, tie):
    """Tell for which rows of X the model's prediction hangs on a tie."""
    found = np.zeros(len(X), dtype=bool)
    if tie is None or isinstance(model, Exception):
        return found
    if hasattr(model, "kneighbors"):
        k = model.n_neighbors
        if k < model.n_samples_fit_:
            distances = model.kneighbors(X, k + 1)[0]
            found |= distances[:, k] - distances[:, k - 1] <= tie * distances[:, k]
        if not is_classifier(model) or model.weights == "uniform":
            return found
    scores = None
    if (
        hasattr(model, "centroids_")
        and np.isclose(model.class_prior_, 1 / len(model.classes_)).all()
    ):
        scores = -cdist(X, model.centroids_, "sqeuclidean")  # without the scaling of its scores
    for method in ("predict_joint_log_proba", "decision_function", "predict_proba"):
        if scores is None and is_classifier(model) and hasattr(model, method):
            scores = np.asarray(getattr(model, method)(X))
    if scores is None:
        return found
    if scores.ndim == 1:
        return found | (np.abs(scores) <= tie)
    if scores.shape[1] < 2:
        return found
    best = np.sort(scores, axis=1)[:, -2:]
    size = np.maximum(np.abs(best).max(axis=1), 1)
    return found | ~(best[:, 1] - best[:, 0] > tie * size)


def has_rounded_log_loss(model, fold):
    """Tell whether the log loss of the refitted model hangs on rounding.

    For two classes scikit-learn's scorer takes 1 - p1 for p0, which has few digits or none where
    p1 is nearly 1.
    """
    if isinstance(model, Exception) or len(fold.classes) != 2 or len(model.classes_) != 2:
        return False
    try:
        rest = model.predict_proba(fold.X_val)[fold.y_val == fold.classes[0], 0]
    except ValueError:
        return False
    return bool(((rest > 1e-17) & (rest < 1e-8)).any())


def undecided_by_coalition(refit, coalitions, tie):
    fold = refit.fold
    found = np.zeros((len(coalitions), len(fold.y_val)), dtype=bool)
    with quiet_warnings():
        for j in np.flatnonzero(coalitions.any(axis=1)):
            found[j] = undecided(refit.model_for(np.flatnonzero(coalitions[j])), fold.X_val, tie)
    return found


def rounded_log_losses(refit, coalitions):
    with quiet_warnings():
        return np.array(
            [
                rows.any()
                and has_rounded_log_loss(refit.model_for(np.flatnonzero(rows)), refit.fold)
                for rows in coalitions
            ]
        )


def nearly_equal_ranks(refit, coalitions, tie):
    """Tell where the ranks of validation rows hang on differences below the tie.

    An engine of exact optima and lbfgs may rank such rows differently, and neither is wrong.
    """
    found = np.zeros(len(coalitions), dtype=bool)
    with quiet_warnings():
        for j in np.flatnonzero(coalitions.any(axis=1)):
            model = refit.model_for(np.flatnonzero(coalitions[j]))
            if not isinstance(model, Exception):
                ranked = np.sort(model.decision_function(refit.fold.X_val), axis=0)
                found[j] = (np.diff(ranked, axis=0) <= tie).any()
    return found


# --- the laws ---------------------------------------------------------------------------------


def assert_same_scores(engine, found, expected, coalitions, fold, where):
    X = np.asarray(fold.X, dtype=float)
    for j in np.flatnonzero(where & (found != expected)):
        allowed = engine.closeness(X[coalitions[j]]) * max(1.0, abs(expected[j]))
        assert abs(found[j] - expected[j]) <= allowed, (
            f"{found[j]} is not {expected[j]} for rows {np.flatnonzero(coalitions[j])[:20]}"
        )


def refused_by_size(record):
    """Count refusals of small and of large coalitions; messages may be worded differently."""
    found = Counter()
    for (_, is_large), n in record.refused.items():
        found[is_large] += n
    return found


@pytest.mark.parametrize(("engine", "k"), EXAMPLES)
def test_utilities_are_those_of_refitting(both, served_on, doors, engine, k):
    estimator = engine.examples()[k]
    names = served_on(engine, k)
    assert names, "declined on all data"
    n_compared = n_all = 0
    for name in names:
        models, undecided_rows = {}, {}
        for scoring in SCORINGS[name] if k == 0 else SCORINGS[name][:1] + SCORINGS[name][-1:]:
            pair = both(engine, estimator, name, scoring, models)
            if pair is None:
                continue
            utility, refit = pair
            for coalitions, ways in doors(utility, name):
                with recording() as theirs:
                    expected = refit(coalitions)
                key = coalitions.tobytes()
                if key not in undecided_rows:
                    undecided_rows[key] = undecided_by_coalition(refit, coalitions, engine.tie)
                decided = ~undecided_rows[key].any(axis=1)
                if scoring == "neg_log_loss":
                    decided &= ~rounded_log_losses(refit, coalitions)
                if scoring in ("roc_auc", "roc_auc_ovr") and engine.tie == 1e-5:
                    decided &= ~nearly_equal_ranks(refit, coalitions, engine.tie)
                n_compared += decided.sum()
                n_all += len(decided)
                for ask in ways:
                    with recording() as ours:
                        found = ask(utility)
                    assert_same_scores(engine, found, expected, coalitions, utility.fold, decided)
                    assert ours.n_large == theirs.n_large
                    assert refused_by_size(ours) == refused_by_size(theirs), ours.refused
    assert n_compared >= n_all / 4, "too few coalitions without a tie to say anything"


@pytest.mark.parametrize(("engine", "k"), EXAMPLES)
def test_each_prediction_is_that_of_refitting(both, served_on, doors, engine, k):
    estimator = engine.examples()[k]
    if not is_classifier(estimator):
        pytest.skip("targets are compared by as_weighted_sum")
    for name in served_on(engine, k):
        pair = both(engine, estimator, name, in_one_number)
        if pair is None:
            continue
        utility, refit = pair
        fold = utility.fold
        n_classes, n_val = len(fold.classes), len(fold.y_val)
        for coalitions, ways in doors(utility, name):
            expected = refit(coalitions)
            for ask in ways:
                found = ask(utility)
                differ = np.flatnonzero(found != expected)
                hang = undecided_by_coalition(refit, coalitions[differ], engine.tie)
                for j, undecided_rows in zip(differ, hang, strict=True):
                    read = [digits_of(u[j], n_classes, n_val) for u in (found, expected)]
                    wrong = (np.array(read[0]) != read[1]) & ~undecided_rows
                    assert not wrong.any(), (name, np.flatnonzero(coalitions[j]), wrong.nonzero())


@pytest.mark.parametrize(("engine", "k"), EXAMPLES)
def test_a_utility_does_not_depend_on_its_batch(both, served_on, wanted_sizes, engine, k):
    estimator = engine.examples()[k]
    rng = np.random.default_rng(12)
    for name in served_on(engine, k)[-1:] if k else served_on(engine, k)[::3]:
        # in these scorings every bit of the predictions shows
        smooth = "true_class_probability" if is_classifier(estimator) else as_weighted_sum
        pair = both(engine, estimator, name, smooth) or both(engine, estimator, name, None)
        utility = pair[0]
        n_rows = utility.n_players
        coalitions = rng.random((70, n_rows)) < rng.random((70, 1))
        whole = utility(coalitions)
        for n_taken in (1, 64, 69):
            taken = rng.permutation(70)[:n_taken]
            assert_array_equal(utility(coalitions[taken]), whole[taken])
        assert_array_equal(pickle.loads(pickle.dumps(utility))(coalitions[:7]), whole[:7])
        orders = np.stack([rng.permutation(n_rows) for _ in range(4)])
        sizes = wanted_sizes(name)
        whole = utility.prefixes(orders, sizes)
        for taken in ([0], [3, 1], [2, 0, 1]):
            assert_array_equal(utility.prefixes(orders[taken], sizes), whole[taken])
        fewer = utility.prefixes(orders[:2], sizes[1::3])
        assert_allclose(fewer, whole[:2, 1::3], rtol=1e-6, atol=1e-9)

"""Laws of every incremental engine: its utilities are those of refitting, in any batch.

The tests run over the registry of engines and over the examples that each engine shows, so a new
engine is tested without a test of its own being written.

Predictions are compared one by one: `in_one_number` writes the predictions for all validation
rows into one score. A prediction is left out only where the refitted model itself is undecided:
the two best class scores, or the distances of the last neighbour and the next, agree to within
the engine's `tie`.
"""

import pickle
import tracemalloc
from collections import Counter
from functools import lru_cache

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import cdist
from sklearn.base import clone, is_classifier
from sklearn.metrics import make_scorer

from skdvl.metrics import resolve_scorer
from skdvl.utilities.base import prefix_coalitions
from skdvl.utilities.dispatch import find_engines, has_own_score
from skdvl.utilities.fold import Fold, Judge, take_rows
from skdvl.utilities.quiet import quiet_warnings
from skdvl.utilities.record import recording
from skdvl.utilities.refit import RefitUtility
from skdvl.utilities.supervised import FallbackRule

ENGINES = find_engines()
EXAMPLES = [
    pytest.param(engine, k, id=f"{engine.engine}-{k}")
    for engine in ENGINES
    for k in range(len(engine.examples()))
]
FIRST_EXAMPLES = [pytest.param(engine, 0, id=engine.engine) for engine in ENGINES]


# --- data -----------------------------------------------------------------------------------


def two_classes():
    rng = np.random.default_rng(1)
    X, X_val = rng.normal(size=(26, 3)) + 100, rng.normal(size=(30, 3)) + 100
    y, y_val = (rng.random(26) < 0.4).astype(int), np.arange(30) % 2
    X[:, 0] += y
    X_val[:, 0] += y_val
    return X, y, X_val, y_val


def three_words():
    """String labels, one of them on two rows; duplicates that disagree; constant columns."""
    rng = np.random.default_rng(2)
    codes = np.array([0] * 11 + [1] * 11 + [2] * 2)
    X = rng.normal(size=(24, 5)) + 0.7 * codes[:, np.newaxis]
    X[:, 1] = 0.1
    X[codes == 0, 2] = 0.3  # constant inside a class only
    X[1] = X[2] = X[0]
    X[12] = X[0]
    order = rng.permutation(24)
    val_codes = np.arange(24) % 3
    X_val = rng.normal(size=(24, 5)) + 0.7 * val_codes[:, np.newaxis]
    X_val[:, 1] = 0.1
    names = np.array(["ant", "bee", "cat"])
    return X[order], names[codes[order]], X_val, names[val_codes]


def wide():
    rng = np.random.default_rng(3)
    y, y_val = np.arange(20) % 2, np.arange(22) % 2
    X, X_val = rng.normal(size=(20, 30)), rng.normal(size=(22, 30))
    X[:, :4] += y[:, np.newaxis]
    X_val[:, :4] += y_val[:, np.newaxis]
    names = np.array(["no", "yes"])
    return X, names[y], X_val, names[y_val]


def counts():
    """Small whole numbers; a column of zeros; the validation rows hold unseen counts."""
    rng = np.random.default_rng(4)
    y, y_val = rng.integers(0, 3, 25), np.arange(21) % 3
    rates = np.array([[1, 2, 0.3, 0.5, 1, 1], [2, 1, 0.3, 1.5, 1, 0.2], [1, 1, 1, 0.1, 2, 1]])
    X, X_val = rng.poisson(rates[y]), rng.poisson(rates[y_val])
    X[:, 2] = X_val[:, 2] = 0
    X_val[0, 0] = X[:, 0].max() + 1
    return X, 10 * (y + 1), X_val, 10 * (y_val + 1)


def categories():
    """Codes of categories, some of them rare; the validation rows have all but the rarest."""
    rng = np.random.default_rng(17)
    y, y_val = rng.integers(0, 3, 24), np.arange(18) % 3
    X, X_val = rng.integers(0, 3, (24, 6)), rng.integers(0, 3, (18, 6))
    X[:, 0], X_val[:, 0] = (y + rng.integers(0, 2, 24)) % 3, y_val
    X[:3, 3], X_val[0, 3], X[5, 1] = 3, 3, 4
    names = np.array(["x", "y", "z"])
    return X, names[y], X_val, names[y_val]


def bits():
    rng = np.random.default_rng(18)
    y, y_val = rng.integers(0, 2, 24), np.arange(20) % 2
    rates = np.array([[0.2, 0.7, 0.4, 0.5], [0.6, 0.3, 0.5, 0.5]])
    return rng.random((24, 4)) < rates[y], y, rng.random((20, 4)) < rates[y_val], y_val


def many_rows():
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(6, 8))
    y, y_val = rng.integers(0, 6, 320), np.arange(18) % 6
    return (
        centres[y] + rng.normal(size=(320, 8)),
        y,
        centres[y_val] + rng.normal(size=(18, 8)),
        y_val,
    )


def line():
    rng = np.random.default_rng(6)
    X, X_val = rng.normal(size=(24, 3)), rng.normal(size=(20, 3))
    slope = np.array([1.0, -2.0, 0.5])
    return X, X @ slope + rng.normal(size=24), X_val, X_val @ slope + rng.normal(size=20)


def far_targets():
    """Targets and columns far from zero, a constant column, duplicates that disagree."""
    rng = np.random.default_rng(7)
    X, X_val = rng.normal(size=(24, 4)) + 1000, rng.normal(size=(20, 4)) + 1000
    X[:, 2] = X_val[:, 2] = 7
    X[1] = X[0]
    X[3] = X[2]
    y = 1e6 + X[:, 0] + rng.normal(size=24)
    return X, y, X_val, 1e6 + X_val[:, 0] + rng.normal(size=20)


def wide_line():
    rng = np.random.default_rng(8)
    X, X_val = rng.normal(size=(18, 30)), rng.normal(size=(20, 30))
    return X, X[:, 0] + rng.normal(size=18), X_val, X_val[:, 0] + rng.normal(size=20)


def whole_targets():
    """Whole numbers as data and targets; the validation rows all have the same target."""
    rng = np.random.default_rng(9)
    X, X_val = rng.integers(0, 4, (22, 3)), rng.integers(0, 4, (15, 3))
    return X, rng.integers(0, 5, 22), X_val, np.full(15, 2)


def many_rows_line():
    rng = np.random.default_rng(10)
    X, X_val = rng.normal(size=(400, 6)), rng.normal(size=(30, 6))
    return X, X[:, 0] * X[:, 1] + rng.normal(size=400), X_val, X_val[:, 0] + rng.normal(size=30)


CLASSIFICATION = {
    f.__name__: f for f in (two_classes, three_words, wide, counts, categories, bits, many_rows)
}
REGRESSION = {f.__name__: f for f in (line, far_targets, wide_line, whole_targets, many_rows_line)}


@lru_cache
def make_fold(name):
    if name in REGRESSION:
        return Fold(0, *REGRESSION[name]())
    X, y, X_val, y_val = CLASSIFICATION[name]()
    return Fold(0, X, y, X_val, y_val, np.unique(y))


@lru_cache
def make_orders(name):
    return np.random.default_rng(0).permutation(make_fold(name).n_rows)[np.newaxis]


@lru_cache
def wanted_sizes(name):
    n_rows = make_fold(name).n_rows
    if n_rows < 100:
        return np.arange(n_rows + 1)
    return np.array([0, 1, 2, 3, 7, 20, 63, 64, 65, 150, n_rows - 1, n_rows])


@lru_cache
def some_coalitions(name):
    """Return the empty coalition, single rows, rows of one class only, random sets."""
    fold = make_fold(name)
    rng = np.random.default_rng(11)
    n = fold.n_rows
    sets = [np.zeros(n, dtype=bool), *np.eye(n, dtype=bool)[:3], fold.y == fold.y[0]]
    sets += [rng.random(n) < rng.random() for _ in range(8 if n >= 100 else 14)]
    return np.stack([*sets, np.ones(n, dtype=bool)])


# --- scorings -------------------------------------------------------------------------------


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
    "three_words": [None, "balanced_accuracy", "neg_log_loss"],
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


def make_judge(name, estimator, scoring):
    scorer = resolve_scorer(scoring, estimator)
    return Judge(make_fold(name), scorer, scorer is None and has_own_score(estimator))


class RememberedRefit(RefitUtility):
    """Refitting that keeps its models, so that every scoring judges the same ones."""

    def __init__(self, *args):
        super().__init__(*args)
        self.models = {}

    def model_for(self, rows):
        key = rows.tobytes()
        if key not in self.models:
            try:
                model = clone(self.estimator)
                self.models[key] = model.fit(take_rows(self.fold.X, rows), self.fold.y[rows])
                model.predict(self.fold.X_val)  # some models refuse only now
            except Exception as error:
                self.models[key] = error
        return self.models[key]

    def _refit(self, rows):
        model = self.model_for(rows)
        if isinstance(model, Exception):
            raise model
        return self.judge.judge_model(model)


def both(engine, estimator, name, scoring, remembered=None):
    """Return the engine's utility and refitting's, or None if the engine declines."""
    judge = make_judge(name, estimator, scoring)
    fold = make_fold(name)
    if engine.why_not(estimator, fold, judge) is not None:
        return None
    fallback = FallbackRule(judge)
    refit = RememberedRefit(engine.reference(estimator), fold, judge, fallback)
    if remembered is not None:
        refit.models = remembered
    return engine(estimator, fold, judge, fallback), refit


def served_on(engine, k):
    """Return the data on which an example is served: all for the first one, two for variants."""
    estimator = engine.examples()[k]
    names = CLASSIFICATION if is_classifier(estimator) else REGRESSION
    served = [name for name in names if both(engine, estimator, name, None) is not None]
    return served if k == 0 else (served[k:] + served[:k])[:2]


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


def doors(utility, name):
    """Yield coalitions with the ways to ask the engine for them."""
    some = some_coalitions(name)
    yield some, [lambda u: u(some)]
    orders, sizes = make_orders(name), wanted_sizes(name)
    prefixes = np.concatenate([prefix_coalitions(order, sizes) for order in orders])
    ways = [lambda u: u(prefixes)]
    if utility.has_cheap_prefixes:
        ways.append(lambda u: u.prefixes(orders, sizes).ravel())
    yield prefixes, ways


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
def test_utilities_are_those_of_refitting(engine, k):
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
def test_each_prediction_is_that_of_refitting(engine, k):
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
def test_a_utility_does_not_depend_on_its_batch(engine, k):
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


@pytest.mark.parametrize(("engine", "k"), FIRST_EXAMPLES)
def test_groups_bring_all_their_rows(engine, k):
    estimator = engine.examples()[k]
    name = served_on(engine, k)[0]
    single, _ = both(engine, estimator, name, None)
    fold = single.fold
    owners = np.random.default_rng(13).permutation(np.arange(fold.n_rows) % 7)
    grouped_fold = Fold(0, fold.X, fold.y, fold.X_val, fold.y_val, fold.classes, owners)
    judge = Judge(grouped_fold, single.judge.scorer, own_score=False)
    grouped = engine(estimator, grouped_fold, judge, FallbackRule(judge))
    coalitions = np.random.default_rng(14).random((30, 7)) < 0.5
    assert_array_equal(grouped(coalitions), single(coalitions[:, owners]))
    order = np.random.default_rng(15).permutation(7)
    by_prefix = grouped.prefixes(order[np.newaxis])[0]
    by_coalition = single(prefix_coalitions(order, np.arange(8))[:, owners])
    assert_allclose(by_prefix, by_coalition, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("engine", "k"), FIRST_EXAMPLES)
def test_subclasses_float32_and_unknown_scorers_are_declined(engine, k):
    estimator = engine.examples()[k]
    name = served_on(engine, k)[0]
    fold, judge = make_fold(name), make_judge(name, estimator, None)
    kind = type(estimator)
    own = type(kind.__name__, (kind,), {})(**estimator.get_params(deep=False))
    assert engine.why_not(own, fold, judge)
    single = Fold(0, np.float32(fold.X), fold.y, np.float32(fold.X_val), fold.y_val, fold.classes)
    assert engine.why_not(estimator, single, judge)
    looks_inside = Judge(fold, lambda model, X, y: model.n_features_in_, own_score=False)
    assert engine.why_not(estimator, fold, looks_inside)


@pytest.mark.parametrize(("engine", "k"), FIRST_EXAMPLES)
def test_memory_stays_bounded_and_shipping_small(engine, k):
    estimator = engine.examples()[k]
    rng = np.random.default_rng(16)
    X, X_val = rng.poisson(2, (200, 20)) + 0.0, rng.poisson(2, (3000, 20)) + 0.0
    y, y_val, classes = X[:, 0] + rng.random(200), X_val[:, 0] + rng.random(3000), None
    if is_classifier(estimator):
        classes = np.arange(8)
        y, y_val = np.arange(200) % 8, np.arange(3000) % 8
    fold = Fold(0, X, y, X_val, y_val, classes)
    judge = Judge(fold, None, own_score=False)
    if engine.why_not(estimator, fold, judge) is not None:
        pytest.skip("declined on these data")
    utility = engine(estimator, fold, judge, FallbackRule(judge))
    coalitions = rng.random((300, 200)) < 0.5
    utility(coalitions[:2])
    assert len(pickle.dumps(utility)) < 4 * len(pickle.dumps(fold)) + 50_000
    tracemalloc.start()
    utility(coalitions)
    utility.prefixes(np.stack([rng.permutation(200) for _ in range(2)]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6

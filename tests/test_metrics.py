"""Batched metrics are the scorers' numbers; the two scorers; what scorers see."""

import copy
import itertools
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import get_scorer, get_scorer_names, make_scorer, r2_score
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import SVC

from skdvl.batched_metrics import CLASSIFICATION, REGRESSION
from skdvl.metrics import (
    PredictionView,
    align_decision,
    align_proba,
    find_metric,
    metric_name,
    resolve_scorer,
    squashed_r2,
    true_class_probability,
)
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.quiet import quiet_warnings

N_VAL = 61


def stacked(response, n_models=50, n_classes=2, seed=0):
    """Return predictions of so many models, with ties among them."""
    rng = np.random.default_rng(seed)
    if response == "predict":
        return rng.integers(0, n_classes, (n_models, N_VAL))
    scores = np.round(rng.normal(size=(n_models, N_VAL, n_classes)), 1)
    if response == "decision_function":
        return scores[:, :, 0] if n_classes == 2 else scores
    exponentials = np.exp(scores)
    return exponentials / exponentials.sum(axis=2, keepdims=True)


def view_of(metric, response, prediction, classes):
    if response == "predict" and classes is not None:
        prediction = classes[prediction]
    kind = "regressor" if classes is None else "classifier"
    return PredictionView(kind, classes, {response: lambda X: prediction})


@pytest.mark.parametrize("labels", [np.array([0, 1]), np.array([0, 1, 2]), np.array(["a", "b"])])
@pytest.mark.parametrize("name", CLASSIFICATION)
def test_metrics_of_classifiers(name, labels):
    codes = np.arange(N_VAL) % len(labels)
    metric = find_metric(resolve_scorer(name, GaussianNB()), labels[codes], labels)
    if metric is None:
        assert (name, len(labels)) in {("roc_auc", 3), ("f1", 3)} or (name, labels[0]) == (
            "f1",
            "a",
        )
        return
    scorer = resolve_scorer(name, GaussianNB())
    for response in metric.responses:
        predictions = stacked(response, n_classes=len(labels))
        together = metric(predictions)
        alone = [metric.judge_one(prediction) for prediction in predictions]
        assert_allclose(together, alone, rtol=1e-14)
        for prediction, number in zip(predictions, alone, strict=True):
            view = view_of(metric, response, prediction, labels)
            assert number == scorer(view, np.zeros((N_VAL, 1)), labels[codes])
        some = np.random.default_rng(1).permutation(50)[:7]
        assert_array_equal(metric(predictions[some]), together[some])


@pytest.mark.parametrize("name", REGRESSION)
def test_metrics_of_regressors(name):
    rng = np.random.default_rng(0)
    for target in (rng.normal(size=N_VAL), np.full(N_VAL, 2.0), np.arange(N_VAL)):
        scorer = resolve_scorer(name, Ridge())
        metric = find_metric(scorer, target, None)
        predictions = np.concatenate([rng.normal(size=(30, N_VAL)), [target]])
        together = metric(predictions)
        for prediction, number in zip(predictions, together, strict=True):
            view = view_of(metric, "predict", prediction, None)
            assert number == metric.judge_one(prediction)
            assert number == scorer(view, np.zeros((N_VAL, 1)), target)
        some = rng.permutation(31)[:7]
        assert_array_equal(metric(predictions[some]), together[some])


def test_scorers_are_known_by_what_they_compute():
    f_beta = make_scorer(get_scorer("f1")._score_func, average="macro")
    same = make_scorer(get_scorer("accuracy")._score_func)
    assert metric_name(get_scorer("accuracy"), True) == "accuracy"
    assert metric_name(same, True) == "accuracy"
    assert metric_name(None, True) == "accuracy"
    assert metric_name(None, False) == "r2"
    for other in (f_beta, get_scorer("f1_macro"), lambda estimator, X, y: 0.0):
        assert metric_name(other, True) is None


@pytest.mark.parametrize("missing", ["neg_log_loss", "roc_auc"])
def test_no_metric_where_the_scorer_would_fail(missing):
    scorer = get_scorer(missing)
    assert find_metric(scorer, np.zeros(5, dtype=int), np.array([0, 1])) is None


def test_what_is_not_finite_has_no_rank():
    metric = find_metric(get_scorer("roc_auc"), np.arange(4) % 2, np.array([0, 1]))
    scores = np.array([[1.0, 2.0, 3.0, 4.0], [1.0, np.nan, 3.0, 4.0], [1.0, 2.0, np.inf, 4.0]])
    assert_array_equal(np.isnan(metric(scores)), [False, True, True])
    with pytest.raises(ValueError, match="NaN or infinity"):
        metric.judge_one(scores[1])


def test_predictions_that_need_a_scorers_care_get_it():
    """float32 probabilities keep their type in scikit-learn; unknown labels are simply wrong."""

    class Single(GaussianNB):
        def predict_proba(self, X):
            return super().predict_proba(X).astype(np.float32)

    class Wrong(GaussianNB):
        def predict(self, X):
            return np.full(len(X), 1)

    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 2)), 2 * (np.arange(60) % 2)
    fold = Fold(0, X, y, X, y, np.array([0, 2]))
    model = Wrong().fit(X, y)
    assert Judge(fold, get_scorer("accuracy"), False).judge_model(model) == 0.0
    model = Single().fit(X, y)
    scorer = get_scorer("neg_log_loss")
    assert Judge(fold, scorer, False).judge_model(model) == scorer(model, X, y)


def test_the_probability_of_the_true_class_by_hand():
    proba = np.array([[0.2, 0.8], [0.6, 0.4], [1.0, 0.0]])
    view = view_of(None, "predict_proba", proba, np.array(["no", "yes"]))
    assert_allclose(true_class_probability(view, None, ["yes", "no", "yes"]), (0.8 + 0.6 + 0) / 3)


def test_squashed_r2_by_hand():
    target, predicted = np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.0, 3.0])
    view = view_of(None, "predict", predicted, None)
    assert_allclose(squashed_r2(view, None, target), 1 / (2 - r2_score(target, predicted)))
    for constant, value in ((target.mean(), 0.5), (-1e9, 0.0)):
        view = view_of(None, "predict", np.full(3, constant), None)
        assert_allclose(squashed_r2(view, None, target), value, atol=1e-12)
    view = view_of(None, "predict", target, None)
    assert squashed_r2(view, None, target) == 1.0


@pytest.mark.parametrize("scorer", [true_class_probability, squashed_r2], ids=repr)
def test_the_scorers_are_single_objects(scorer):
    assert pickle.loads(pickle.dumps(scorer)) is scorer
    assert copy.deepcopy(scorer) is scorer
    assert resolve_scorer(scorer.name, Ridge()) is scorer
    assert resolve_scorer(scorer, Ridge()) is scorer


@pytest.mark.parametrize(
    ("scoring", "message"),
    [
        ("applause", r"'applause' is not a known scoring.*'true_class_probability'"),
        (["accuracy"], "must be one name, one callable"),
        ({"a": "accuracy"}, "must be one name, one callable"),
        (3, "must be one name, one callable"),
    ],
)
def test_unknown_scorings_are_refused_with_advice(scoring, message):
    with pytest.raises(ValueError, match=message):
        resolve_scorer(scoring, GaussianNB())


def test_probabilities_of_absent_classes_are_zero():
    classes = np.array(["a", "b", "c", "d"])
    proba = np.array([[0.3, 0.7], [1.0, 0.0]])
    aligned = align_proba(proba, np.array(["b", "d"]), classes)
    assert_array_equal(aligned, [[0, 0.3, 0, 0.7], [0, 1.0, 0, 0.0]])
    assert align_proba(proba, np.array(["b", "d"]), np.array(["b", "d"])) is proba


def test_margins_of_absent_classes_are_the_lowest():
    low = -np.finfo(np.float64).max
    three, two = np.arange(3), np.arange(2)
    margins = np.array([1.5, -2.0])
    assert_array_equal(
        align_decision(margins, np.array([0, 2]), three), [[-1.5, low, 1.5], [2.0, low, -2.0]]
    )
    assert_array_equal(align_decision(margins, np.array([1]), three), [[low, 0, low]] * 2)
    assert_array_equal(align_decision(margins, np.array([1]), two), [0, 0])
    assert align_decision(margins, two, two) is margins


def test_a_view_looks_like_the_model():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 2)), np.arange(40) % 3
    fold = Fold(0, X, y, X, y, np.arange(3))
    judge = Judge(fold, get_scorer("f1_macro"), False)
    forest = RandomForestClassifier(3, random_state=0).fit(X, y)
    view = judge._view(forest)
    assert view.n_estimators == 3
    assert view.classes_.tolist() == [0, 1, 2]
    assert view.__sklearn_tags__().estimator_type == "classifier"
    assert not hasattr(view, "decision_function")
    assert not hasattr(judge._view(SVC().fit(X, y)), "predict_proba")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        PredictionView("classifier", None, {}).nothing  # noqa: B018 - looking it up is the test
    for name in ("f1_macro", "roc_auc_ovr", "matthews_corrcoef", "top_k_accuracy"):
        scorer = get_scorer(name)
        assert scorer(view, X, y) == scorer(forest, X, y)


def test_every_named_scorer_judges_a_view_as_it_judges_the_model():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 2)), np.arange(40) % 2
    y_numbers = X @ [1.0, 2.0] + 5
    games = [(LogisticRegression(), y, np.arange(2)), (Ridge(), y_numbers, None)]
    n_judged = 0
    for (estimator, targets, classes), name in itertools.product(games, get_scorer_names()):
        fold, scorer = Fold(0, X, targets, X, targets, classes), get_scorer(name)
        with quiet_warnings():
            model = estimator.fit(X, targets)
            try:
                expected = scorer(model, X, targets)
            except (ValueError, AttributeError, TypeError):
                continue
            assert Judge(fold, scorer, False).judge_model(model) == expected, name
        n_judged += 1
    assert n_judged > 40

"""Whatever decides a game is in its fingerprint, and nothing else is."""

import numpy as np
import pytest
import sklearn
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.naive_bayes import GaussianNB

from skdvl.metrics import true_class_probability
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.refit import RefitUtility
from skdvl.utilities.supervised import FallbackRule

X = np.arange(12.0).reshape(6, 2)
y = np.array([0, 1, 0, 1, 0, 1])


def utility_fingerprint(**changes):
    parts = {
        "estimator": LogisticRegression(),
        "X": X,
        "y": y,
        "X_val": X + 0.5,
        "y_val": y,
        "classes": np.array([0, 1]),
        "player_of_row": None,
        "scorer": get_scorer("accuracy"),
        "empty_score": "auto",
        "error_score": "auto",
    } | changes
    names = ("X", "y", "X_val", "y_val", "classes", "player_of_row")
    fold = Fold(changes.get("number", 0), *(parts[name] for name in names))
    judge = Judge(fold, parts["scorer"], False)
    fallback = FallbackRule(judge, parts["empty_score"], parts["error_score"])
    return RefitUtility(parts["estimator"], fold, judge, fallback).fingerprint()


def changed(array, position, value):
    other = array.copy()
    other[position] = value
    return other


@pytest.mark.parametrize(
    "change",
    [
        {"X": changed(X, (0, 0), 1e-300)},
        {"X": X.astype(np.float32)},
        {"X": sparse.csr_matrix(X)},
        {"y": changed(y, 0, 1)},
        {"y": y.astype(np.int8)},
        {"X_val": X},
        {"y_val": changed(y, 0, 1)},
        {"classes": np.array([0, 1, 2])},
        {"player_of_row": np.array([0, 0, 1, 1, 2, 2])},
        {"estimator": LogisticRegression(C=2)},
        {"estimator": LogisticRegression(random_state=0)},
        {"estimator": GaussianNB()},
        {"scorer": get_scorer("balanced_accuracy")},
        {"scorer": true_class_probability},
        {"scorer": None},
        {"empty_score": 0.5},
        {"error_score": 0.5},
        {"error_score": "raise"},
    ],
    ids=lambda change: ", ".join(change),
)
def test_whatever_decides_the_game_changes_its_fingerprint(change):
    assert utility_fingerprint() == utility_fingerprint()
    assert utility_fingerprint(**change) != utility_fingerprint()


def test_what_pipelines_hand_on_decides_the_game():
    with sklearn.config_context(transform_output="pandas"):
        frames = utility_fingerprint()
    assert frames != utility_fingerprint()


def test_the_number_of_the_fold_does_not_decide_the_game():
    assert utility_fingerprint(number=3) == utility_fingerprint()

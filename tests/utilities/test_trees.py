"""What is special about trees: two ways to grow them, which give the same trees."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeRegressor

from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental import trees
from skdvl.utilities.incremental.trees import TreeUtility
from skdvl.utilities.refit import RefitUtility
from skdvl.utilities.supervised import FallbackRule

RNG = np.random.default_rng(0)
X, X_VAL = RNG.normal(size=(50, 4)), RNG.normal(size=(30, 4))
NAMES = np.array(["ant", "bee", "cat"])
LABELS, LABELS_VAL = NAMES[RNG.integers(0, 3, 50)], NAMES[np.arange(30) % 3]
SETS = RNG.random((25, 50)) < RNG.random((25, 1))


def utilities(estimator):
    """Return the engine's utility and refitting's."""
    if isinstance(estimator, DecisionTreeRegressor):
        fold = Fold(0, X, X[:, 0] + RNG.normal(size=50), X_VAL, X_VAL[:, 0])
    else:
        fold = Fold(0, X, LABELS, X_VAL, LABELS_VAL, NAMES)
    judge = Judge(fold, None, own_score=False)
    assert TreeUtility.why_not(estimator, fold, judge) is None
    fallback = FallbackRule(judge)
    return TreeUtility(estimator, fold, judge, fallback), RefitUtility(
        estimator, fold, judge, fallback
    )


def test_plain_trees_are_built_where_scikit_learn_has_the_builder():
    engine, refit = utilities(DecisionTreeClassifier(random_state=0))
    assert engine._builder is not None, "the builder has changed: trees are grown more slowly"
    assert_array_equal(engine(SETS), refit(SETS))


@pytest.mark.parametrize(
    "parameters",
    [
        {"ccp_alpha": 0.01},
        {"max_leaf_nodes": 4},
        {"min_samples_leaf": 0.1},
        {"min_weight_fraction_leaf": 0.1},
        {"class_weight": {"ant": 1, "bee": 5, "cat": 0.1}},
    ],
)
def test_other_trees_are_grown_the_public_way(parameters):
    engine, refit = utilities(DecisionTreeClassifier(random_state=1, **parameters))
    assert engine._builder is None
    assert_array_equal(engine(SETS), refit(SETS))


@pytest.mark.parametrize("kind", [DecisionTreeRegressor, ExtraTreeRegressor])
@pytest.mark.parametrize("splitter", ["best", "random"])
def test_seeds_and_splits_are_drawn_alike(kind, splitter):
    for max_features in (None, "sqrt", 0.7):
        engine, refit = utilities(
            kind(random_state=7, splitter=splitter, max_features=max_features, max_depth=4)
        )
        assert_array_equal(engine(SETS), refit(SETS))


def test_without_a_builder_the_public_way_remains(monkeypatch):
    from sklearn.tree import _classes

    engine, refit = utilities(DecisionTreeClassifier(random_state=0))
    monkeypatch.delattr(_classes, "DepthFirstTreeBuilder")
    assert engine._builder is None
    assert_array_equal(engine(SETS), refit(SETS))


def test_a_builder_that_grows_other_trees_is_not_used(monkeypatch):
    engine, refit = utilities(DecisionTreeClassifier(random_state=0))
    grow = trees._TreeBuilder.grow
    monkeypatch.setattr(trees._TreeBuilder, "grow", lambda self, X, y: grow(self, -X, y))
    assert engine._builder is None
    assert_array_equal(engine(SETS), refit(SETS))


def test_a_utility_can_be_shipped_after_use():
    engine, _ = utilities(DecisionTreeClassifier(random_state=0))
    found = engine(SETS)
    assert_array_equal(pickle.loads(pickle.dumps(engine))(SETS), found)


@pytest.mark.parametrize(
    ("estimator", "y", "reason"),
    [
        (DecisionTreeClassifier(), LABELS, "random_state"),
        (DecisionTreeRegressor(random_state=0, criterion="poisson"), np.zeros(50), "Poisson"),
    ],
)
def test_what_is_not_covered_is_declined(estimator, y, reason):
    classes = NAMES if y is LABELS else None
    y_val = LABELS_VAL if y is LABELS else np.arange(30.0)
    fold = Fold(0, X, y, X_VAL, y_val, classes)
    assert reason in TreeUtility.why_not(estimator, fold, Judge(fold, None, own_score=False))


def test_numbers_beyond_single_precision_are_declined():
    fold = Fold(0, X * 1e39, LABELS, X_VAL, LABELS_VAL, NAMES)
    estimator = DecisionTreeClassifier(random_state=0)
    judge = Judge(fold, None, own_score=False)
    assert "float32" in TreeUtility.why_not(estimator, fold, judge)

"""Decision trees: the same trees, grown without checking the same data again for each of them.

A tree on a hundred rows takes scikit-learn 0.2 ms to grow and 1 ms to ask for: validation, tags,
a look at the type of the targets, the scorer. What the public interface lets one leave out
(``fit(check_input=False)``, ``tree_.predict``) makes an evaluation 2.5 times as fast. Calling the
builder itself makes it 4.3 times as fast, at n=1000 still 1.3 instead of 1.2 times. The builder is
not public, hence it is used only for plain parameters, and only where it grows, node by node, the
trees that ``fit`` grows; if it is gone or changed the public way remains.
"""

from __future__ import annotations

import threading
from functools import cached_property
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier
from sklearn.tree import (
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    ExtraTreeClassifier,
    ExtraTreeRegressor,
)

from skdvl.metrics import align_proba
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.incremental.base import Errors, IncrementalUtility

__all__ = ["TreeUtility"]


class TreeUtility(IncrementalUtility):
    """Utilities of single trees, bit for bit those of refitting."""

    engine = "trees"
    serves = (
        "DecisionTreeClassifier",
        "DecisionTreeRegressor",
        "ExtraTreeClassifier",
        "ExtraTreeRegressor",
    )
    responses = ("predict", "predict_proba")
    tie = None
    pads_blocks = False
    evals_per_chunk = 256

    def __init__(self, estimator: Any, fold: Fold, judge: Judge, fallback: Any) -> None:
        super().__init__(estimator, fold, judge, fallback)
        # what trees compute in
        self.singles, self.singles_val = (data.astype(np.float32) for data in (self.X, self.X_val))
        self._models = threading.local()

    @classmethod
    def examples(cls) -> list[Any]:
        """Return estimators that cover the parameters the engine serves."""
        return [
            DecisionTreeClassifier(random_state=0),
            DecisionTreeClassifier(random_state=1, max_depth=2, class_weight="balanced"),
            DecisionTreeClassifier(random_state=2, max_leaf_nodes=5, criterion="entropy"),
            ExtraTreeClassifier(random_state=3),
            DecisionTreeRegressor(random_state=4, min_samples_leaf=3),
            DecisionTreeRegressor(random_state=5, ccp_alpha=0.1, min_samples_split=0.2),
            ExtraTreeRegressor(random_state=6, criterion="absolute_error"),
        ]

    @classmethod
    def why_not(cls, estimator: Any, fold: Fold, judge: Judge) -> str | None:
        """Return why the engine would not give the utilities of refitting, None if it would."""
        reason = super().why_not(estimator, fold, judge)
        if reason is not None:
            return reason
        if not isinstance(estimator.random_state, (int, np.integer)):
            return "random_state is no integer"
        if not isinstance(estimator.criterion, str) or not isinstance(estimator.splitter, str):
            return "criterion or splitter is not given by name"
        with np.errstate(over="ignore"):
            if not all(np.isfinite(np.float32(X)).all() for X in (fold.X, fold.X_val)):
                return "the data leave the range of float32"
        if estimator.criterion == "poisson" and (np.asarray(fold.y) <= 0).any():
            return "scikit-learn checks the targets for the Poisson criterion"
        return None

    def __getstate__(self) -> dict[str, Any]:
        hidden = ("_models", "_builder")
        return {key: value for key, value in self.__dict__.items() if key not in hidden}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._models = threading.local()

    def _predict(self, rows: NDArray[np.bool_], response: str) -> tuple[NDArray[Any], Errors]:
        predictions = self._empty(len(rows), response)
        errors: Errors = {}
        grow = self._fit if self._builder is None else self._build
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
            for j, row_set in enumerate(rows):
                members = np.flatnonzero(row_set)
                try:
                    tree = grow(members)
                except MemoryError:
                    raise
                except Exception as error:
                    errors[j] = f"{type(error).__name__}: {error}"
                    continue
                predictions[j] = self._read(tree.predict(self.singles_val), members, response)
        return predictions, errors

    def _empty(self, n_sets: int, response: str) -> NDArray[Any]:
        if self.fold.classes is None:
            return np.empty((n_sets, len(self.X_val)))
        if response == "predict":
            return np.empty((n_sets, len(self.X_val)), dtype=np.intp)
        return np.empty((n_sets, len(self.X_val), len(self.fold.classes)))

    def _read(
        self, values: NDArray[np.float64], members: NDArray[np.intp], response: str
    ) -> NDArray[Any]:
        """Turn the values of the leaves into predictions."""
        if self.fold.classes is None:
            return values[:, 0]
        seen = np.unique(self.fold.codes[members])
        if response == "predict":
            return seen.take(values.argmax(axis=1))
        return align_proba(values, seen, np.arange(len(self.fold.classes)))

    def _fit(self, members: NDArray[np.intp]) -> Any:
        """Grow a tree by the public way."""
        model = getattr(self._models, "model", None)  # threads must not fit the same object
        if model is None:
            model = self._models.model = clone(self.estimator)
        return model.fit(self.singles[members], self.fold.y[members], check_input=False).tree_

    @cached_property
    def _builder(self) -> _TreeBuilder | None:
        """The builder, if it grows the trees that the public way grows."""
        everyone = np.arange(self.fold.n_rows)
        try:
            self._fit(everyone)
            builder = _TreeBuilder(self._models.model)
            for members in (everyone, everyone[::2], everyone[: len(everyone) // 3 + 1]):
                built = builder.grow(self.singles[members], self._targets(members))
                if not _are_same(built, self._fit(members)):
                    return None
        except Exception:
            return None
        return builder

    def _build(self, members: NDArray[np.intp]) -> Any:
        """Grow a tree by the builder."""
        assert self._builder is not None
        return self._builder.grow(self.singles[members], self._targets(members))

    def _targets(self, members: NDArray[np.intp]) -> NDArray[Any]:
        return (self.fold.y if self.fold.classes is None else self.fold.codes)[members]


class _TreeBuilder:
    """What ``fit`` of scikit-learn's trees does beside checking its input.

    Parameters
    ----------
    model : fitted tree estimator
        Of plain parameters.

    Raises
    ------
    ValueError
        If a parameter is not plain.
    ImportError, AttributeError
        If the installed scikit-learn has no such builder.
    """

    def __init__(self, model: Any) -> None:
        from sklearn.tree import _classes as internals

        is_plain = (
            isinstance(model.min_samples_split, (int, np.integer))
            and isinstance(model.min_samples_leaf, (int, np.integer))
            and model.min_weight_fraction_leaf == 0
            and model.max_leaf_nodes is None
            and model.ccp_alpha == 0
            and model.monotonic_cst is None
            and getattr(model, "class_weight", None) is None
        )
        if not is_plain:
            raise ValueError("the parameters are not plain")
        self.n_features = model.n_features_in_
        self.max_features = model.max_features_
        self.seed = model.random_state
        self.min_leaf = model.min_samples_leaf
        self.min_split = max(model.min_samples_split, 2 * model.min_samples_leaf)
        self.max_depth = np.iinfo(np.int32).max if model.max_depth is None else model.max_depth
        self.min_decrease = model.min_impurity_decrease
        self.is_classifier = is_classifier(model)
        criteria = internals.CRITERIA_CLF if self.is_classifier else internals.CRITERIA_REG
        self.criterion = criteria[model.criterion]
        self.splitter = internals.DENSE_SPLITTERS[model.splitter]
        self.tree, self.builder = internals.Tree, internals.DepthFirstTreeBuilder

    def grow(self, X: NDArray[np.float32], targets: NDArray[Any]) -> Any:
        """Return the tree that ``fit`` would leave as ``tree_``."""
        if self.is_classifier:
            seen, targets = np.unique(targets, return_inverse=True)
            n_values = np.array([len(seen)], dtype=np.intp)
            criterion = self.criterion(1, n_values)
        else:
            n_values = np.array([1], dtype=np.intp)
            criterion = self.criterion(1, len(targets))
        y = np.ascontiguousarray(targets, dtype=np.float64).reshape(-1, 1)
        random_state = np.random.RandomState(self.seed)  # as scikit-learn draws
        splitter = self.splitter(
            criterion, self.max_features, self.min_leaf, 0.0, random_state, None
        )
        tree = self.tree(self.n_features, n_values, 1)
        builder = self.builder(
            splitter, self.min_split, self.min_leaf, 0.0, self.max_depth, self.min_decrease
        )
        builder.build(tree, X, y, None, None)
        return tree


def _are_same(one: Any, other: Any) -> bool:
    states = one.__getstate__(), other.__getstate__()
    nodes = [state["nodes"] for state in states]
    return np.array_equal(states[0]["values"], states[1]["values"]) and all(
        np.array_equal(nodes[0][name], nodes[1][name]) for name in nodes[0].dtype.names
    )

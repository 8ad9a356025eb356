"""Shapley values for nearest neighbours, without training anything."""

from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array, check_consistent_length, check_scalar, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from skdvl.sampling.base import Estimate
from skdvl.valuators.base import DataValuator, index_of
from skdvl.valuators.neighbor_order import make_distances
from skdvl.valuators.neighbor_values import NeighborProblem, value_neighbors

__all__ = ["KNNShapleyValuator"]


class KNNShapleyValuator(DataValuator):
    r"""Shapley values of samples for the prediction by K nearest neighbours, in closed form.

    A coalition :math:`S` predicts a row by its K nearest members :math:`N_K(S)`; fewer, if it has
    no more. For labels its utility is the share of right votes,

    .. math:: u(S) = \frac{1}{K} \sum_{j \in N_K(S)} w_j \, [y_j = y], \qquad u(\emptyset) = 0,

    and for numbers the negative squared error of the neighbours' mean, where a missing neighbour is
    taken to say the mean :math:`\bar y` of all training targets:

    .. math::
        u(S) = -\Big(\bar y + \frac{1}{K} \sum_{j \in N_K(S)} w_j (y_j - \bar y) - y\Big)^2, \qquad
        u(\emptyset) = -(\bar y - y)^2,

    both as means over validation rows. The values are exact and cost one sort of the training rows
    per validation row [1]_. This game is close to that of
    `~sklearn.neighbors.KNeighborsClassifier` under accuracy but not the same: votes count by their
    share, not only when they win.

    Targets of floating-point type are numbers, all others are labels. Where integers are meant as
    numbers, pass ``y.astype(float)``.

    Parameters
    ----------
    n_neighbors : int, default=5
        K. It may exceed the number of samples, which then all vote.
    weights : {"uniform", "distance"} or callable, default="uniform"
        Weight :math:`w_j` of a neighbour's vote. "uniform": 1. "distance": the distance to the
        nearest training row, divided by that to j; where the nearest is at distance 0, rows at
        distance 0 have weight 1 and all others 0. A callable takes distances of shape (n_rows,
        n_samples) and returns weights of that shape. Weights are not divided by their sum over the
        coalition's neighbours, unlike scikit-learn's: the cost of exact values would grow with the
        power K of the number of samples.
    metric : str or callable, default="minkowski"
        As in `~sklearn.neighbors.KNeighborsClassifier`; "precomputed" takes distances instead of
        features, X of shape (n_samples, n_samples) and X_val of shape (n_rows, n_samples).
    p : float, default=2
        Power of the Minkowski metric.
    metric_params : dict, default=None
        Further arguments of the metric. "seuclidean" and "mahalanobis" need theirs.
    n_jobs : int, default=None
        Validation rows are spread over jobs as `joblib.parallel_config` says. Values are the same
        to the bit.

    Attributes
    ----------
    values_ : ndarray of shape (n_samples,)
        Value of each sample, in utility units; they add up to ``score_ - empty_score_``.
    standard_errors_ : ndarray of shape (n_samples,)
        Zeros: the values are exact.
    score_ : float
        Utility of all samples.
    empty_score_ : float
        Utility of none.
    converged_ : bool
        True.
    classes_ : ndarray of shape (n_classes,)
        Labels; only if targets are labels.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features; only if X has names that are all strings.

    See Also
    --------
    ShapleyValuator : For the utility of any model.

    Notes
    -----
    Neighbours are ordered by (distance, index). Euclidean distances come from matrix products whose
    rounding never shows: what it leaves undecided is measured again, row by row. Time is
    O(m n (d + log n)) for m validation rows; memory is that of a copy of X and of a few validation
    rows times n.

    References
    ----------
    .. [1] Jia, Dao, Wang, Hubis, Gurel, Li, Zhang, Spanos, Song (2019). "Efficient task-specific
       data valuation for nearest neighbor algorithms." PVLDB 12.

    Examples
    --------
    Three labels are wrong, and have the lowest values:

    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from skdvl import KNNShapleyValuator
    >>> X, y = load_iris(return_X_y=True)
    >>> y[[5, 42, 77]] = [1, 2, 0]
    >>> valuator = KNNShapleyValuator().fit(X, y)
    >>> np.sort(np.argsort(valuator.values_)[:3])
    array([ 5, 42, 77])
    >>> bool(np.isclose(valuator.values_.sum(), valuator.score_ - valuator.empty_score_))
    True
    """

    def __init__(
        self,
        n_neighbors: int = 5,
        *,
        weights: str | Callable[[NDArray], NDArray] = "uniform",
        metric: str | Callable = "minkowski",
        p: float = 2,
        metric_params: dict[str, Any] | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.weights = weights
        self.metric = metric
        self.p = p
        self.metric_params = metric_params
        self.n_jobs = n_jobs

    @property
    def _label(self) -> str:
        return "shapley_value"

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        X_val: Any = None,
        y_val: Any = None,
    ) -> "KNNShapleyValuator":
        """Value the samples.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Samples to value.
        y : array-like of shape (n_samples,)
            Their targets.
        X_val : array-like or sparse matrix of shape (n_rows, n_features), default=None
            Rows to predict. None: each sample is predicted from all the others, which is the game
            of `~sklearn.model_selection.LeaveOneOut`.
        y_val : array-like of shape (n_rows,), default=None
            Targets of X_val.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If a parameter is out of its range, if y_val has a label that y lacks, or if only one of
            X_val and y_val is given.
        """
        self._check_parameters()
        index = index_of(X)
        X, y = validate_data(
            self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32], ensure_min_samples=2
        )
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val must be given together.")
        if self.metric == "precomputed" and X.shape[0] != X.shape[1]:
            raise ValueError(
                f"With metric='precomputed', X must be square; got X of shape {X.shape}."
            )
        if X_val is not None:
            X_val = validate_data(
                self, X_val, reset=False, accept_sparse="csr", dtype=[np.float64, np.float32]
            )
            y_val = column_or_1d(y_val, warn=True)
            check_consistent_length(X_val, y_val)
        problem = self._problem(X, y, X_val, y_val)
        values, self.score_ = value_neighbors(problem, self.n_jobs)
        self.empty_score_ = problem.empty_score
        self.converged_ = True
        self._settle(X, y, Estimate(values, np.zeros_like(values)), index)
        return self

    def _check_parameters(self) -> None:
        check_scalar(self.n_neighbors, "n_neighbors", Integral, min_val=1)
        if not callable(self.weights) and self.weights not in ("uniform", "distance"):
            raise ValueError(
                f"weights must be 'uniform', 'distance' or a callable, got {self.weights!r}."
            )

    def _problem(
        self, X: Any, y: NDArray, X_val: Any | None, y_val: NDArray | None
    ) -> NeighborProblem:
        distances = make_distances(
            X,
            X_val,
            metric=self.metric,
            p=self.p,
            metric_params=self.metric_params,
            need_distances=self.weights != "uniform",
        )
        wanted, missing = y if y_val is None else y_val, None
        if y.dtype.kind == "f":
            self.__dict__.pop("classes_", None)  # of an earlier fit
            wanted = check_array(wanted, dtype=np.float64, ensure_2d=False, input_name="y_val")
            # as a dummy would: from all samples, or from all but the one that is predicted
            others = (y.sum() - y) / (len(y) - 1)
            missing = others if y_val is None else np.full(len(wanted), y.mean())
        else:
            check_classification_targets(y)
            self.classes_, y = np.unique(y, return_inverse=True)
            wanted = y if y_val is None else self._encode(wanted)
        return NeighborProblem(distances, y, wanted, missing, self.n_neighbors, self.weights)

    def _encode(self, y_val: NDArray) -> NDArray[np.intp]:
        unknown = np.setdiff1d(y_val, self.classes_)
        if len(unknown):
            raise ValueError(f"y_val has labels that y lacks: {unknown.tolist()}.")
        return np.searchsorted(self.classes_, y_val)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.pairwise = self.metric == "precomputed"
        return tags

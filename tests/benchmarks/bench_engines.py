"""How fast the incremental engines are, against a plain loop of clone, fit and score.

Run ``python tests/benchmarks/bench_engines.py [part of a name ...] [--scale]``. Each row is one
model on real data; both doors and the loop evaluate the same coalitions, the prefixes of random
orders, in alternation, with BLAS at one thread. The numbers are medians over the rounds, in
microseconds per evaluation. With ``--scale`` the rows show how cost grows with rows and columns: on
made data, five evaluations of the loop a round, at most 128 coalitions, sizes in steps of a
hundredth beyond 1000 rows, and no further round for a model after four seconds.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier
from sklearn.naive_bayes import BernoulliNB, CategoricalNB, ComplementNB, GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from threadpoolctl import threadpool_limits

from skdvl.metrics import resolve_scorer
from skdvl.utilities.base import prefix_coalitions
from skdvl.utilities.dispatch import has_own_score, make_utility
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.quiet import quiet_warnings
from skdvl.utilities.supervised import FallbackRule

LDA, QDA = LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
N_ROUNDS = 7
N_LOOPED = 25  # evaluations of the plain loop per round
SCALED_SECONDS = 4  # for a row of ``--scale``; at least one round is measured


def split(X, y, n_rows, n_val, classes):
    """Return a fold of the first shuffled rows; the validation rows are the next ones."""
    order = np.random.default_rng(0).permutation(len(y))
    X, y = X[order], y[order]
    train, val = slice(0, n_rows), slice(n_rows, n_rows + n_val)
    return Fold(0, X[train], y[train], X[val], y[val], classes)


def breast_cancer(n_rows=100, n_val=200):
    return split(*load_breast_cancer(return_X_y=True), n_rows, n_val, np.arange(2))


def digits(n_rows=300, n_val=300):
    return split(*load_digits(return_X_y=True), n_rows, n_val, np.arange(10))


def scaled_cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return split(StandardScaler().fit_transform(X), y, 100, 200, np.arange(2))


def iris():
    return split(*load_iris(return_X_y=True), 100, 50, np.arange(3))


def diabetes(n_rows=100, n_val=200):
    return split(*load_diabetes(return_X_y=True), n_rows, n_val, None)


def made_classes(n_rows, d, n_val=200, n_classes=2):
    rng = np.random.default_rng(0)
    y = rng.integers(0, n_classes, n_rows + n_val)
    X = rng.normal(size=(n_rows + n_val, d)) + 0.3 * rng.normal(size=(n_classes, d))[y]
    return split(X, y, n_rows, n_val, np.arange(n_classes))


def made_counts(n_rows, d, n_val=200, n_classes=2):
    rng = np.random.default_rng(0)
    y = rng.integers(0, n_classes, n_rows + n_val)
    X = rng.poisson(rng.gamma(1.0, 1.0, (n_classes, d))[y])
    return split(X, y, n_rows, n_val, np.arange(n_classes))


def made_line(n_rows, d, n_val=200):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows + n_val, d))
    y = X[:, :10] @ rng.normal(size=min(d, 10)) + rng.normal(size=n_rows + n_val)
    return split(X, y, n_rows, n_val, None)


@dataclass
class Row:
    """A model, its data, and the speed over the plain loop that is expected of the better door."""

    name: str
    estimator: Any
    data: Callable[[], Fold]
    floor: float | None = None
    scoring: Any = None
    n_orders: int = 20
    is_scaled: bool = False
    seconds: dict[str, list[float]] = field(default_factory=dict)


LOSS = "neg_log_loss"
KNN_BY_DISTANCE = KNeighborsClassifier(weights="distance")
KNN_MEAN_BY_DISTANCE = KNeighborsRegressor(weights="distance")
SCALED_LOGISTIC = make_pipeline(StandardScaler(), LogisticRegression())
TREE = DecisionTreeClassifier(random_state=0)
BALANCED_TREE = DecisionTreeClassifier(random_state=0, class_weight="balanced")

ROWS = [
    Row("GaussianNB, breast cancer", GaussianNB(), breast_cancer, 200),
    Row("GaussianNB, breast cancer, log loss", GaussianNB(), breast_cancer, None, "neg_log_loss"),
    Row("GaussianNB, digits", GaussianNB(), digits, 25, n_orders=5),
    Row("MultinomialNB, digits", MultinomialNB(), digits, 40, n_orders=5),
    Row("BernoulliNB, digits", BernoulliNB(binarize=8), digits, 40, n_orders=5),
    Row("ComplementNB, digits", ComplementNB(), digits, 40, n_orders=5),
    Row("CategoricalNB, digits", CategoricalNB(min_categories=17), digits, 40, n_orders=5),
    Row("NearestCentroid, breast cancer", NearestCentroid(), breast_cancer, 50),
    Row("NearestCentroid, digits", NearestCentroid(), digits, 50, n_orders=5),
    Row("Ridge, diabetes", Ridge(), diabetes, 300),
    Row("Ridge, diabetes, absolute error", Ridge(), diabetes, None, "neg_mean_absolute_error"),
    Row("Ridge, d=200", Ridge(), partial(made_line, 100, 200), 150),
    Row("RidgeClassifier, breast cancer", RidgeClassifier(alpha=10), breast_cancer, 300),
    Row("RidgeClassifier, digits", RidgeClassifier(), digits, n_orders=5),
    Row("LinearRegression, diabetes", LinearRegression(), diabetes, 300),
    Row("LinearRegression, d=200", LinearRegression(), partial(made_line, 100, 200), 150),
    Row("LDA, d=10", LDA(), partial(made_classes, 100, 10), 80),
    Row("LDA, breast cancer", LDA(), breast_cancer, 80),
    Row("LDA lsqr shrinkage 0.1, breast cancer", LDA("lsqr", 0.1), breast_cancer, 80),
    Row("LDA lsqr shrinkage auto, breast cancer", LDA("lsqr", "auto"), breast_cancer, 80),
    Row("LDA lsqr shrinkage 0.1, digits", LDA("lsqr", 0.1), digits, n_orders=5),
    Row("QDA, d=10", QDA(), partial(made_classes, 100, 10), 20),
    Row("QDA, d=30, n=300", QDA(), partial(made_classes, 300, 30), 20, n_orders=7),
    Row("QDA reg_param 0.1, d=30", QDA(reg_param=0.1), partial(made_classes, 100, 30), 20),
    Row("QDA reg_param 0.1, breast cancer", QDA(reg_param=0.1), breast_cancer, 20),
    Row("KNeighborsClassifier, breast cancer", KNeighborsClassifier(), breast_cancer, 300),
    Row("KNeighborsClassifier distance, br. cancer", KNN_BY_DISTANCE, breast_cancer, 300),
    Row(
        "KNeighborsClassifier, digits",
        KNeighborsClassifier(),
        partial(digits, 1000, 500),
        n_orders=2,
    ),
    Row("KNeighborsRegressor, diabetes", KNeighborsRegressor(), diabetes, 300),
    Row("KNeighborsRegressor distance, diabetes", KNN_MEAN_BY_DISTANCE, diabetes, 300),
    Row("LogisticRegression, scaled br. cancer", LogisticRegression(), scaled_cancer, 40),
    Row("LogisticRegression log loss, sc. br. c.", LogisticRegression(), scaled_cancer, 40, LOSS),
    Row("LogisticRegression, breast cancer", LogisticRegression(), breast_cancer, 40),
    Row("StandardScaler, LogisticRegression, br. c.", SCALED_LOGISTIC, breast_cancer, 40),
    Row("LogisticRegression, iris", LogisticRegression(), iris, 5),
    Row("LogisticRegression, digits", LogisticRegression(), partial(digits, 100, 200), 5),
    Row("StandardScaler, LogisticRegression, dig.", SCALED_LOGISTIC, partial(digits, 100, 200), 5),
    Row("DecisionTreeClassifier, breast cancer", TREE, breast_cancer, 1.8),
    Row("DecisionTreeClassifier, balanced, br. c.", BALANCED_TREE, breast_cancer, 1.8),
    Row("DecisionTreeRegressor, diabetes", DecisionTreeRegressor(random_state=0), diabetes, 1.8),
]

# name -> estimator, data for (n_rows, d)
SCALED: dict[str, tuple[Any, Callable[[int, int], Fold]]] = {
    "GaussianNB": (GaussianNB(), made_classes),
    "GaussianNB, 10 classes": (GaussianNB(), partial(made_classes, n_classes=10)),
    "MultinomialNB, 10 classes": (MultinomialNB(), partial(made_counts, n_classes=10)),
    "NearestCentroid": (NearestCentroid(), made_classes),
    "Ridge": (Ridge(), made_line),
    "LinearRegression": (LinearRegression(), made_line),
    "LDA": (LDA(), made_classes),
    "QDA": (QDA(reg_param=0.1), made_classes),
    "KNeighborsClassifier": (KNeighborsClassifier(), made_classes),
    "KNeighborsRegressor, distance": (KNeighborsRegressor(weights="distance"), made_line),
    "LogisticRegression": (LogisticRegression(), made_classes),
    "LogisticRegression, 10 classes": (LogisticRegression(), partial(made_classes, n_classes=10)),
    "DecisionTreeClassifier": (TREE, made_classes),
}


def scaled_rows():
    for name, (estimator, data) in SCALED.items():
        for n_rows in (100, 1000, 5000):
            for d in (10, 100, 1000):
                fold_of = partial(data, n_rows, d)
                yield Row(
                    f"{name}, n={n_rows}, d={d}", estimator, fold_of, n_orders=1, is_scaled=True
                )


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(row):
    """Return the engine's name and microseconds per evaluation of the loop and of both doors."""
    fold = row.data()
    scorer = resolve_scorer(row.scoring, row.estimator)
    judge = Judge(fold, scorer, scorer is None and has_own_score(row.estimator))
    utility, reasons = make_utility(row.estimator, fold, judge, FallbackRule(judge))
    if utility.engine == "refit":
        return "refit: " + "; ".join(reasons or ["no engine"]), {}
    n = fold.n_rows
    rng = np.random.default_rng(1)
    orders = np.stack([rng.permutation(n) for _ in range(row.n_orders)])
    sizes = np.arange(1, n + 1) if n <= 1000 else np.arange(1, n + 1, n // 100)
    coalitions = np.concatenate([prefix_coalitions(order, sizes) for order in orders])
    n_prefixes = len(coalitions)
    if row.is_scaled:
        coalitions = coalitions[rng.permutation(n_prefixes)[:128]]
    n_looped = 5 if row.is_scaled else N_LOOPED
    looped = coalitions[rng.choice(len(coalitions), n_looped)]

    def loop():
        for rows in looped:
            model = clone(row.estimator)
            try:
                model.fit(fold.X[rows], fold.y[rows])
                if scorer is None:
                    model.score(fold.X_val, fold.y_val)
                else:
                    scorer(model, fold.X_val, fold.y_val)
            except Exception:
                continue

    work = {
        "loop": (loop, n_looped),
        "prefixes": (lambda: utility.prefixes(orders, sizes), n_prefixes),
        "coalitions": (lambda: utility(coalitions), len(coalitions)),
    }
    if not utility.has_cheap_prefixes:
        del work["prefixes"]
    with quiet_warnings(), threadpool_limits(1):
        start = time.perf_counter()
        for function, _ in work.values():
            function()
        for j in range(N_ROUNDS):
            if row.is_scaled and j and time.perf_counter() - start > SCALED_SECONDS:
                break
            for door, (function, n_evals) in work.items():
                row.seconds.setdefault(door, []).append(timed(function) / n_evals)
    return utility.engine, {door: 1e6 * np.median(s) for door, s in row.seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="only rows whose name contains one of these")
    parser.add_argument("--scale", action="store_true", help="rows for growing n and d")
    arguments = parser.parse_args()
    print(
        f"{'model, data':40} {'loop':>8} {'prefixes':>9} {'x':>6} {'coalitions':>10} {'x':>6} floor"
    )
    for row in scaled_rows() if arguments.scale else ROWS:
        if arguments.names and not any(n.lower() in row.name.lower() for n in arguments.names):
            continue
        engine, micros = measure(row)
        if not micros:
            print(f"{row.name:40} {engine}", flush=True)
            continue
        line = f"{row.name:40} {micros['loop']:8.0f}"
        for door, width in (("prefixes", 9), ("coalitions", 10)):
            if door in micros:
                line += f" {micros[door]:{width}.2f} {micros['loop'] / micros[door]:6.0f}"
            else:
                line += f" {'-':>{width}} {'-':>6}"
        print(f"{line} {row.floor or '':>5}", flush=True)


if __name__ == "__main__":
    main()

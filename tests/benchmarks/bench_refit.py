"""How fast refitting is, against a plain loop of clone, fit and score.

Run ``python tests/benchmarks/bench_refit.py``. Both evaluate the same coalitions, in alternation,
with BLAS at one thread; medians over the rounds of microseconds of processor time per
evaluation. The utilities are compared to the bit wherever the plain loop gives one.
"""

import time

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from skdvl.metrics import resolve_scorer
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.quiet import quiet_warnings
from skdvl.utilities.refit import RefitUtility
from skdvl.utilities.supervised import FallbackRule

N_ROWS, N_VAL = 100, 200
N_COALITIONS = 60
N_ROUNDS = 7

SETTINGS = [
    (GaussianNB(), None),
    (GaussianNB(), "balanced_accuracy"),
    (GaussianNB(), "f1"),
    (GaussianNB(), "roc_auc"),
    (GaussianNB(), "neg_log_loss"),
    (GaussianNB(), "average_precision"),
    (GaussianNB(), "true_class_probability"),
    (Ridge(), None),
    (Ridge(), "neg_mean_squared_error"),
    (DecisionTreeClassifier(random_state=0), None),
    (KNeighborsClassifier(), None),
    (LinearDiscriminantAnalysis(), None),
    (SVC(), None),
    (LogisticRegression(max_iter=200), None),
    (make_pipeline(StandardScaler(), LogisticRegression()), None),
    (make_pipeline(StandardScaler(), GaussianNB()), None),
]


def make_fold(estimator):
    load = load_breast_cancer if is_classifier(estimator) else load_diabetes
    X, y = load(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))[: N_ROWS + N_VAL]
    X, y = X[order], y[order]
    classes = np.unique(y) if is_classifier(estimator) else None
    return Fold(0, X[:N_ROWS], y[:N_ROWS], X[N_ROWS:], y[N_ROWS:], classes)


def plain_loop(estimator, scorer, fold, coalitions):
    """Do what anybody would write; NaN where the model fails."""
    utilities = np.full(len(coalitions), np.nan)
    for j, rows in enumerate(coalitions):
        model = clone(estimator)
        try:
            model.fit(fold.X[rows], fold.y[rows])
            if scorer is None:
                utilities[j] = model.score(fold.X_val, fold.y_val)
            else:
                utilities[j] = scorer(model, fold.X_val, fold.y_val)
        except ValueError:
            continue
    return utilities


def measure(estimator, scoring):
    """Return microseconds per evaluation of the loop and of refitting, and how many are equal."""
    fold = make_fold(estimator)
    scorer = resolve_scorer(scoring, estimator)
    judge = Judge(fold, scorer, False)
    utility = RefitUtility(estimator, fold, judge, FallbackRule(judge))
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, N_ROWS + 1, N_COALITIONS)
    coalitions = np.argsort(rng.random((N_COALITIONS, N_ROWS)), axis=1) < sizes[:, np.newaxis]
    seconds = {"loop": [], "refit": []}
    for _ in range(N_ROUNDS):
        started = time.process_time()
        looped = plain_loop(estimator, scorer, fold, coalitions)
        between = time.process_time()
        refitted = utility(coalitions)
        seconds["loop"].append(between - started)
        seconds["refit"].append(time.process_time() - between)
    defined = ~np.isnan(looped)
    if fold.classes is not None:  # where the model lacks a class, its scorer sees other columns
        n_seen = np.array([len(np.unique(fold.y[rows])) for rows in coalitions])
        defined &= n_seen == len(fold.classes)
    equal = np.mean(looped[defined] == refitted[defined])
    return [1e6 * np.median(seconds[name]) / N_COALITIONS for name in ("loop", "refit")], equal


def main():
    print(f"{'model, scoring':56} {'loop µs':>8} {'refit µs':>8} {'x':>5} {'equal':>6}")
    with quiet_warnings(), threadpool_limits(1):
        for estimator, scoring in SETTINGS:
            (loop, refit), equal = measure(estimator, scoring)
            name = f"{estimator}, {scoring or 'score'}".replace("\n", "").replace("  ", "")
            print(f"{name[:56]:56} {loop:8.0f} {refit:8.0f} {loop / refit:5.2f} {equal:6.0%}")


if __name__ == "__main__":
    main()

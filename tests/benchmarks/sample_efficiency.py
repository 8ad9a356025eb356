"""How many evaluations the sampling schemes need, at equal error, on games of data valuation.

Run ``python tests/benchmarks/sample_efficiency.py [--games …] [--methods …] [--budgets …]``. Every
scheme is run on the same games with the same seeds; its error is reported over that of the
textbook's permutations in the same run, with a bootstrap interval over the seeds. ``--reduced``
takes some minutes. ``--held-out`` plays the data draws that no choice was made on.

What was fixed before anything was tuned: the games below; their data draws, 0 for tuning and 1
held out; the seeds, 0, 1, 2, … as many as `N_SEEDS` says; the budgets.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from skdvl.metrics import resolve_scorer
from skdvl.sampling import EvaluationLog, Game, Permutation
from skdvl.sampling.base import SCHEMES
from skdvl.semivalues import Shapley
from skdvl.testing import exact_values
from skdvl.utilities import Utility
from skdvl.utilities.dispatch import has_own_score, make_utility
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.quiet import quiet_warnings
from skdvl.utilities.supervised import FallbackRule

N_SEEDS = 40
N_SEEDS_LARGE = 10  # with 1000 players
BUDGETS = (1, 2, 4, 10, 20, 50, 100)  # evaluations per player, beside those of ∅ and N
TUNING, HELD_OUT = 0, 1  # data draws
TRUTH_SEED = 10**6
BASE = "permutation textbook"


def refitted(estimator, data, n_players, n_val, scoring=None, standardize=False):
    """Return a function of the data draw that gives the game of a model on real data."""

    def make(data_draw):
        X, y = data(return_X_y=True)
        order = np.random.default_rng(data_draw).permutation(len(y))
        X, y = X[order], y[order]
        if standardize:
            X = StandardScaler().fit_transform(X)
        classes = np.unique(y) if y.dtype.kind in "iu" else None
        train, val = slice(0, n_players), slice(n_players, n_players + n_val)
        fold = Fold(0, X[train], y[train], X[val], y[val], classes)
        scorer = resolve_scorer(scoring, estimator)
        judge = Judge(fold, scorer, scorer is None and has_own_score(estimator))
        return make_utility(estimator, fold, judge, FallbackRule(judge))[0]

    return make


class Table(Utility):
    """All utilities of a small game, looked up."""

    evals_per_chunk = 2048

    def __init__(self, utility):
        self.n_players = utility.n_players
        codes = np.arange(2**self.n_players)
        self.places = 2 ** np.arange(self.n_players)
        self.utilities = utility((codes[:, np.newaxis] & self.places) > 0)

    def _evaluate(self, coalitions):
        return self.utilities[coalitions @ self.places]


def enumerated(make):
    return lambda data_draw: Table(make(data_draw))


class SoftNeighbors(Utility):
    """Share of the K nearest members with the right class: values known in closed form."""

    evals_per_chunk = 2048
    n_neighbors = 5

    def __init__(self, data_draw, n_players=1000, n_val=100):
        X, y = load_digits(return_X_y=True)
        order = np.random.default_rng(data_draw).permutation(len(y))
        X, y = X[order], y[order]
        X_val, y_val = X[n_players : n_players + n_val], y[n_players : n_players + n_val]
        X, y = X[:n_players], y[:n_players]
        distances = ((X_val[:, np.newaxis] - X) ** 2).sum(axis=2)
        self.n_players = n_players
        self.order = np.argsort(distances, axis=1, kind="stable")
        self.ranks = np.argsort(self.order, axis=1)
        self.agrees = y[self.order] == y_val[:, np.newaxis]

    def _evaluate(self, coalitions):
        sizes = coalitions.sum(axis=1)
        return [
            self._of_small(np.flatnonzero(c)) if k <= 64 else self._of_large(c, k)
            for c, k in zip(coalitions, sizes, strict=True)
        ]

    def _of_small(self, members):
        ranks = np.sort(self.ranks[:, members], axis=1)[:, : self.n_neighbors]
        votes = np.take_along_axis(self.agrees, ranks, axis=1)
        return votes.sum() / (self.n_neighbors * len(self.order))

    def _of_large(self, coalition, size):
        depth = min(self.n_players, int(4 * self.n_neighbors * self.n_players / size))
        while True:
            found = coalition[self.order[:, :depth]]
            counts = np.cumsum(found, axis=1)
            if depth == self.n_players or counts[:, -1].min() >= self.n_neighbors:
                votes = found & (counts <= self.n_neighbors) & self.agrees[:, :depth]
                return votes.sum() / (self.n_neighbors * len(self.order))
            depth = min(self.n_players, 2 * depth)

    def values(self):
        """Jia et al. (2019), theorem 1."""
        n, K = self.n_players, self.n_neighbors
        votes = self.agrees.astype(float)
        by_rank = np.empty_like(votes)
        by_rank[:, -1] = votes[:, -1] / max(n, K)
        for i in range(n - 1, 0, -1):
            gap = votes[:, i - 1] - votes[:, i]
            by_rank[:, i - 1] = by_rank[:, i] + gap / K * min(K, i) / i
        return np.take_along_axis(by_rank, self.ranks, axis=1).mean(axis=0)


@dataclass
class Setting:
    """A game, and how its exact values are found."""

    make: Callable[[int], Utility]
    n_seeds: int = N_SEEDS
    truth: int | str = 8000  # evaluations per player, or how they are known
    utilities: dict[int, Utility] = field(default_factory=dict)

    def utility(self, data_draw):
        if data_draw not in self.utilities:
            self.utilities[data_draw] = self.make(data_draw)
        return self.utilities[data_draw]


GNB, RIDGE = GaussianNB(), Ridge()
TREE = DecisionTreeClassifier(random_state=0)
GAMES = {
    "gnb100": Setting(refitted(GNB, load_breast_cancer, 100, 200)),
    "knn100": Setting(refitted(KNeighborsClassifier(), load_breast_cancer, 100, 200, None, True)),
    "ridge100": Setting(refitted(RIDGE, load_diabetes, 100, 200, None, True)),
    "logistic100": Setting(
        refitted(LogisticRegression(), load_breast_cancer, 100, 200, None, True)
    ),
    "tree40": Setting(refitted(TREE, load_breast_cancer, 40, 200), truth=4000),
    "softknn1000": Setting(SoftNeighbors, N_SEEDS_LARGE, "closed form"),
    "gnb14": Setting(enumerated(refitted(GNB, load_breast_cancer, 14, 200)), truth="enumerated"),
    "ridge14": Setting(
        enumerated(refitted(RIDGE, load_diabetes, 14, 200, None, True)), truth="enumerated"
    ),
    "gnblogloss100": Setting(refitted(GNB, load_breast_cancer, 100, 200, "neg_log_loss")),
}

METHODS: dict[str, Any] = {
    BASE: Permutation(mix=False),
    **{name: SCHEMES[name]() for name in ("permutation", "antithetic", "stratified")},
}


def open_game(utility, seed):
    n = utility.n_players
    ends = np.zeros((2, n), dtype=bool)
    ends[1] = True
    empty, full = utility(ends)
    game = Game(n, empty, full, utility.evals_per_chunk, utility.has_cheap_prefixes)
    return game, EvaluationLog(seed, 0, n)


def extend(scheme, game, log, utility, budget):
    """Evaluate what a budget allows, as a valuation does."""
    cost = scheme.cost_per_draw(game.n_players)
    while (left := (budget - log.n_evals) // cost) > 0:
        if log.is_round_complete:
            chunks = scheme.plan(game, Shapley(), log)
            if not chunks:
                return
            log.begin_round(chunks)
        for entry in log.rounds[-1]:
            n_draws = min(entry.chunk.n_draws - entry.n_done, left)
            if n_draws:
                draws = scheme.draw(game.n_players, entry.chunk, entry.chunk.rng(log.entropy))
                rows = slice(
                    entry.n_done * scheme.rows_per_draw,
                    (entry.n_done + n_draws) * scheme.rows_per_draw,
                )
                entry.append(n_draws, scheme.evaluate(draws[rows], utility, game))
                left -= n_draws


def run(scheme, utility, seed, budgets):
    """Return an estimate per budget; a larger budget extends a smaller one."""
    game, log = open_game(utility, seed)
    estimates = []
    for budget in budgets:
        extend(scheme, game, log, utility, budget * utility.n_players)
        estimates.append(scheme.estimate(game, Shapley(), log))
    return estimates


def find_truth(setting, utility):
    """Return the values and the root mean square of their own errors."""
    if setting.truth == "closed form":
        return utility.values(), 0.0
    if setting.truth == "enumerated":
        return exact_values(utility), 0.0
    estimate = run(SCHEMES["stratified"](), utility, TRUTH_SEED, [setting.truth])[0]
    return estimate.values, np.sqrt(np.mean(estimate.standard_errors**2))


@dataclass
class Runs:
    """Of one method on one game: arrays of shape (n_seeds, n_budgets, n_players)."""

    errors: np.ndarray
    standard_errors: np.ndarray
    values: np.ndarray
    seconds: float


def play(scheme, setting, utility, truth, budgets, n_seeds):
    start = time.perf_counter()
    found = [run(scheme, utility, seed, budgets) for seed in range(n_seeds)]
    values = np.array([[estimate.values for estimate in row] for row in found])
    ses = np.array([[estimate.standard_errors for estimate in row] for row in found])
    return Runs(values - truth, ses, values, time.perf_counter() - start)


def ratio_interval(errors, base, n_resamples=1000):
    """Return the ratio of root mean square errors with a bootstrap interval over the seeds."""
    mine, theirs = np.mean(errors**2, axis=1), np.mean(base**2, axis=1)
    rng = np.random.default_rng(0)
    picks = [rng.integers(0, len(x), (n_resamples, len(x))) for x in (mine, theirs)]
    resampled = np.sqrt(mine[picks[0]].mean(axis=1) / theirs[picks[1]].mean(axis=1))
    low, high = np.quantile(resampled, [0.025, 0.975])
    return np.sqrt(mine.mean() / theirs.mean()), low, high


def report(name, method, budget, runs, base, b, truth):
    errors, ses = runs.errors[:, b], runs.standard_errors[:, b]
    rmse = np.sqrt(np.mean(errors**2))
    ratio, low, high = ratio_interval(errors, base.errors[:, b])
    rank = np.mean([stats.spearmanr(values, truth).statistic for values in runs.values[:, b]])
    covered = np.abs(errors) <= 1.96 * ses
    worst = np.quantile(covered.mean(axis=0), 0.05)
    print(
        f"| {name} | {method} | {budget}n | {rmse / truth.std():.3f} | {ratio:.3f} "
        f"[{low:.3f}, {high:.3f}] | {rank:.2f} | {np.sqrt(np.mean(ses**2)) / rmse:.2f} "
        f"| {covered.mean():.3f} | {worst:.2f} |",
        flush=True,
    )
    return ratio


def known_truth(store, name, draw, setting, utility):
    path = None if store is None else Path(store) / f"truth-{name}-{draw}.npz"
    if path is not None and path.exists():
        with np.load(path) as kept:
            return kept["values"], float(kept["error"])
    values, error = find_truth(setting, utility)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, values=values, error=error)
    return values, error


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--games", nargs="*", default=list(GAMES), choices=list(GAMES))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--budgets", nargs="*", type=int, default=list(BUDGETS))
    parser.add_argument("--seeds", type=int, help="fewer seeds than the rules ask for")
    parser.add_argument("--held-out", action="store_true", help="the data draws not tuned on")
    parser.add_argument("--reduced", action="store_true", help="some minutes: fast games, 10 seeds")
    parser.add_argument("--store", help="directory where exact values are kept between runs")
    arguments = parser.parse_args()
    if arguments.reduced:
        arguments.games = ["gnb100", "ridge100", "gnb14", "ridge14"]
        arguments.budgets, arguments.seeds = [2, 4, 20], 10
    draw = HELD_OUT if arguments.held_out else TUNING
    print(
        "| game | method | budget | RMSE/std | ratio | Spearman | SE/RMSE | coverage | worst 5 % |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    ratios: dict[tuple[str, int], list[float]] = {}
    with quiet_warnings(), threadpool_limits(1):
        for name in arguments.games:
            setting = GAMES[name]
            utility = setting.utility(draw)
            truth, error = known_truth(arguments.store, name, draw, setting, utility)
            n_seeds = min(setting.n_seeds, arguments.seeds or setting.n_seeds)
            names = [BASE, *[m for m in arguments.methods if m != BASE]]
            played = {
                m: play(METHODS[m], setting, utility, truth, arguments.budgets, n_seeds)
                for m in names
            }
            for method, runs in played.items():
                for b, budget in enumerate(arguments.budgets):
                    found = report(name, method, budget, runs, played[BASE], b, truth)
                    ratios.setdefault((method, budget), []).append(found)
            smallest = min(
                np.sqrt(np.mean(r.errors**2, axis=(0, 2))).min() for r in played.values()
            )
            seconds = ", ".join(f"{m} {runs.seconds:.0f} s" for m, runs in played.items())
            share = f"error of the truth / smallest error {error / smallest:.2f}"
            print(f"<!-- {name}: {share}; {seconds} -->")
    for (method, budget), found in ratios.items():
        print(f"<!-- median over games: {method} {budget}n {np.median(found):.3f} -->")


if __name__ == "__main__":
    main()

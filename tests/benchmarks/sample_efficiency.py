"""How many evaluations the sampling schemes need, at equal error, on games of data valuation.

Run ``python tests/benchmarks/sample_efficiency.py results.json``; what the file has already is not
run again, so the run may be interrupted. ``--table`` prints what was found instead. Every scheme is
run on the same games with the same seeds; its error is reported over that of the textbook's
permutations in the same run, with a bootstrap interval over the seeds.

What was fixed before anything was tuned: the games below; their data draws, 0 for tuning and 1
held out, of which no choice was made; the seeds, 0, 1, 2, … as many as `N_SEEDS` says; the budgets.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
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

from skdvl.estimation.evaluation import SharedWork, evaluate_task
from skdvl.estimation.games import open_game
from skdvl.metrics import resolve_scorer
from skdvl.sampling import EvaluationLog, Permutation, Regression
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
N_SEEDS_SMALL = 400  # with 14, of whose intervals 40 seeds tell too little
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
    truth: int | str = 4000  # evaluations per player, or how they are known


GNB, RIDGE = GaussianNB(), Ridge()
TREE = DecisionTreeClassifier(random_state=0)
GAMES = {
    "gnb100": Setting(refitted(GNB, load_breast_cancer, 100, 200)),
    "knn100": Setting(refitted(KNeighborsClassifier(), load_breast_cancer, 100, 200, None, True)),
    "ridge100": Setting(refitted(RIDGE, load_diabetes, 100, 200, None, True)),
    "logistic100": Setting(
        refitted(LogisticRegression(), load_breast_cancer, 100, 200, None, True)
    ),
    "tree40": Setting(refitted(TREE, load_breast_cancer, 40, 200)),
    "softknn1000": Setting(SoftNeighbors, N_SEEDS_LARGE, "closed form"),
    "gnb14": Setting(
        enumerated(refitted(GNB, load_breast_cancer, 14, 200)), N_SEEDS_SMALL, "enumerated"
    ),
    "ridge14": Setting(
        enumerated(refitted(RIDGE, load_diabetes, 14, 200, None, True)), N_SEEDS_SMALL, "enumerated"
    ),
    "gnblogloss100": Setting(refitted(GNB, load_breast_cancer, 100, 200, "neg_log_loss")),
}

METHODS: dict[str, Any] = {
    BASE: Permutation(mix=False),
    **{name: SCHEMES[name]() for name in ("permutation", "stratified", "regression")},
    **{name: SCHEMES[name]() for name in ("antithetic", "owen", "msr", "group_testing", "tmc")},
    "regression paired": Regression(paired=True),
}
MAIN = list(METHODS)[:4]  # these are run first


def play(scheme, utility, known, n_evals):
    """Evaluate what a budget allows, as a valuation does; what is known is not evaluated again."""
    n_players = utility.n_players
    log = EvaluationLog(known.entropy, 0, n_players)
    log.draws = known.draws
    in_play = open_game(utility, utility.engine, 2 + n_evals, np.arange(n_players), log, known)
    shared = SharedWork([utility], [in_play.game], scheme, [log.draws])
    while tasks := in_play.next_tasks(scheme, Shapley()):
        for task in tasks:
            if not in_play.recall(task, scheme):
                in_play.add(task, evaluate_task(shared, task)[0])
    return in_play


def run(scheme, utility, seed, budgets):
    """Return an estimate per budget; a larger budget extends a smaller one."""
    known = EvaluationLog(seed, 0, utility.n_players)
    estimates = []
    for budget in budgets:
        in_play = play(scheme, utility, known, budget * utility.n_players)
        estimates.append(scheme.estimate(in_play.game, Shapley(), in_play.log))
        known = in_play.all_known
    return estimates


def find_truth(setting, utility):
    """Return the values and the root mean square of their own errors."""
    if setting.truth == "closed form":
        return utility.values(), 0.0
    if setting.truth == "enumerated":
        return exact_values(utility), 0.0
    estimate = run(SCHEMES["regression"](), utility, TRUTH_SEED, [setting.truth])[0]
    return estimate.values, np.sqrt(np.mean(estimate.standard_errors**2))


def measure(scheme, utility, truth, n_seeds, budgets):
    """Return what is reported of a method, arrays of shape (n_seeds, n_budgets) or (n_budgets,)."""
    start = time.process_time()
    found = [run(scheme, utility, seed, budgets) for seed in range(n_seeds)]
    seconds = time.process_time() - start
    values = np.array([[estimate.values for estimate in row] for row in found])
    ses = np.array([[estimate.standard_errors for estimate in row] for row in found])
    errors = values - truth
    covered = (np.abs(errors) <= 1.96 * ses).mean(axis=0)
    ranks = [[stats.spearmanr(v, truth).statistic for v in row] for row in values]
    return {
        "squared_errors": np.mean(errors**2, axis=2).tolist(),
        "squared_standard_errors": np.mean(ses**2, axis=2).tolist(),
        "spearman": np.mean(ranks, axis=0).tolist(),
        "coverage": covered.mean(axis=1).tolist(),
        "worst_coverage": np.quantile(covered, 0.05, axis=1).tolist(),
        "seconds": seconds,
    }


def save(results, path):
    path.with_suffix(".part").write_text(json.dumps(results, indent=1))
    path.with_suffix(".part").replace(path)


def run_all(path, games, methods, draws, budgets, n_seeds):
    """Run what the file lacks: the main methods on all games, then the others."""
    results = json.loads(path.read_text()) if path.exists() else {}
    main = [method for method in methods if method in MAIN]
    rest = [method for method in methods if method not in MAIN]
    with quiet_warnings(), threadpool_limits(1):
        for some in (main, rest):
            for draw in draws:
                for name in games:
                    run_game(results, path, name, draw, some, budgets, n_seeds)


def run_game(results, path, name, draw, methods, budgets, n_seeds):
    game = f"{name}/{draw}"
    setting = GAMES[name]
    n_seeds = min(setting.n_seeds, n_seeds)
    rules = {"budgets": budgets, "n_seeds": n_seeds}
    todo = [m for m in methods if results.get(f"{game}/{m}", {}).get("rules") != rules]
    if not todo:
        return
    utility = setting.make(draw)
    if game not in results:
        start = time.process_time()
        truth, error = find_truth(setting, utility)
        seconds = time.process_time() - start
        results[game] = {"truth": truth.tolist(), "error": float(error), "seconds": seconds}
        save(results, path)
    for method in todo:
        scheme = METHODS[method]
        truth = np.array(results[game]["truth"])
        # where a draw costs more than the budget there is nothing to tell
        cost = scheme.cost_per_draw(utility.n_players)
        possible = [budget for budget in budgets if budget * utility.n_players >= cost]
        found = measure(scheme, utility, truth, n_seeds, possible)
        results[f"{game}/{method}"] = {"rules": rules, "possible": possible, **found}
        save(results, path)
        print(f"{game} {method}: {found['seconds']:.0f} s", flush=True)


def ratio_interval(mine, theirs, n_resamples=2000):
    """Return the ratio of root mean square errors with a bootstrap interval over the seeds."""
    mine, theirs = np.asarray(mine), np.asarray(theirs)
    rng = np.random.default_rng(0)
    picks = [rng.integers(0, len(x), (n_resamples, len(x))) for x in (mine, theirs)]
    resampled = np.sqrt(mine[picks[0]].mean(axis=1) / theirs[picks[1]].mean(axis=1))
    low, high = np.quantile(resampled, [0.025, 0.975])
    return np.sqrt(mine.mean() / theirs.mean()), low, high


def at_budget(item, budget):
    """Return the squared errors of each seed, None where the budget was too small."""
    if item is None or budget not in item["possible"]:
        return None
    return np.array(item["squared_errors"])[:, item["possible"].index(budget)]


def print_tables(results, games, methods, draws, budgets):
    for draw in draws:
        print(f"\n## Data draw {draw}{' (held out)' if draw == HELD_OUT else ''}\n")
        print(
            "| game | method | budget | RMSE/std | ratio | Spearman | SE/RMSE | coverage "
            "| worst 5 % |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        ratios: dict[tuple[str, int], dict[str, tuple[float, float, float]]] = {}
        for name in games:
            for method in methods:
                for budget in budgets:
                    found = print_row(results, f"{name}/{draw}", method, budget)
                    if found is not None:
                        ratios.setdefault((method, budget), {})[name] = found
        print("\n| method | budget | median ratio | worst, at least 40 players | highest end |")
        print("|---|---|---|---|---|")
        for (method, budget), by_game in ratios.items():
            large = {name: ratio for name, ratio in by_game.items() if not name.endswith("14")}
            if large:
                worst = max(large, key=lambda name: large[name][0])
                median = np.median([ratio[0] for ratio in by_game.values()])
                highest = max(ratio[2] for ratio in by_game.values())
                print(
                    f"| {method} | {budget}n | {median:.3f} of {len(by_game)} games "
                    f"| {large[worst][0]:.3f} {worst} | {highest:.3f} |"
                )


def print_row(results, game, method, budget):
    """Print a line, and return the ratio to the textbook's permutations with its interval."""
    item, base = results.get(f"{game}/{method}"), results.get(f"{game}/{BASE}")
    mine, theirs = at_budget(item, budget), at_budget(base, budget)
    if mine is None or theirs is None:
        return None
    b = item["possible"].index(budget)
    rmse = np.sqrt(mine.mean())
    ratio, low, high = ratio_interval(mine, theirs)
    se = np.sqrt(np.mean(np.array(item["squared_standard_errors"])[:, b]))
    print(
        f"| {game.split('/')[0]} | {method} | {budget}n "
        f"| {rmse / np.std(results[game]['truth']):.3f} | {ratio:.3f} [{low:.3f}, {high:.3f}] "
        f"| {item['spearman'][b]:.2f} | {se / rmse:.2f} | {item['coverage'][b]:.3f} "
        f"| {item['worst_coverage'][b]:.2f} |"
    )
    return ratio, low, high


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="JSON file of what was found")
    parser.add_argument("--table", action="store_true", help="print what was found")
    parser.add_argument("--games", nargs="*", default=list(GAMES), choices=list(GAMES))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--budgets", nargs="*", type=int, default=list(BUDGETS))
    parser.add_argument("--draws", nargs="*", type=int, default=[TUNING, HELD_OUT])
    parser.add_argument(
        "--seeds", type=int, default=N_SEEDS_SMALL, help="fewer seeds than the rules ask for"
    )
    options = parser.parse_args()
    if options.table:
        results = json.loads(options.results.read_text())
        print_tables(results, options.games, options.methods, options.draws, options.budgets)
    else:
        run_all(
            options.results,
            options.games,
            options.methods,
            options.draws,
            options.budgets,
            options.seeds,
        )


if __name__ == "__main__":
    main()

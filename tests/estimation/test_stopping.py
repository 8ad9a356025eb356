"""When a run ends: at which barrier, with which values, and what is said of it."""

import math
import time
import warnings

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import spearmanr
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.naive_bayes import GaussianNB

from skdvl import RankStability, ShapleyValuator, StandardErrorBelow, TimeLimit, estimate_values
from skdvl.estimation import StoppingRule
from skdvl.estimation.estimate import estimate_games
from skdvl.estimation.scheme_choice import find_schemes
from skdvl.sampling import Owen, Permutation
from skdvl.semivalues import Shapley
from skdvl.testing import AirportGame, exact_values
from skdvl.utilities import Utility

SAMPLED = sorted(set(find_schemes()) - {"exact"})
X, Y = make_classification(n_samples=60, n_features=4, random_state=0)


class Looking(StoppingRule):
    """Never stops; keeps what it sees."""

    def __init__(self):
        self.seen = []

    def is_met(self, rounds):
        self.seen = list(rounds)
        return False


class Lean(Looking):
    """A rule as somebody else would write it: one method."""

    def is_met(self, rounds):
        super().is_met(rounds)
        return len(rounds) >= 3


def quietly(utility, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="method='msr' draws coalition sizes")
        return estimate_values(utility, random_state=0, **options)


# --- in a run ---------------------------------------------------------------------------------


def test_halves_are_estimates_of_their_own(noisy_game):
    """Each half is unbiased, and the two are not correlated but through the exact values."""
    game = noisy_game(8)
    exact = exact_values(game)
    for method in ("stratified", "permutation", "owen"):
        errors = []
        for seed in range(200):
            rule = Looking()
            with pytest.warns(ConvergenceWarning):
                estimate_values(game, method=method, tol=rule, max_evals=90, random_state=seed)
            errors.append(np.array(rule.seen[-1].half_values) - exact)
        errors = np.array(errors)
        z = errors.mean(axis=0) / (errors.std(axis=0) / np.sqrt(len(errors)))
        assert np.abs(z).max() < 4.5, method  # 16 numbers: by chance in 1e-4
        between = np.mean(errors[:, 0] * errors[:, 1]) / np.mean(errors**2)
        # 200 seeds, and of eight players' errors at most seven independent: sd below 0.07
        assert abs(between) < 0.3, method


@pytest.mark.parametrize("method", SAMPLED)
def test_what_a_round_knew_does_not_depend_on_when_it_is_asked(noisy_game, method):
    rule = Looking()
    quietly(noisy_game(12), method=method, max_evals=600, tol=rule)
    late = [found.half_values for found in rule.seen]

    class Asking(Looking):
        def is_met(self, rounds):
            super().is_met(rounds)
            return rounds[-1].half_values is None

    rule = Asking()
    quietly(noisy_game(12), method=method, max_evals=600, tol=rule)
    assert len(late) >= 3
    for found, then in zip(rule.seen, late, strict=True):
        assert_array_equal(np.array(found.half_values), np.array(then))
        assert not np.array_equal(*then)


class Roots(Utility):
    """u(S) is the root of the sum of the players' weights."""

    def __init__(self, n_players):
        self.n_players = n_players
        self.weights = np.random.default_rng(0).exponential(size=n_players)

    def _evaluate(self, coalitions):
        return np.sqrt(coalitions @ self.weights)


@pytest.mark.parametrize("method", SAMPLED)
def test_ranks_become_stable(method):
    options = {"method": method, "max_evals": 100_000}
    result = quietly(Roots(10), tol=RankStability(0.6), **options)
    assert result.converged
    assert 40 <= result.n_evals < 100_000
    steadier = quietly(Roots(10), tol=RankStability(0.8), **options)
    assert steadier.converged
    assert result.n_evals <= steadier.n_evals < 100_000


def test_stable_ranks_are_about_right():
    """At r = 0.8 Spearman and Brown foresee a correlation of 0.94 with the exact values."""
    game = Roots(60)
    exact = estimate_values(game, method="stratified", max_evals=100_000, random_state=99).values
    found = []
    for seed in range(20):
        result = estimate_values(
            game, method="stratified", max_evals=20_000, tol=RankStability(0.8), random_state=seed
        )
        assert result.converged
        found.append(spearmanr(result.values, exact).statistic)
    assert 0.9 < np.mean(found) < 0.98


def test_ranks_that_never_become_stable_are_warned_of():
    with pytest.warns(ConvergenceWarning, match=r"reach tol=RankStability\(correlation=0.5\)"):
        result = estimate_values(
            lambda players: float(len(players)),
            n_players=12,
            tol=RankStability(0.5),
            max_evals=900,
            random_state=0,
        )
    assert not result.converged
    assert result.n_evals == 900


@pytest.mark.parametrize("tol", [RankStability(0.7), RankStability(0.6) & StandardErrorBelow(0.2)])
@pytest.mark.parametrize("method", ["stratified", "permutation"])
def test_rules_stop_at_the_same_bits_for_any_number_of_workers(noisy_game, method, tol):
    games, players = [noisy_game(12, 1), noisy_game(10, 2)], [np.arange(12), np.arange(10)]

    def run():
        return estimate_games(
            games,
            players,
            12,
            semivalue=Shapley(),
            method=method,
            max_evals=20_000,
            tol=tol,
            random_state=0,
        )

    alone = run()
    assert alone.converged
    assert alone.n_evals < 20_000
    for backend in ("threading", "loky"):
        with joblib.parallel_config(backend=backend, n_jobs=2):
            found = run()
        assert_array_equal(found.values, alone.values)
        assert_array_equal(found.standard_errors, alone.standard_errors)
        assert (found.n_evals, found.converged) == (alone.n_evals, True)


def test_valuators_take_rules():
    options = {"max_evals": 20_000, "random_state": 0}  # six seeds needed 3790 to 12 930
    rule = RankStability(0.3)
    found = [ShapleyValuator(GaussianNB(), tol=rule, n_jobs=n, **options).fit(X, Y) for n in (1, 2)]
    assert found[0].converged_
    assert 240 <= found[0].n_evals_ < 20_000
    assert_array_equal(found[0].values_, found[1].values_)
    assert_allclose(found[0].values_.sum(), found[0].score_ - found[0].empty_score_)


# --- time -------------------------------------------------------------------------------------


def slowly(players):
    time.sleep(0.001)
    return float(players.sum()) ** 0.5


def test_a_time_limit_ends_a_run_within_a_round():
    limit = 0.4
    start = time.monotonic()
    result = estimate_values(
        slowly, n_players=20, method="stratified", max_evals=10**6, tol=TimeLimit(limit), n_jobs=1
    )
    took = time.monotonic() - start
    *before, _ = [sum(e.n_done for e in r) for r in result.games[0].log.rounds]
    assert took >= limit
    # all rounds but the last ended before the limit, and a round has half of what came before
    assert 0.001 * sum(before) < limit
    assert result.n_evals < 10**4
    assert not result.converged
    # what is there is a run of so many evaluations
    same = estimate_values(
        lambda players: float(players.sum()) ** 0.5,
        n_players=20,
        method="stratified",
        max_evals=result.n_evals,
        random_state=result.games[0].log.entropy,
    )
    assert_array_equal(same.values, result.values)


def test_what_the_budget_cuts_short_is_the_last_round(noisy_game):
    """Errors that only the last two looks find small enough are: with and without a whole round."""
    rule = Looking()
    options = {"method": "stratified", "max_evals": 6000}
    quietly(noisy_game(14), tol=rule, **options)
    assert [snapshot.n_evals for snapshot in rule.seen[-2:]] == [5431, 6000]
    before, last = (max(snapshot.standard_errors) for snapshot in rule.seen[-3:-1])
    assert last < before
    options |= {"random_state": 0}
    found = estimate_values(noisy_game(14), tol=last * 1.000001, **options)
    assert found.converged
    assert found.n_evals == 6000
    assert max(found.standard_errors) < last
    with pytest.warns(ConvergenceWarning):
        assert not estimate_values(noisy_game(14), tol=last / 1.2, **options).converged


def test_a_time_limit_that_is_not_reached_changes_nothing(noisy_game):
    plain = estimate_values(noisy_game(10), method="stratified", random_state=0)
    limited = estimate_values(
        noisy_game(10), method="stratified", tol=TimeLimit(3600), random_state=0
    )  # no warning: the budget was spent, as was asked for
    assert_array_equal(limited.values, plain.values)
    assert not limited.converged


def test_a_limit_beside_a_precision():
    def run(tol):
        return estimate_values(
            AirportGame((10, 10)), method="stratified", max_evals=20_000, tol=tol, random_state=0
        )

    out_of_time = run(StandardErrorBelow(1e-12) | TimeLimit(1e-9))  # as asked for: no warning
    assert not out_of_time.converged
    assert len(out_of_time.games[0].log.rounds) == 1
    precise = run(StandardErrorBelow(1e9) | TimeLimit(3600))
    assert precise.converged
    assert len(precise.games[0].log.rounds) == 3  # of 40, 40 and 40 evaluations
    with pytest.warns(ConvergenceWarning, match=r"TimeLimit\(seconds=3600\)"):
        assert not run(StandardErrorBelow(1e-12) | TimeLimit(3600)).converged


@pytest.mark.parametrize("n_players", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "method",
    ["permutation", Permutation(mix=False), "antithetic", "owen", Owen(antithetic=True)],
    ids=str,
)
def test_draws_that_are_all_alike_are_not_believed(noisy_game, n_players, method):
    """Of few players the first draws may all be the same, and their standard errors 0."""
    game = noisy_game(n_players)
    exact = exact_values(game)
    for seed in range(25):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            result = estimate_values(
                game, method=method, tol=1e-6, max_evals=250, random_state=seed
            )
        if result.converged:
            assert_allclose(result.values, exact, atol=1e-5)


# --- with warm starts and checkpoints ---------------------------------------------------------


def test_what_was_evaluated_before_takes_no_time(noisy_game, tmp_path):
    game = noisy_game(12, log=tmp_path / "log")
    options = {"method": "stratified", "max_evals": 3000, "checkpoint": tmp_path / "runs"}
    n_rounds, n_new = [], []
    for _ in range(4):
        game.log.unlink(missing_ok=True)
        result = estimate_values(game, tol=TimeLimit(1e-9), random_state=0, **options)
        n_rounds.append(len(result.games[0].log.rounds))
        n_new.append(len(game.evaluated()))
        assert not result.converged
    assert n_rounds == [1, 2, 3, 4]  # each call adds a round to those that the file has
    assert sum(n_new) - 2 * 3 == result.n_evals
    game.log.unlink()
    whole = estimate_values(game, random_state=0, **options)
    fresh = estimate_values(noisy_game(12), method="stratified", max_evals=3000, random_state=0)
    assert_array_equal(whole.values, fresh.values)
    assert len(game.evaluated()) == 2 + 3000 - result.n_evals
    assert len(list((tmp_path / "runs").glob("*.skdvl"))) == 1


def test_a_warm_start_goes_on_after_a_limit():
    options = {"max_evals": 20_000, "random_state": 0}
    grown = ShapleyValuator(GaussianNB(), tol=TimeLimit(1e-9), warm_start=True, **options)
    first = grown.fit(X, Y).n_evals_
    second = grown.fit(X, Y).n_evals_
    assert first < second < 20_000
    assert not grown.converged_
    grown.set_params(tol=RankStability(0.3)).fit(X, Y)
    fresh = ShapleyValuator(GaussianNB(), tol=RankStability(0.3), **options).fit(X, Y)
    assert fresh.converged_
    assert grown.converged_
    assert grown.n_evals_ == fresh.n_evals_
    assert_array_equal(grown.values_, fresh.values_)


def test_rules_are_no_part_of_a_checkpoints_name(noisy_game, tmp_path):
    rules = [None, 1e9, RankStability(0.3), TimeLimit(100), RankStability(0.3) | TimeLimit(9)]
    for tol in rules:
        quietly(noisy_game(12), method="stratified", tol=tol, checkpoint=tmp_path, max_evals=500)
    assert len(list(tmp_path.glob("*.skdvl"))) == 1


# --- progress ---------------------------------------------------------------------------------


def test_progress_is_a_share_of_the_evaluations_needed(snapshot):
    rule = StandardErrorBelow(0.5)
    assert rule.progress([]) == 0
    assert rule.progress([snapshot(error=1.0)]) == 0.25  # half the error takes four times as many
    assert rule.progress([snapshot(error=0.5)]) == 1
    assert rule.progress([snapshot(error=0.0)]) == 1
    assert rule.progress([snapshot(20, error=0.0)]) == 0.2  # of a hundred
    assert rule.progress([snapshot(40, n_players=50, error=0.0)]) == 0.2  # of four a player
    assert rule.progress([snapshot(error=math.nan)]) == 0
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 10))
    other += one
    found = spearmanr(one, other).statistic
    needed = 9 / (found / (1 - found))  # Spearman and Brown: times as many for 0.9
    assert_allclose(RankStability(0.9).progress([snapshot(halves=(one, other))]), 1 / needed)
    assert RankStability(0.9).progress([snapshot(halves=(one, -one))]) == 0
    assert RankStability(0.9).progress([snapshot(halves=(one, one))]) == 1
    assert TimeLimit(4.0).progress([snapshot(seconds=1.0)]) == 0.25
    assert TimeLimit(4.0).progress([snapshot(seconds=9.0)]) == 1
    quarter, whole = TimeLimit(4.0), TimeLimit(1.0)
    rounds = [snapshot(seconds=1.0)]
    assert (quarter & whole).progress(rounds) == 0.25
    assert (quarter | whole).progress(rounds) == 1
    assert Lean().progress(rounds) == 0


class Bar:
    """A progress bar that keeps what it was told."""

    def __init__(self, total, initial, **options):
        self.total = total
        self.n = initial
        self.shown = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def update(self, n):
        self.n += n
        self.refresh()

    def refresh(self):
        self.shown.append((self.n, self.total))


SPENT = (None, 1e-9, RankStability(0.999))
RULES = (0.15, RankStability(0.5), TimeLimit(1e-9), Lean())  # 12 of 12 seeds meet 0.5


@pytest.mark.parametrize("tol", SPENT + RULES)
def test_the_bar_ends_where_the_run_does(noisy_game, monkeypatch, tol):
    bars = []

    def make(*arguments, **options):
        bars.append(Bar(*arguments, **options))
        return bars[-1]

    monkeypatch.setattr("skdvl.estimation.rounds.tqdm", make)
    result = quietly(noisy_game(12), method="stratified", max_evals=3000, tol=tol, verbose=1)
    (bar,) = bars
    assert bar.shown[-1] == (result.n_evals, result.n_evals)
    assert all(n <= total <= 3000 for n, total in bar.shown)
    assert (result.n_evals == 3000) == (tol in SPENT)
    totals = {total for _, total in bar.shown}
    assert (len(totals) > 1) == (tol not in SPENT)


def test_the_bar_counts_what_was_evaluated_before(noisy_game, tmp_path, capsys):
    options = {"method": "stratified", "max_evals": 200, "checkpoint": tmp_path, "random_state": 0}
    estimate_values(noisy_game(10), **options)
    estimate_values(noisy_game(10), verbose=1, **options)
    assert "200/200" in capsys.readouterr().err

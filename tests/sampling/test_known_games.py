"""Every pair of scheme and semivalue finds the values of known games, player by player."""

import itertools
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose

import skdvl
from skdvl.estimation.scheme_choice import find_schemes
from skdvl.sampling import Game, TruncatedMonteCarlo
from skdvl.sampling.base import check_efficiency
from skdvl.semivalues import LOO, Banzhaf, BetaShapley, DeltaShapley, Shapley
from skdvl.testing import KNOWN_GAMES, ShoesGame
from skdvl.utilities import CallableUtility

TARGETS = [Shapley(), Banzhaf(), BetaShapley(4, 1), BetaShapley(1, 4), LOO(), DeltaShapley(1, 3)]
UNBIASED = sorted(
    name for name, cls in find_schemes().items() if not cls.is_exact and name != "tmc"
)
FIXED_LAWS = ("msr", "group_testing")  # their sizes do not follow the semivalue
SMALL = [game for game in KNOWN_GAMES if game.n_players <= 12]
LARGE = [game for game in KNOWN_GAMES if game.n_players > 12]


def name_of(game):
    return f"{type(game).__name__}-{game.n_players}"


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("game", SMALL, ids=str)
def test_exact_values(game, target):
    found = skdvl.estimate_values(game, semivalue=target, method="exact")
    assert_allclose(found.values, game.values(target), atol=1e-12)
    assert found.converged
    assert not found.standard_errors.any()


def assert_within_errors(result, exact):
    """With 100 players and 200 tests the odds of one z-score beyond 6 are 1 in 25 000."""
    known = result.standard_errors > 1e-12
    gaps = np.abs(result.values - exact)
    assert np.all(gaps[known] < 6 * result.standard_errors[known])
    assert_allclose(result.values[~known], exact[~known], atol=1e-9)


def estimate_or_refuse(game, **options):
    """Return the values, or None where the scheme is hopeless for the semivalue."""
    try:
        return skdvl.estimate_values(game, random_state=1, **options)
    except ValueError as error:
        if "tell little about" not in str(error):
            raise
        return None


def assert_right_on_average(game, target, method):
    """Compare the mean of 40 seeds by their spread; by chance one z-score in a million exceeds 6.

    What a player adds may be certain given the size. The errors of a single run are then of
    second order, and its standard errors, which are of first order, say nothing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        runs = [
            skdvl.estimate_values(
                game, semivalue=target, method=method, max_evals=400, random_state=seed
            ).values
            for seed in range(40)
        ]
    gaps = np.abs(np.mean(runs, axis=0) - game.values(target))
    assert (gaps <= 6 * np.std(runs, axis=0, ddof=1) / np.sqrt(len(runs)) + 1e-12).all()


@pytest.mark.parametrize("method", UNBIASED)
@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("game", SMALL, ids=str)
def test_sampled_values_of_small_games(game, target, method):
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # poor pairs say so, and are right all the same
        found = estimate_or_refuse(game, semivalue=target, method=method, max_evals=4000)
    if found is None:
        assert method in FIXED_LAWS
    elif method in FIXED_LAWS and game.n_players == 3:
        assert_right_on_average(game, target, method)
    else:
        assert_within_errors(found, game.values(target))


# What a player adds in these pairs is nearly always the same, and else so rarely that too few of
# the orders show it, or none: a Banzhaf value of 1.9e-6 is found to be 0, with an error of 0.
UNSEEN = {
    ("AirportGame", Banzhaf(), "antithetic"),
    ("AirportGame", Banzhaf(), "owen"),
    ("AirportGame", DeltaShapley(1, 3), "antithetic"),
    ("SpanningTreeGame", DeltaShapley(1, 3), "permutation"),
}


def pairs_of_large_games():
    """Yield all pairs; of those that "auto" never takes, CI runs the Shapley value."""
    for game in LARGE:
        for target in TARGETS:
            for method in UNBIASED:
                if target == LOO() or (type(game).__name__, target, method) in UNSEEN:
                    continue
                is_short = target == Shapley() or method in ("stratified", "regression")
                marks = () if is_short else pytest.mark.full
                name = f"{name_of(game)}-{target}-{method}"
                yield pytest.param(game, target, method, marks=marks, id=name)


@pytest.mark.parametrize(("game", "target", "method"), list(pairs_of_large_games()))
def test_sampled_values_of_large_games(game, target, method):
    # marginal contributions of these games are so skewed that errors need a thousand orders
    n_evals = 20_000 if method in ("stratified", "regression") else 200_000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = estimate_or_refuse(game, semivalue=target, method=method, max_evals=n_evals)
    if found is None:
        assert method in FIXED_LAWS
        return
    assert_within_errors(found, game.values(target))
    if target == Shapley() and method != "owen":  # all others add up draw by draw
        assert found.values.sum() == pytest.approx(
            game.values("shapley").sum(), rel=1e-10, abs=1e-9
        )


@pytest.mark.parametrize("game", LARGE, ids=name_of)
def test_leave_one_out_of_large_games_is_exact(game):
    found = skdvl.estimate_values(game, semivalue="loo", method="exact")
    assert found.n_evals == game.n_players + 2
    assert_allclose(found.values, game.values("loo"), atol=1e-12)


def test_hopeless_pairs_are_refused():
    found = skdvl.estimate_values(LARGE[0], method="stratified", max_evals=2000, random_state=0)
    with pytest.raises(ValueError, match="efficiency"):
        found.revalue("loo")


def test_poor_pairs_are_told():
    assert check_efficiency(0.2, "permutation", Banzhaf()) is None
    assert "about 20 times the" in check_efficiency(0.05, "permutation", Banzhaf())
    with pytest.raises(ValueError, match="about 200 times the"):
        check_efficiency(0.005, "permutation", Banzhaf())


def test_truncation_stops_early_and_claims_no_intervals():
    game = SMALL[-1]
    found = skdvl.estimate_values(game, method="tmc", max_evals=500, random_state=0)
    with pytest.warns(UserWarning, match="truncated orders are biased"):
        found.confidence_interval()


@pytest.mark.parametrize(("n_players", "truncation"), [(2, 0.6), (3, 0.5), (4, 0.3), (4, 0.0)])
def test_truncated_orders_follow_their_rule(n_players, truncation):
    """The mean over all orders, the last player's contribution among those that count as 0."""
    rng = np.random.default_rng(n_players)
    table = np.append(np.sort(rng.random(2**n_players - 1)), 1.0)
    table[0] = 0.0
    scheme = TruncatedMonteCarlo(truncation=truncation)
    game = Game(n_players, table[0], table[-1])
    orders = np.array(list(itertools.permutations(range(n_players))))
    utility = CallableUtility(lambda players: table[np.sum(1 << players)], n_players)
    found = scheme.marginals(orders, scheme.evaluate(orders, utility, game), game, Shapley())
    n_ended_early = 0
    for order, gains in zip(orders, found, strict=True):
        along = [table[np.sum(1 << order[:size])] for size in range(n_players + 1)]
        expected = np.zeros(n_players)
        for j, player in enumerate(order):
            if j > 0 and abs(along[-1] - along[j]) <= truncation:
                n_ended_early += 1
                break
            expected[player] = along[j + 1] - along[j]
        assert_allclose(gains, expected, atol=1e-15)
    assert n_ended_early > 0 or truncation == 0


@pytest.mark.parametrize("method", ["stratified", "regression", "permutation"])
def test_what_all_coalitions_have_in_common_costs_no_precision(method):
    """Errors of a game with 10^8 added are those without, to a part in a thousand."""
    rng = np.random.default_rng(0)
    worths = rng.normal(size=20)

    def errors(constant):
        def utility(players):
            return constant + worths[players].sum() + np.sin(1000 * worths[players].sum())

        options = {"n_players": 20, "method": method, "max_evals": 2000, "random_state": 0}
        return skdvl.estimate_values(utility, **options).standard_errors

    assert_allclose(errors(1e8), errors(0.0), rtol=1e-3)


@pytest.mark.parametrize("method", UNBIASED)
def test_utilities_may_be_large_and_are_refused_before_they_overflow(method):
    rng = np.random.default_rng(0)
    table = 0.9e70 * rng.uniform(-1, 1, size=64)
    options = {"n_players": 6, "method": method, "max_evals": 62, "random_state": 0}
    found = skdvl.estimate_values(lambda players: table[np.sum(1 << players)], **options)
    assert np.isfinite(found.estimate.values).all()
    assert not np.isnan(found.estimate.degrees_of_freedom)
    with pytest.raises(ValueError, match=r"returned 6e\+71 .* utilities must be at most 1e\+70"):
        skdvl.estimate_values(lambda players: 1e71 * len(players), **options)


def test_coverage_of_intervals():
    """400 seeds: the mean coverage of 95 % intervals has a standard error below 1 %."""
    game = ShoesGame(8, 12)
    exact = game.values("shapley")
    covered = []
    for seed in range(400):
        result = skdvl.estimate_values(game, method="stratified", max_evals=400, random_state=seed)
        low, high = result.confidence_interval().T
        covered.append((low <= exact) & (exact <= high))
    assert 0.93 <= np.mean(covered) <= 0.97

"""Closed forms against the definition, by enumeration of all coalitions."""

import joblib
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from skdvl.testing import exact_values
from skdvl.valuators.neighbor_games import VoteGame
from skdvl.valuators.neighbor_order import make_distances
from skdvl.valuators.neighbor_values import NeighborProblem, value_neighbors

N_PLAYERS, N_ROWS = 8, 5


def kernel(distances):
    return np.exp(-distances)


def make_problem(kind, n_neighbors, weights, leave_one_out, n=N_PLAYERS):
    rng = np.random.default_rng(3)
    X, X_val = rng.normal(size=(n, 2)).round(1), rng.normal(size=(N_ROWS, 2)).round(1)
    X[n // 2] = X[0]  # a tie
    X_val[1] = X[2]  # a distance of zero
    if kind == "labels":
        y, y_val = rng.integers(0, 3, n), rng.integers(0, 3, N_ROWS)
        missing = None
    else:
        y, y_val = 100 + rng.normal(size=n), 100 + rng.normal(size=N_ROWS)
        missing = (y.sum() - y) / (n - 1) if leave_one_out else np.full(N_ROWS, y.mean())
    if leave_one_out:
        X_val, y_val = None, y
    distances = make_distances(
        X, X_val, metric="minkowski", p=2, metric_params=None, need_distances=weights != "uniform"
    )
    problem = NeighborProblem(distances, y, y_val, missing, n_neighbors, weights)
    return problem, cdist(X if leave_one_out else X_val, X)


def by_definition(problem, distances):
    """u(S): for each row, the K nearest of S in turn, and the mean over the rows."""

    def utility(players):
        scores = []
        for row, (wanted, d) in enumerate(zip(problem.wanted, distances, strict=True)):
            others = players
            weights = np.ones(len(d))
            if problem.distances.leave_one_out:
                others = players[players != row]
                d = np.where(np.arange(len(d)) == row, np.inf, d)
            if problem.weights == "distance":
                weights = d.min() / d if d.min() > 0 else (d == 0).astype(float)
            elif callable(problem.weights):
                weights = problem.weights(d)
            nearest = sorted(others, key=lambda j: (d[j], j))[: problem.n_neighbors]
            if problem.missing is None:
                votes = [weights[j] * (problem.targets[j] == wanted) for j in nearest]
                scores.append(sum(votes) / problem.n_neighbors)
            else:
                missing = problem.missing[row]
                said = [weights[j] * (problem.targets[j] - missing) for j in nearest]
                scores.append(-((missing + sum(said) / problem.n_neighbors - wanted) ** 2))
        return np.mean(scores)

    return utility


games = [
    pytest.mark.parametrize("kind", ["labels", "numbers"]),
    pytest.mark.parametrize("weights", ["uniform", "distance", kernel]),
    pytest.mark.parametrize("leave_one_out", [False, True]),
]


def over_all_games(test):
    for mark in games:
        test = mark(test)
    return test


@over_all_games
@pytest.mark.parametrize("n_neighbors", [1, 2, 3, 7, 8, 20])
def test_values_are_those_of_the_definition(kind, n_neighbors, weights, leave_one_out):
    problem, distances = make_problem(kind, n_neighbors, weights, leave_one_out)
    utility = by_definition(problem, distances)
    values, score = value_neighbors(problem)
    np.testing.assert_allclose(
        values, exact_values(utility, n_players=N_PLAYERS), rtol=0, atol=1e-13
    )
    assert score == pytest.approx(utility(np.arange(N_PLAYERS)), abs=1e-13)
    assert problem.empty_score == pytest.approx(utility(np.arange(0)), abs=1e-13)


@over_all_games
def test_values_are_efficient_in_large_games(kind, weights, leave_one_out):
    problem, _ = make_problem(kind, 5, weights, leave_one_out, n=400)
    values, score = value_neighbors(problem)
    assert values.sum() == pytest.approx(score - problem.empty_score, abs=1e-12)


@over_all_games
def test_bits_do_not_depend_on_the_number_of_jobs(kind, weights, leave_one_out):
    problem, _ = make_problem(kind, 5, weights, leave_one_out, n=400)
    alone, score = value_neighbors(problem, n_jobs=1)
    with joblib.parallel_config(backend="threading"):
        together, same_score = value_neighbors(problem, n_jobs=3)
    assert np.array_equal(alone, together)
    assert score == same_score


def test_bits_of_codes_are_votes():
    rng = np.random.default_rng(0)
    for n_players in (1, 2, 30):
        codes = rng.integers(0, 2**40, size=(4, n_players))
        game = VoteGame(n_players, n_neighbors=3)
        by_bits = game.values_of_bits(codes) * game.unit
        expected = game.values((codes & 1).astype(float))
        np.testing.assert_allclose(by_bits, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda d: d[:, 0], "array of shape"),
        (lambda d: np.full_like(d, np.nan), "not a finite number"),
    ],
)
def test_weights_are_checked(weights, message):
    problem, _ = make_problem("labels", 3, weights, leave_one_out=True)
    with pytest.raises(ValueError, match=message):
        value_neighbors(problem)

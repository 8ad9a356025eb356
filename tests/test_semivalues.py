"""Laws over all registered semivalues, and each against the textbook formula of its paper."""

import pickle
from dataclasses import FrozenInstanceError
from itertools import combinations
from math import comb, factorial

import numpy as np
import pytest
from scipy.special import beta as beta_function
from scipy.stats import betabinom

from skdvl.semivalues import (
    LOO,
    SEMIVALUES,
    Banzhaf,
    BetaShapley,
    DeltaShapley,
    Semivalue,
    Shapley,
    check_semivalue,
    size_weights,
)

EXAMPLES = [example for cls in SEMIVALUES.values() for example in cls.examples()]
examples = pytest.mark.parametrize("semivalue", EXAMPLES, ids=repr)


def values_by_definition(u, n, weight):
    """Sum of w(|S|)·[u(S + i) - u(S)] over the coalitions S without i, as the papers write it."""
    values = np.zeros(n)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for size in range(n):
            for s in combinations(others, size):
                values[i] += weight(size) * (u[frozenset((*s, i))] - u[frozenset(s)])
    return values


def random_game(n, seed):
    rng = np.random.default_rng(seed)
    return {
        frozenset(s): rng.normal() for size in range(n + 1) for s in combinations(range(n), size)
    }


@examples
@pytest.mark.parametrize("n_players", [1, 2, 3, 10, 1000, 10**6])
def test_size_distribution_is_a_distribution(semivalue, n_players):
    p = semivalue.size_distribution(n_players)
    assert p.shape == (n_players,)
    assert p.dtype == np.float64
    assert np.isfinite(p).all()
    assert p.min() >= 0
    assert p.sum() == pytest.approx(1, abs=1e-12)


@examples
def test_instances_are_small_frozen_values(semivalue):
    assert pickle.loads(pickle.dumps(semivalue)) == semivalue
    assert hash(pickle.loads(pickle.dumps(semivalue))) == hash(semivalue)
    assert semivalue.label == f"{semivalue.name}_value"
    with pytest.raises(FrozenInstanceError):
        semivalue.anything = 1
    assert check_semivalue(semivalue) is semivalue


@examples
@pytest.mark.parametrize("n_players", [0, -1, 2.0, "3"])
def test_number_of_players_is_checked(semivalue, n_players):
    with pytest.raises(ValueError, match="n_players must be a positive integer"):
        semivalue.size_distribution(n_players)


TEXTBOOK = [
    (Shapley(), lambda n: lambda k: factorial(k) * factorial(n - k - 1) / factorial(n)),
    (Banzhaf(), lambda n: lambda _: 1 / 2 ** (n - 1)),
    (LOO(), lambda n: lambda k: float(k == n - 1)),
    (DeltaShapley(1, 3), lambda n: lambda k: (1 <= k <= 3) / 3 / comb(n - 1, k)),
    *(
        (
            BetaShapley(a, b),
            lambda n, a=a, b=b: lambda k: beta_function(k + b, n - 1 - k + a) / beta_function(a, b),
        )
        for a, b in [(1, 1), (16, 1), (1, 4), (0.5, 0.5), (2.5, 7)]
    ),
]


@pytest.mark.parametrize(("semivalue", "textbook"), TEXTBOOK, ids=[repr(s) for s, _ in TEXTBOOK])
@pytest.mark.parametrize("n", [1, 2, 6])
def test_definition_is_the_textbook_formula(semivalue, textbook, n):
    p = semivalue.size_distribution(n)
    weight = textbook(n)
    if isinstance(semivalue, DeltaShapley) and n == 6:
        np.testing.assert_array_equal(p, [0, 1 / 3, 1 / 3, 1 / 3, 0, 0])
    elif isinstance(semivalue, DeltaShapley):
        assert p[-1] == 1, "sizes are clipped to n - 1"
        return
    u = random_game(n, seed=n)
    np.testing.assert_allclose(
        values_by_definition(u, n, lambda k: p[k] / comb(n - 1, k)),
        values_by_definition(u, n, weight),
        rtol=1e-13,
        atol=1e-13,
    )


@examples
@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_size_weights_turn_mean_utilities_into_values(semivalue, n):
    p = semivalue.size_distribution(n)
    m, a = size_weights(p)
    assert m.shape == a.shape == (n + 1,)
    assert a[0] == a[-1] == 0
    u = random_game(n, seed=10 + n)
    values = np.zeros(n)
    for size in range(n + 1):
        coalitions = [frozenset(s) for s in combinations(range(n), size)]
        for s in coalitions:
            member = np.array([i in s for i in range(n)])
            values += (m[size] + a[size] * (member - size / n)) * u[s] / len(coalitions)
    by_definition = values_by_definition(u, n, lambda k: p[k] / comb(n - 1, k))
    np.testing.assert_allclose(values, by_definition, rtol=1e-13, atol=1e-13)


def test_size_weights_of_shapley_are_its_efficiency():
    m, a = size_weights(Shapley().size_distribution(10**6))
    assert np.flatnonzero(m).tolist() == [0, 10**6]
    assert m[-1] == -m[0] == 1e-6
    assert np.isfinite(a).all()


@pytest.mark.parametrize(("alpha", "beta"), [(16, 1), (1, 16), (0.01, 0.02), (2, 0.5), (300, 900)])
def test_beta_shapley_agrees_with_scipy(alpha, beta):
    p = BetaShapley(alpha, beta).size_distribution(1000)
    # scipy takes differences of log-gamma functions, which cost it about four digits here
    expected = betabinom.pmf(np.arange(1000), 999, beta, alpha)
    np.testing.assert_allclose(p, expected, rtol=1e-9, atol=1e-300)


def test_beta_one_one_is_shapley_exactly():
    assert np.array_equal(BetaShapley(1, 1).size_distribution(64), Shapley().size_distribution(64))


def test_delta_sizes_are_clipped():
    np.testing.assert_array_equal(DeltaShapley(2, 100).size_distribution(4), [0, 0, 0.5, 0.5])
    np.testing.assert_array_equal(DeltaShapley(50, 100).size_distribution(4), [0, 0, 0, 1])


def test_labels_are_those_of_columns():
    labels = [s.label for s in (Shapley(), Banzhaf(), BetaShapley(), LOO())]
    assert labels == ["shapley_value", "banzhaf_value", "beta_shapley_value", "loo_value"]


def test_names_are_looked_up():
    assert check_semivalue("shapley") == Shapley()
    assert check_semivalue("banzhaf") == Banzhaf()
    assert check_semivalue("beta_shapley") == BetaShapley(16, 1)
    assert check_semivalue("loo") == LOO()


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown semivalue 'shaply'.*'banzhaf'.*'shapley'"):
        check_semivalue("shaply")
    with pytest.raises(ValueError, match=r"DeltaShapley\(lower=..., upper=...\)"):
        check_semivalue("delta_shapley")
    with pytest.raises(TypeError, match="must be a name or an instance"):
        check_semivalue(Shapley)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: BetaShapley(0, 1), ValueError, "alpha of BetaShapley must be positive"),
        (lambda: BetaShapley(1, -1), ValueError, "beta of BetaShapley must be positive"),
        (lambda: BetaShapley(1, float("nan")), ValueError, "beta of BetaShapley"),
        (lambda: BetaShapley("16", 1), TypeError, "alpha of BetaShapley must be a number"),
        (lambda: DeltaShapley(-1, 3), ValueError, "0 <= lower <= upper"),
        (lambda: DeltaShapley(4, 3), ValueError, "0 <= lower <= upper"),
        (lambda: DeltaShapley(1.0, 3), TypeError, "lower of DeltaShapley must be an integer"),
    ],
)
def test_parameters_are_checked(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_name_belongs_to_one_class():
    with pytest.raises(ValueError, match="'shapley' is taken by Shapley"):

        class Other(Semivalue, name="shapley"):
            pass

    assert SEMIVALUES["shapley"] is Shapley

"""Stopping rules: when each is met, how they combine, and what they say of themselves."""

import math
import pickle

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.naive_bayes import GaussianNB

import skdvl
from skdvl import RankStability, ShapleyValuator, StandardErrorBelow, TimeLimit

# --- when each rule is met --------------------------------------------------------------------


def test_a_rule_of_precision_takes_two_rounds(snapshot):
    up, down = np.arange(10.0), -np.arange(10.0)
    alike, unlike = (up, up**3), (up, down)
    for rule, good, bad in (
        (StandardErrorBelow(0.5), {"error": 0.5}, {"error": 0.51}),
        (RankStability(0.9), {"halves": alike}, {"halves": unlike}),
    ):
        assert not rule.is_met([])
        assert not rule.is_met([snapshot(100, **good)])
        assert not rule.is_met([snapshot(20, **good), snapshot(99, **good)])
        assert rule.is_met([snapshot(20, **good), snapshot(100, **good)])
        assert not rule.is_met([snapshot(100, **good), snapshot(199, **bad)])
        assert not rule.is_met([snapshot(100, **bad), snapshot(199, **good)])
        assert rule.is_met([snapshot(**bad), snapshot(**good), snapshot(**good)])


def test_a_rule_of_precision_takes_four_evaluations_a_player_and_a_hundred(snapshot):
    rule = StandardErrorBelow(1.0)
    many = {"n_players": 30}
    assert not rule.is_met([snapshot(100, **many), snapshot(119, **many)])
    assert rule.is_met([snapshot(100, **many), snapshot(120, **many)])


def test_ranks_are_compared_by_spearman(snapshot):
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 10))
    other += one
    one[3] = one[4]  # ties
    found = spearmanr(one, other).statistic
    rounds = [snapshot(halves=(one, other))] * 2
    assert RankStability(found - 1e-9).is_met(rounds)
    assert not RankStability(found + 1e-9).is_met(rounds)
    # players without a value are left out, and have no rank
    gap = [np.append(values, np.nan) for values in (one, other)]
    rounds = [snapshot(halves=gap, n_players=11)] * 2
    assert RankStability(found - 1e-9).is_met(rounds)
    assert not RankStability(found + 1e-9).is_met(rounds)


@pytest.mark.parametrize(
    "halves",
    [
        None,
        (np.full(10, np.nan), np.arange(10.0)),
        (np.zeros(10), np.zeros(10)),
        (np.zeros(10), np.arange(10.0)),
        (np.append(1.0, np.full(9, np.nan)), np.append(1.0, np.full(9, np.nan))),
    ],
)
def test_without_two_rankings_none_is_stable(snapshot, halves):
    rule = RankStability(1e-9)
    assert not rule.is_met([snapshot(halves=halves)] * 2)
    assert rule.progress([snapshot(halves=halves)]) == 0


def test_a_time_limit_is_met_at_the_first_barrier_after_it(snapshot):
    rule = TimeLimit(2.0)
    assert not rule.is_met([])
    assert not rule.is_met([snapshot(1, seconds=1.9)])
    assert rule.is_met([snapshot(1, seconds=1.9), snapshot(2, seconds=2.0)])


@pytest.mark.parametrize(
    ("rule", "parameter"), [(StandardErrorBelow, "tol"), (TimeLimit, "seconds")]
)
@pytest.mark.parametrize("value", [0, -1.0, math.nan, "1", None])
def test_thresholds_are_positive_numbers(rule, parameter, value):
    with pytest.raises(ValueError, match=f"{parameter} must be a positive number"):
        rule(value)


@pytest.mark.parametrize("value", [0, 1, -0.5, 90, math.nan, "0.9", None])
def test_correlations_lie_between_0_and_1(value):
    with pytest.raises(ValueError, match="correlation must lie between 0 and 1"):
        RankStability(value)


# --- composition ------------------------------------------------------------------------------


def test_rules_combine(snapshot):
    yes, no = StandardErrorBelow(2.0), StandardErrorBelow(0.1)
    late = TimeLimit(1.0)
    rounds = [snapshot(seconds=3.0)] * 2
    for rule, met, converged in (
        (yes & yes, True, True),
        (yes & no, False, None),
        (no & yes, False, None),
        (no | yes, True, True),
        (no | no, False, None),
        (late, True, False),
        (late | no, True, False),
        (no | late, True, False),
        (late | yes, True, True),
        (late & yes, True, True),
        (late & late, True, False),
        (late | late, True, False),
        ((late & no) | yes, True, True),
        ((late | no) & late, True, False),
        (late & TimeLimit(9.0), False, None),
    ):
        assert rule.is_met(rounds) == met, rule
        if met:
            assert rule.has_converged(rounds) == converged, rule


def test_rules_say_what_they_are():
    one, two, three = StandardErrorBelow(0.01), RankStability(0.9), TimeLimit(60)
    assert repr(one | three) == "StandardErrorBelow(tol=0.01) | TimeLimit(seconds=60)"
    assert repr((one & two) | three) == f"({one} & {two}) | {three}"
    assert repr(one & (two | three)) == f"{one} & ({two} | {three})"
    assert (one & two) | three == (one & two) | three
    assert one & two != one | two
    assert pickle.loads(pickle.dumps((one & two) | three)) == (one & two) | three
    with pytest.raises(TypeError):
        one & 0.5
    with pytest.raises(TypeError):
        0.5 | one


def test_rules_are_on_the_shelf():
    for name in ("RankStability", "StandardErrorBelow", "StoppingRule", "TimeLimit"):
        assert name in skdvl.__all__
        assert getattr(skdvl, name) is getattr(skdvl.estimation, name)


def test_valuators_clone_show_and_change_rules():
    rule = RankStability(0.8) | TimeLimit(30)
    valuator = ShapleyValuator(GaussianNB(), tol=rule)
    assert clone(valuator).tol == rule
    assert valuator.get_params()["tol"] is rule
    assert repr(rule) in " ".join(repr(valuator).split())
    assert valuator.set_params(tol=0.1).tol == 0.1

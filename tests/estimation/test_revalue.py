"""Every semivalue from one run: any scheme, any target that its sizes tell of, after a kill too."""

import os
import signal
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_classification
from sklearn.naive_bayes import GaussianNB

from skdvl import LeaveOneOutValuator, ShapleyValuator, estimate_values
from skdvl.estimation.estimate import estimate_games
from skdvl.estimation.scheme_choice import find_schemes
from skdvl.sampling import Regression, Stratified
from skdvl.sampling.laws import LAWS
from skdvl.semivalues import LOO, Banzhaf, BetaShapley, DeltaShapley, Shapley
from skdvl.testing import AirportGame, exact_values

METHODS = sorted(find_schemes())
TARGETS = (
    Shapley(),
    Banzhaf(),
    BetaShapley(16, 1),
    BetaShapley(1, 4),
    LOO(),
    DeltaShapley(1, 4),
    DeltaShapley(2, 100),
)
X, Y = make_classification(n_samples=30, n_features=4, random_state=0)


def revalued(result, target):
    """Return what a result says of a semivalue, or the message with which it refuses."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*draws coalition sizes that tell little")
        warnings.filterwarnings("ignore", message=".*has drawn too little that tells")
        warnings.filterwarnings("ignore", message=".*left out contributions with")
        try:
            return result.revalue(target)
        except ValueError as error:
            return str(error)


def run(games, method, **options):
    players = [np.arange(game.n_players) for game in games]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*draws coalition sizes that tell little")
        return estimate_games(
            games,
            players,
            max(game.n_players for game in games),
            method=method,
            **{"semivalue": Shapley(), "random_state": 0} | options,
        )


@pytest.mark.parametrize("base", [Shapley(), Banzhaf()], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_errors_of_every_accepted_pair_are_true(noisy_game, method, base):
    """SE/RMSE within a fifth of 1: 50 runs of 10 players; 0.90 to 1.11 was seen."""
    game = noisy_game(10)
    n_runs = 1 if method == "exact" else 50
    max_evals = 1024 if method == "exact" else 400
    runs = [
        run([game], method, semivalue=base, max_evals=max_evals, random_state=seed)
        for seed in range(n_runs)
    ]
    refused = set()
    for target in TARGETS:
        found = [revalued(result, target) for result in runs]
        refusals = [message for message in found if isinstance(message, str)]
        for message in refusals:
            assert "efficiency 0.0" in message
            assert f"method={method!r}" in message
            assert repr(target) in message
        if refusals:  # adapted laws differ from run to run, and so does how many draws tell
            refused.add(target)
            continue
        errors = np.array([result.values for result in found]) - exact_values(game, target)
        claimed = np.array([result.standard_errors for result in found])
        if not claimed.any():  # the sizes that matter were all enumerated
            assert_allclose(errors, 0, atol=1e-12)
            continue
        ratio = np.sqrt(np.mean(claimed**2) / np.mean(errors**2))
        assert 0.8 < ratio < 1.25, (target, ratio)
        if method != "tmc":  # biased, as it says
            z = errors.mean(axis=0) / (errors.std(axis=0, ddof=1) / np.sqrt(n_runs))
            assert np.abs(z).max() < 4.5, target
    # the laws of "msr" and of Banzhaf values hardly ever draw one player, or all but one
    draws_middle_sizes = method == "msr" or (
        base == Banzhaf() and method in ("regression", "stratified")
    )
    rare = {BetaShapley(16, 1), BetaShapley(1, 4), LOO()}
    assert refused == (rare if draws_middle_sizes else set())


@pytest.mark.parametrize("method", METHODS)
def test_revaluing_after_a_kill_is_revaluing_an_uninterrupted_run(noisy_game, tmp_path, method):
    class Dying(noisy_game):
        left = 300

        def _evaluate(self, coalitions):
            self.left -= len(coalitions)
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._evaluate(coalitions)

    games = [noisy_game(10, 1), noisy_game(8, 2)]
    options = {"max_evals": 1280, "checkpoint": tmp_path}
    whole = run(games, method, max_evals=1280)
    truth = run(games, "exact", max_evals=1280)
    with warnings.catch_warnings():
        # Python 3.12 warns where threads are alive, as those of a pool of earlier tests
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            run([Dying(10, 1), Dying(8, 2)], method, **options)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    resumed = run(games, method, **options)
    completed = run(games, method, **options)
    for target in TARGETS:
        expected = revalued(whole, target)
        for result in (resumed, completed):
            found = revalued(result, target)
            if isinstance(expected, str):
                assert found == expected
                continue
            assert_array_equal(found.values, expected.values)
            assert_array_equal(found.standard_errors, expected.standard_errors)
            assert found.n_evals == expected.n_evals
            assert found.converged == expected.converged
            # sampling schemes may have enumerated the few sizes on which a semivalue depends
            is_exact = method == "exact" or (expected.standard_errors == 0).all()
            assert expected.converged == is_exact
            if is_exact:
                assert_allclose(expected.values, revalued(truth, target).values, atol=1e-12)


def saturating(players):
    """Ten of sixty players are as good as all."""
    return min(len(players), 10) + 0.001 * np.sum(players % 7)


def test_revaluing_says_how_much_truncated_orders_left_out():
    result = estimate_values(saturating, n_players=60, method="tmc", max_evals=5000, random_state=0)
    seen = [~np.isnan(found) for _, _, found in result.games[0].log.replay(result.scheme)]
    share = np.append(np.concatenate(seen).mean(axis=0), 0.0)
    assert (share[:9] == 1).all()
    assert not share[50:].any()
    for target in (BetaShapley(4, 1), BetaShapley(16, 4)):
        left_out = target.size_distribution(60) @ (1 - share)
        assert 0.01 < left_out < 0.99
        with pytest.warns(UserWarning, match=rf"left out .* {100 * left_out:.1f}% of the weight"):
            again = result.revalue(target)
        with pytest.warns(UserWarning, match="may not cover 95%.*left out"):
            again.confidence_interval()
    result.revalue(DeltaShapley(0, 8))  # what all orders reached: no warning
    for target in (LOO(), BetaShapley(1, 16), DeltaShapley(40, 50)):
        with pytest.raises(ValueError, match=r"left out .* of the weight.*'stratified'"):
            result.revalue(target)


def test_few_draws_are_no_less_refused_where_orders_were_truncated():
    worths = np.random.default_rng(0).uniform(size=60)
    result = estimate_values(
        lambda players: min(worths[players].sum(), 5),
        n_players=60,
        method="tmc",
        max_evals=400,
        random_state=0,
    )
    with pytest.raises(ValueError, match=r"drawn too little.*efficiency 0\.03"):
        result.revalue(DeltaShapley(9, 10))


@pytest.mark.parametrize("law", sorted(LAWS))
@pytest.mark.parametrize("scheme", [Stratified, Regression])
def test_a_law_that_will_be_adapted_suits(noisy_game, scheme, law):
    """Shapley values by any law whose draws set better laws; without that, some laws never suit."""
    game = noisy_game(300)
    options = {"max_evals": 8 * 300, "random_state": 0}
    result = estimate_values(game, method=scheme(law=law), **options)
    assert np.isfinite(result.standard_errors).all()
    if law in ("binomial", "delta_shapley"):
        fixed = scheme(law=law, adaptive=False)
        with pytest.raises(ValueError, match="'stratified' with its default law"):
            estimate_values(game, method=fixed, **options)
        with pytest.raises(ValueError, match=r"efficiency .* needs about"):
            estimate_values(game, method=scheme(law=law), max_evals=2 * 300)


def test_complements_tell_of_the_sizes_that_they_have(noisy_game):
    """Large coalitions come as complements of small ones, whatever the law that draws these."""
    game, target = noisy_game(24), DeltaShapley(22, 23)
    errors, claimed = [], []
    exact = estimate_values(game, semivalue=target, method="exact", max_evals=20_000)
    for seed in range(30):
        result = estimate_values(
            game, method=Regression(paired=True), max_evals=2000, random_state=seed
        )
        again = result.revalue(target)
        errors.append(again.values - exact.values)
        claimed.append(again.standard_errors)
    assert 0.85 < np.sqrt(np.mean(np.square(claimed)) / np.mean(np.square(errors))) < 1.15


def test_the_same_semivalue_again_is_the_same_result(noisy_game):
    options = {"method": "stratified", "max_evals": 4000, "random_state": 0}
    result = estimate_values(noisy_game(20), tol=0.2, **options)
    assert result.converged
    again = result.revalue("shapley")
    assert again.converged
    assert_array_equal(again.values, result.values)
    assert not result.revalue(BetaShapley(4, 1)).converged  # the rule was met for another one


def test_what_a_longer_run_knew_has_no_say(noisy_game):
    """A shorter run that a longer one is known to is judged by its own draws."""
    game = noisy_game(40)
    long = run([game], "stratified", max_evals=4000)
    short = run([game], "stratified", max_evals=100, previous=long)
    fresh = run([game], "stratified", max_evals=100)
    for target in TARGETS:
        found, expected = revalued(short, target), revalued(fresh, target)
        if isinstance(expected, str):
            assert found == expected
        else:
            assert_array_equal(found.values, expected.values)


def test_every_refusal_gives_the_efficiency():
    for method, target in (
        ("permutation", LOO()),
        ("antithetic", LOO()),
        ("tmc", LOO()),
        ("owen", LOO()),
        ("stratified", LOO()),
    ):
        result = run([AirportGame((100, 100))], method, max_evals=1600)
        message = revalued(result, target)
        assert isinstance(message, str), (method, target)
        assert "efficiency 0.00" in message
        assert "times the evaluations" in message


def test_errors_that_too_few_draws_tell_of_are_refused(noisy_game):
    """Of 40 players, each is left out alone in a draw or two: most errors of LOO would be 0."""
    result = estimate_values(noisy_game(40), max_evals=800, random_state=0)
    with pytest.raises(ValueError, match=r"draws for each player.*efficiency"):
        result.revalue("loo")
    result = estimate_values(
        noisy_game(40), max_evals=8000, random_state=0, method="permutation"
    )  # efficiency 1/40 of 205 orders
    with pytest.raises(ValueError, match=r"5.1 draws for each player.*efficiency 0.025"):
        result.revalue("loo")


@pytest.mark.parametrize(
    ("n_players", "target", "max_evals"),
    [
        (14, DeltaShapley(0, 1), 58),
        (40, DeltaShapley(0, 2), 162),
        (12, BetaShapley(1, 16), 60),
    ],
    ids=str,
)
def test_errors_of_few_telling_draws_come_with_a_warning(noisy_game, n_players, target, max_evals):
    """The sizes are drawn often enough, but of most players no draw tells much."""
    result = estimate_values(
        noisy_game(n_players), method="stratified", max_evals=max_evals, random_state=0
    )
    with pytest.warns(UserWarning, match=r"draws for each player, of the 10") as caught:
        other = result.revalue(target)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match=r"may not cover 95%: .* draws for each player"):
        other.confidence_interval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result.revalue("shapley").confidence_interval()


@pytest.mark.parametrize("semivalue", [LOO(), DeltaShapley(0, 0)], ids=str)
@pytest.mark.parametrize("method", ["stratified", "regression"])
def test_enumerated_sizes_alone_tell_of_nothing_else(noisy_game, method, semivalue):
    game = noisy_game(12)
    result = estimate_values(game, semivalue=semivalue, method=method, random_state=0)
    with pytest.raises(ValueError, match="efficiency 0, so it needs infinitely many"):
        result.revalue("shapley")
    again = result.revalue(semivalue)
    assert again.converged
    assert_allclose(again.values, exact_values(game, semivalue), atol=1e-12)


def test_valuators_revalue_with_standard_errors():
    valuator = ShapleyValuator(GaussianNB(), method="stratified", max_evals=3000, random_state=0)
    frame = valuator.fit(X, Y).revalue(BetaShapley(4, 1))
    assert (frame["standard_error"] > 0).all()
    expected = ShapleyValuator(GaussianNB(), method="stratified", max_evals=60_000, random_state=1)
    expected = expected.fit(X, Y).revalue(BetaShapley(4, 1))
    z = (frame["value"] - expected["value"]) / frame["standard_error"]
    assert np.abs(z).max() < 4.5  # 30 numbers
    owners = np.arange(30) // 3
    valuator.set_params(max_evals=10_000, method="exact").fit(X, Y, groups=owners)
    banzhaf = valuator.revalue("banzhaf")["value"].to_numpy()
    assert_array_equal(banzhaf[::3], banzhaf[2::3])


def test_warnings_and_refusals_of_valuators_point_at_the_caller():
    valuator = ShapleyValuator(GaussianNB(), method="permutation", max_evals=40_000).fit(X, Y)
    with pytest.warns(UserWarning, match="efficiency 0.0") as caught:
        valuator.revalue("loo")
    assert caught[0].filename == __file__
    with pytest.raises(ValueError, match=r"efficiency 0.*infinitely many"):
        LeaveOneOutValuator(GaussianNB()).fit(X, Y).revalue("shapley")


def test_a_run_that_a_rule_ended_is_revalued(noisy_game):
    result = estimate_values(noisy_game(12), method="permutation", tol=0.1, random_state=0)
    again = result.revalue(BetaShapley(4, 1))
    assert result.converged
    assert not again.converged
    assert (again.standard_errors > 0).all()


def test_a_warning_of_one_fold_does_not_hide_the_refusal_of_another(noisy_game):
    options = {"method": "msr", "semivalue": Banzhaf()}
    alone = run([noisy_game(10)], max_evals=10_000, **options)
    both = run([noisy_game(10), noisy_game(30)], max_evals=20_000, **options)
    with pytest.warns(UserWarning, match=r"efficiency 0\.01\d"):
        alone.revalue(BetaShapley(16, 1))
    with pytest.raises(ValueError, match=r"efficiency 1\.1e-07"):
        both.revalue(BetaShapley(16, 1))

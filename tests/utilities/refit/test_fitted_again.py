"""One object is fitted again and again, and neither it nor its surroundings remember."""

import contextlib
import pickle
import threading
import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn import config_context, get_config
from sklearn.base import clone, is_classifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import all_estimators

from skdvl.utilities.quiet import quiet_warnings
from skdvl.utilities.refit import can_refit_in_place

# --- the same object, fitted again ------------------------------------------------------------

# they take seconds
LEFT_OUT = {
    *("GaussianProcessClassifier", "MLPClassifier", "MLPRegressor", "TunedThresholdClassifierCV"),
    *("GradientBoostingClassifier", "GradientBoostingRegressor", "LassoCV", "ElasticNetCV"),
    *("LogisticRegressionCV", "RFECV", "SequentialFeatureSelector"),
}


def default_instances():
    for kind, base in (("classifier", GaussianNB()), ("regressor", Ridge())):
        members = [("a", base), ("b", clone(base))]
        wanted = {"random_state": 0, "n_estimators": 3, "max_iter": 5}
        wanted |= {"estimator": base, "estimators": members}
        for name, cls in all_estimators(type_filter=kind):
            if name not in LEFT_OUT and not name.startswith(("MultiTask", "MultiOutput")):
                taken = cls._get_param_names()
                options = {key: value for key, value in wanted.items() if key in taken}
                yield pytest.param(cls(**options), id=name)


def default_transformers():
    wanted = {"random_state": 0, "n_components": 2, "n_estimators": 3, "max_iter": 5, "n_iter": 5}
    wanted |= {"estimator": LogisticRegression(), "n_features_to_select": 2}
    for name, cls in all_estimators(type_filter="transformer"):
        if name in LEFT_OUT:
            continue
        taken = cls._get_param_names()
        options = {key: value for key, value in wanted.items() if key in taken}
        with contextlib.suppress(TypeError, ValueError):  # some need more, or take other words
            yield pytest.param(make_pipeline(cls(**options), GaussianNB()), id=name)


with quiet_warnings():  # some are deprecated
    INSTANCES = [*default_instances(), *default_transformers()]


@pytest.mark.parametrize("estimator", INSTANCES)
def test_fitting_the_same_object_again_is_fitting_a_clone(
    make_fold, make_utility, random_coalitions, with_data, N_ROWS, estimator
):
    fold = make_fold("two" if is_classifier(estimator) else "numbers")
    fold = with_data(fold, np.abs(fold.X), np.abs(fold.X_val))
    if "Imputer" in str(estimator):
        fold.X[::5, 1] = np.nan
    one_class = np.arange(N_ROWS) % 2 == 0
    one_row = np.arange(N_ROWS) == 3
    coalitions = [random_coalitions(4), [one_class, one_row], random_coalitions(4, seed=2)]
    coalitions = np.concatenate(coalitions)
    as_it_likes, cloning = make_utility(estimator, fold), make_utility(estimator, fold)
    cloning._in_place = False
    assert_array_equal(as_it_likes(coalitions), cloning(coalitions))


class NotOurs(GaussianNB):
    pass


@pytest.mark.parametrize(
    "estimator",
    [
        NotOurs(),
        make_pipeline(StandardScaler(), NotOurs()),
        SGDClassifier(warm_start=True),
        make_pipeline(StandardScaler(), MLPClassifier(warm_start=True)),
        RandomForestClassifier(random_state=np.random.RandomState(0)),
    ],
    ids=lambda e: type(e).__name__,
)
def test_what_may_remember_an_earlier_fit_is_cloned(estimator):
    assert not can_refit_in_place(estimator)


def test_a_utility_is_a_function_even_of_a_model_that_starts_warm(
    make_fold, make_utility, random_coalitions
):
    fold = make_fold("two")
    utility = make_utility(SGDClassifier(warm_start=True, random_state=0), fold)
    coalitions = random_coalitions(10)
    assert_array_equal(utility(coalitions)[::-1], utility(coalitions[::-1]))


def test_the_users_estimator_is_never_fitted(make_fold, make_utility, random_coalitions):
    estimator = LogisticRegression()
    make_utility(estimator, make_fold("two"))(random_coalitions(3))
    assert not hasattr(estimator, "coef_")


def test_threads_do_not_share_a_model(make_fold, make_utility, random_coalitions):
    fold = make_fold("two")
    utility = make_utility(GaussianNB(), fold)
    coalitions = random_coalitions(60)
    expected = utility(coalitions)
    found = {}

    def evaluate(name):
        found[name] = np.concatenate([utility(coalitions[j : j + 1]) for j in range(60)])

    threads = [threading.Thread(target=evaluate, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for values in found.values():
        assert_array_equal(values, expected)


def test_a_pickled_utility_is_the_same_function(make_fold, make_utility, random_coalitions):
    utility = make_utility(LogisticRegression(), make_fold("words"), "neg_log_loss")
    coalitions = random_coalitions(5)
    expected = utility(coalitions)
    again = pickle.loads(pickle.dumps(utility))
    assert_array_equal(again(coalitions), expected)
    assert again.fingerprint() == utility.fingerprint()


# --- the surroundings -------------------------------------------------------------------------


class Shouting(GaussianNB):
    def fit(self, X, y):
        warnings.warn("I did not converge", ConvergenceWarning, stacklevel=1)
        return super().fit(X, y)

    def predict(self, X):
        warnings.warn("and I doubt it", UserWarning, stacklevel=1)
        return super().predict(X)


def test_warnings_of_coalition_fits_are_silent_and_never_errors(
    make_fold, make_utility, random_coalitions
):
    fold = make_fold("two")
    coalitions = random_coalitions(5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = make_utility(Shouting(), fold)(coalitions)
    assert_array_equal(found, make_utility(GaussianNB(), fold)(coalitions))


def test_warnings_of_the_dummies_are_silent_too(make_fold, make_utility, coalition_of):
    fold = make_fold("words")
    utility = make_utility(LogisticRegression(), fold, "precision_macro")
    one_class = coalition_of(np.flatnonzero(fold.y == "cat")[:3])
    assert np.isfinite(utility(np.concatenate([one_class, ~one_class & False]))).all()


def test_filters_and_configuration_are_restored_around_overlapping_threads(
    make_fold, make_utility, random_coalitions
):
    before = list(warnings.filters)
    config = get_config()
    inside, outside = threading.Event(), threading.Event()

    def first():
        with quiet_warnings():
            inside.set()
            assert outside.wait(10)

    def second():
        assert inside.wait(10)
        with quiet_warnings():
            outside.set()
            thread.join(10)
            assert warnings.filters[0][0] == "ignore"

    thread = threading.Thread(target=first)
    other = threading.Thread(target=second)
    thread.start()
    other.start()
    other.join(20)
    assert not thread.is_alive()
    assert not other.is_alive()
    assert list(warnings.filters) == before
    make_utility(GaussianNB(), make_fold("two"))(random_coalitions(2))
    assert get_config() == config


def test_a_users_configuration_does_not_change_utilities(
    make_fold, make_utility, random_coalitions
):
    fold = make_fold("two")
    coalitions = random_coalitions(6)
    model = make_pipeline(StandardScaler(), GaussianNB())
    expected = make_utility(model, fold)(coalitions)
    for option in ({"transform_output": "pandas"}, {"assume_finite": True}):
        with config_context(**option):
            assert_array_equal(make_utility(model, fold)(coalitions), expected)

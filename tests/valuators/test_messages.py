"""What users are told who ask for what cannot be done."""

import re

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import skdvl
from skdvl import CleanedEstimator, ShapleyValuator
from skdvl.caching import contract
from skdvl.estimation.scheme_choice import find_schemes
from skdvl.testing import check_cache_contract
from skdvl.valuators.retraining import RetrainingValuator

X, Y = make_classification(n_samples=30, n_features=4, random_state=0)
VALUATORS = [
    getattr(skdvl, name)
    for name in skdvl.__all__
    if isinstance(getattr(skdvl, name), type)
    and issubclass(getattr(skdvl, name), RetrainingValuator)
]


class Derived(ShapleyValuator):
    """A valuator as somebody else would derive it."""


class Untagged(BaseEstimator):
    def fit(self, X, y):
        return self

    def predict(self, X):
        return np.zeros(len(X))

    def score(self, X, y):
        return 1.0


@pytest.mark.parametrize("kind", [*VALUATORS, Derived])
def test_wrong_arguments_are_those_of_the_class_that_was_made(kind):
    name = kind.__name__
    with pytest.raises(TypeError, match=rf"^{name}\.fit\(\) .*unexpected.*'sample_weight'"):
        kind(GaussianNB()).fit(X, Y, sample_weight=np.ones(30))
    with pytest.raises(TypeError, match=rf"^{name}\.fit\(\) missing .*'y'"):
        kind(GaussianNB()).fit(X)
    with pytest.raises(TypeError, match=rf"^{name}\.__init__\(\) .*unexpected.*'budget'"):
        kind(GaussianNB(), budget=3)
    assert type(clone(kind(GaussianNB(), random_state=3))) is kind


@pytest.mark.parametrize("kind", [*VALUATORS, skdvl.estimate_values])
def test_the_documentation_lists_all_schemes(kind):
    if "method : " not in kind.__doc__:
        assert kind is skdvl.LeaveOneOutValuator
        return
    told = kind.__doc__.split("method : ")[1].split("\n    max_evals")[0]
    told = told.split("\n    scoring")[0]
    named = set(re.findall(r'"(\w+)"', told))
    assert named == {"auto", *find_schemes()}


@pytest.mark.parametrize("scoring", ["true_class_probability", "neg_log_loss"])
def test_scores_of_probabilities_need_such(scoring):
    models = [
        SVC(),
        make_pipeline(StandardScaler(), SVC()),
        GridSearchCV(SVC(), {"C": [1.0, 2.0]}, cv=2),
    ]
    for model in models:
        message = rf"scoring='{scoring}' needs predict_proba.*CalibratedClassifierCV.*'accuracy'"
        with pytest.raises(ValueError, match=message):
            ShapleyValuator(model, scoring=scoring).fit(X, Y)
    valuator = ShapleyValuator(SVC(), scoring=scoring)
    with pytest.raises(ValueError, match="needs predict_proba, which SVC does not have"):
        CleanedEstimator(SVC(), valuator).fit(X, Y)
    # the remedy
    calibrated = CalibratedClassifierCV(SVC(), cv=2, ensemble=False)
    options = {"scoring": scoring, "max_evals": 20, "cv": 2, "random_state": 0}
    assert np.isfinite(ShapleyValuator(calibrated, **options).fit(X, Y).values_).all()


def test_a_regressor_has_no_probabilities():
    valuator = ShapleyValuator(Ridge(), scoring="true_class_probability")
    with pytest.raises(ValueError, match=r"needs predict_proba, which Ridge .*'squashed_r2'"):
        valuator.fit(X, X[:, 0])
    fitted = valuator.set_params(scoring="squashed_r2", random_state=0).fit(X, X[:, 0])
    assert np.isfinite(fitted.values_).all()


@pytest.mark.parametrize("model", [KMeans(2), IsolationForest(), Untagged()], ids=repr)
def test_models_that_predict_no_y_are_refused(model):
    message = rf"{type(model).__name__} is neither a classifier nor a regressor.*ClassifierMixin"
    for kind in VALUATORS:
        with pytest.raises(ValueError, match=message):
            kind(model).fit(X, Y)
    with pytest.raises(ValueError, match=message):
        CleanedEstimator(model).fit(X, Y)
    with pytest.raises(ValueError, match="Pipeline is neither a classifier nor a regressor"):
        ShapleyValuator(make_pipeline(StandardScaler(), model)).fit(X, Y)


@pytest.mark.parametrize("n_samples", range(2, 10))
def test_r2_of_one_row_is_refused_with_a_remedy(n_samples):
    features, targets = make_regression(n_samples, 3, random_state=0)
    message = r"single validation row: give ShapleyValuator scoring='neg_mean_squared_error'"
    for model in (ShapleyValuator(Ridge()), CleanedEstimator(Ridge())):
        with pytest.raises(ValueError, match=message):
            model.fit(features, targets)
    # the remedies
    valuator = ShapleyValuator(Ridge(), scoring="neg_mean_squared_error", random_state=0)
    assert np.isfinite(valuator.fit(features, targets).values_).all()
    CleanedEstimator(Ridge(), valuator).fit(features, targets)
    if n_samples >= 4:
        halves = ShapleyValuator(Ridge(), cv=2, random_state=0)
        assert np.isfinite(halves.fit(features, targets).values_).all()


def test_warnings_point_at_the_caller():
    with pytest.warns(ConvergenceWarning, match="did not reach") as caught:
        ShapleyValuator(GaussianNB(), tol=1e-9, max_evals=100, random_state=0).fit(X, Y)
    assert caught[0].filename == __file__
    folds = [(np.arange(20), np.arange(20, 30))]
    with pytest.warns(UserWarning, match="No fold trains on") as caught:
        ShapleyValuator(GaussianNB(), cv=folds, random_state=0).fit(X, Y)
    assert caught[0].filename == __file__


def test_the_battery_for_caches_is_where_batteries_are():
    assert check_cache_contract is contract.check_cache_contract

"""Every valuator is a scikit-learn estimator without exceptions."""

import warnings

import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import estimator_checks

import skdvl

# scikit-learn runs these in its own suite and leaves them out of check_estimator
EXTRA_CHECKS = [
    "check_dataframe_column_names_consistency",
    "check_get_feature_names_out_error",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
    "check_param_validation",
    "check_inplace_ensure_writeable",
]
BUDGET = 60
ENOUGH = {skdvl.BetaShapleyValuator: 240}  # its first round enumerates single rows

OTHERS = (
    skdvl.BanzhafValuator,
    skdvl.BetaShapleyValuator,
    skdvl.SemivalueValuator,
)
OLDEST = [
    skdvl.ShapleyValuator(GaussianNB(), max_evals=BUDGET),
    skdvl.ShapleyValuator(Ridge(), max_evals=BUDGET),
]
VALUATORS = [
    *OLDEST,
    skdvl.ShapleyValuator(LogisticRegression(), max_evals=BUDGET),
    skdvl.ShapleyValuator(DecisionTreeClassifier(), max_evals=BUDGET),
    skdvl.ShapleyValuator(KNeighborsClassifier(), max_evals=BUDGET),
    skdvl.ShapleyValuator(SVC(), max_evals=BUDGET),
    skdvl.ShapleyValuator(
        make_pipeline(StandardScaler(), LogisticRegression()), max_evals=BUDGET, engine="refit"
    ),
    *(
        valuator(base, max_evals=ENOUGH.get(valuator, BUDGET))
        for valuator in OTHERS
        for base in (GaussianNB(), Ridge())
    ),
    *(skdvl.LeaveOneOutValuator(base) for base in (GaussianNB(), Ridge())),
]


def name_of(valuator):
    return f"{type(valuator).__name__}({type(valuator.estimator).__name__})"


def statuses(valuator):
    with warnings.catch_warnings():
        # checks feed one-class folds, tiny data and unconverged models on purpose
        warnings.simplefilter("ignore")
        return estimator_checks.check_estimator(valuator, on_skip=None, on_fail=None)


def marked(valuator):
    marks = [pytest.mark.oldest] if valuator in OLDEST else []
    return pytest.param(valuator, marks=marks, id=name_of(valuator))


@pytest.mark.parametrize("valuator", [marked(valuator) for valuator in VALUATORS])
def test_check_estimator(valuator, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # otherwise the array API check is skipped
    results = statuses(valuator)
    assert len(results) > 40
    failed = [
        (result["check_name"], result["exception"])
        for result in results
        if result["status"] not in ("passed", "skipped")
    ]
    assert failed == []


@pytest.mark.parametrize("valuator", OLDEST, ids=name_of)
def test_no_check_is_skipped_on_the_newest_scikit_learn(valuator, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    skipped = [r["check_name"] for r in statuses(valuator) if r["status"] == "skipped"]
    assert skipped == []


@pytest.mark.parametrize("check", EXTRA_CHECKS)
@pytest.mark.parametrize("valuator", OLDEST, ids=name_of)
def test_extra_checks(valuator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(estimator_checks, check)(type(valuator).__name__, valuator)


@pytest.mark.full
@pytest.mark.parametrize("engine", ["auto", "refit"])
@pytest.mark.parametrize("valuator", VALUATORS[:7], ids=name_of)
def test_full_matrix(valuator, engine, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    for kind in (skdvl.ShapleyValuator, *OTHERS):
        max_evals = ENOUGH.get(kind, 200)
        results = statuses(kind(valuator.estimator, max_evals=max_evals, engine=engine))
        assert {result["status"] for result in results} == {"passed"}

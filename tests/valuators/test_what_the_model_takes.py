"""A model that begins by imputing or encoding gets what it takes; others say what they refuse."""

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from skdvl import CleanedEstimator, SampleSelector, ShapleyValuator

RNG = np.random.default_rng(0)
Y = np.arange(40) % 2
X = RNG.normal(size=(40, 3)) + Y[:, np.newaxis]
HOLES = X.copy()
HOLES[3, 1] = np.nan
TEXTS = np.array([["a", "b"], ["c", "b"]] * 20)[np.r_[0:39, 0]]
MIXED = pd.DataFrame({"a": HOLES[:, 0], "kind": RNG.choice(["u", "v"], 40), "b": HOLES[:, 1]})
IMPUTED = make_pipeline(SimpleImputer(), GaussianNB())
ENCODED = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression())
BY_COLUMN = make_pipeline(
    make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), [0, 2]),
        (OneHotEncoder(handle_unknown="ignore"), [1]),
    ),
    LogisticRegression(),
)
VOTES = VotingClassifier([("tree", DecisionTreeClassifier(random_state=0)), ("nb", IMPUTED)])
CASES = [
    pytest.param(IMPUTED, HOLES, id="imputed"),
    pytest.param(VOTES, HOLES, id="votes"),
    pytest.param(ENCODED, TEXTS, id="texts"),
    pytest.param(ENCODED, TEXTS.astype(object), id="objects"),
    pytest.param(BY_COLUMN, MIXED.to_numpy(), id="mixed"),
]


def valuator_of(model):
    return ShapleyValuator(model, max_evals=100, random_state=0)


@pytest.mark.parametrize(("model", "data"), CASES)
def test_arrays_with_holes_and_texts_go_to_the_model_as_frames_do(model, data):
    of_array = valuator_of(model).fit(data, Y)
    of_frame = valuator_of(model).fit(pd.DataFrame(data), Y)
    np.testing.assert_array_equal(of_array.values_, of_frame.values_)
    assert np.isfinite(of_array.transform(data)).all()


@pytest.mark.parametrize(("model", "data"), CASES)
def test_filters_take_them_too(model, data):
    cleaned = CleanedEstimator(model, valuator_of(model), keep=0.8).fit(data, Y)
    assert cleaned.predict(data).shape == (40,)
    selected, labels = SampleSelector(valuator_of(model), keep=0.8).fit_resample(data, Y)
    assert (len(selected), len(labels)) == (32, 32)


def test_what_no_part_of_a_model_takes_it_refuses_itself():
    with pytest.raises(ValueError, match=r"(?s)contains NaN.*GaussianNB does not accept missing"):
        valuator_of(make_pipeline(StandardScaler(), GaussianNB())).fit(HOLES, Y)
    with pytest.raises(ValueError, match="could not convert string to float"):
        valuator_of(make_pipeline(StandardScaler(), GaussianNB())).fit(TEXTS, Y)


@pytest.mark.parametrize("bad", [np.inf, "text"])
def test_targets_of_held_out_rows_are_finite_numbers(bad):
    y_val = np.array([0.5, bad], dtype=object)
    with pytest.raises(ValueError, match=r"y_val contains infinity|float: 'text'"):
        valuator_of(Ridge()).fit(X, X[:, 0], X_val=X[:2], y_val=y_val)

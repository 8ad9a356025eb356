"""Every block of the guide to parallel work runs, and gives the usual values."""

import pathlib
import re
import typing

import joblib
import pytest
from numpy.testing import assert_array_equal
from sklearn.datasets import make_classification
from sklearn.model_selection import cross_val_score
from sklearn.naive_bayes import GaussianNB

from skdvl import ShapleyValuator

GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "guide" / "parallel.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.M | re.S)
X, Y = make_classification(20, 4, random_state=0)


class Valuator(ShapleyValuator):
    """Remembers what was fitted."""

    fitted: typing.ClassVar = []

    def __init__(self, estimator, **options):
        super().__init__(estimator, random_state=0, **options)

    def fit(self, X, y):
        self.fitted.append(super().fit(X, y))
        return self


@pytest.fixture
def namespace(monkeypatch):
    monkeypatch.setattr(Valuator, "fitted", [])
    return {
        "joblib": joblib,
        "ShapleyValuator": Valuator,
        "model": GaussianNB(),
        "X": X,
        "y": Y,
        "cross_val_score": cross_val_score,
        "train": abs,
        "analyse": len,
        "configurations": [-1, -2],
        "big": -3,
    }


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(
            block,
            marks=[getattr(pytest.mark, name) for name in ("ray", "dask") if name in block],
        )
        for block in BLOCKS
    ],
)
def test_block(block, namespace, request):
    block = block.replace("from skdvl import ShapleyValuator\n", "")
    if "ray" in block.lower():
        request.getfixturevalue("ray_cluster")
        from ray.util.joblib import register_ray

        register_ray()
        # what the nodes of a test have
        block = block.replace("n_jobs=64", "n_jobs=2").replace("max_workers=32", "max_workers=2")
        block = block.replace("memory=2 * 2**30", "memory=2**20")
        block = block.replace("num_gpus=0.5", "num_cpus=0.5")
    if "distributed" in block:
        address = request.getfixturevalue("dask_client").scheduler.address
        block = block.replace('Client("scheduler:8786")', f"Client({address!r})")
    exec(block, namespace)
    expected = ShapleyValuator(GaussianNB(), random_state=0).fit(X, Y).values_
    assert Valuator.fitted
    for valuator in Valuator.fitted:
        assert_array_equal(valuator.values_, expected)
    if "futures" in namespace:
        assert [future.result() for future in namespace["futures"]] == [1, 2]
        assert namespace["on_gpu"].result() == 3
    if "distributed" in block:
        namespace["client"].close()

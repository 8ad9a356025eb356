"""Every block of the guide for those who come from pyDVL runs, and gives the usual values."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import textwrap

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.linear_model import LogisticRegression

import skdvl
from skdvl import ShapleyValuator

ROOT = pathlib.Path(skdvl.__file__).parents[1]
GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "guide" / "coming_from_pydvl.md"
SECTIONS = re.findall(r"^### (.*?)$.*?^```python\n(.*?)^```$", GUIDE.read_text(), re.M | re.S)
DATA = """
import numpy as np
from sklearn.linear_model import LogisticRegression

rng = np.random.default_rng(0)
X = rng.normal(size=(40, 3))
y = (X[:, 0] + rng.normal(scale=0.5, size=40) > 0).astype(int)
X, X_val, y, y_val = X[:20], X[20:], y[:20], y[20:]
model = LogisticRegression()
"""


@pytest.fixture(scope="module")
def namespace():
    names = {}
    exec(DATA, names)
    return names


@pytest.fixture(scope="module")
def expected(namespace):
    X, y, X_val, y_val = (namespace[name] for name in ("X", "y", "X_val", "y_val"))
    valuator = ShapleyValuator(LogisticRegression(), random_state=0)
    return valuator.fit(X, y, X_val=X_val, y_val=y_val).values_


def test_the_guide_has_a_block_for_each_way():
    assert len(SECTIONS) == 9


@pytest.mark.parametrize(
    ("title", "block"),
    [
        pytest.param(*section, id=section[0], marks=[pytest.mark.ray] * ("ray" in section[1]))
        for section in SECTIONS
        if "ray.init(" not in section[1]
    ],
)
def test_block(title, block, namespace, expected, request):
    if "Ray" in block or "ray" in block:
        request.getfixturevalue("ray_cluster")
    names = dict(namespace)
    exec(block, names)
    if "valuator" in names:
        assert_array_equal(names["valuator"].values_, expected)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("title", "block"),
    [pytest.param(*section, id=section[0]) for section in SECTIONS if "ray.init(" in section[1]],
)
def test_block_that_initialises_ray(title, block, expected, ray_cluster, tmp_path):
    address = f"address = {ray_cluster.address!r}\n"
    body = DATA + address + block + 'np.save("values.npy", valuator.values_)\n'
    script = tmp_path / "script.py"
    script.write_text("if __name__ == '__main__':\n" + textwrap.indent(body, "    "))
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    # a short name, for sockets; and away from the file in which the cluster of this session stands
    with tempfile.TemporaryDirectory(prefix="ray") as directory:
        environment = {**os.environ, "PYTHONPATH": path, "RAY_TMPDIR": directory}
        command = [sys.executable, str(script)]
        subprocess.run(command, check=True, timeout=100, cwd=tmp_path, env=environment)
    assert_array_equal(np.load(tmp_path / "values.npy"), expected)

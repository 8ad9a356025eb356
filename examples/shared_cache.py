"""Compare methods and models on one disk cache.

Eight owners bring data. What each is worth is asked under several sampling methods and several
regularisations; every utility is computed once, whoever asks for it first. Run it a second time:
nothing is computed any more.

    python examples/shared_cache.py [directory]
"""

import sys
import tempfile

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import ParameterGrid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdvl import ShapleyValuator
from skdvl.caching import DiskCache

GRID = {
    "estimator__logisticregression__C": [0.1, 1.0],
    "method": ["exact", "stratified", "permutation"],
}


def main():
    directory = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()
    X, y = load_breast_cancer(return_X_y=True)
    rng = np.random.default_rng(0)
    owners = np.array([f"owner {c}" for c in "ABCDEFGH"])[rng.integers(8, size=len(y))]
    valuator = ShapleyValuator(
        make_pipeline(StandardScaler(), LogisticRegression()),
        cv=3,
        engine="refit",  # engines that compute as fast as a look-up go past the cache
        max_evals=800,
        cache=DiskCache(directory),
        random_state=0,
    )
    for parameters in ParameterGrid(GRID):
        valuator.set_params(**parameters).fit(X, y, groups=owners)
        info = valuator.cache_info_
        best = valuator.group_labels_[np.argmax(valuator.group_values_)]
        print(
            f"C={parameters['estimator__logisticregression__C']:<4} {valuator.method_:12s}"
            f"{valuator.n_evals_:5d} evaluations: {info.hits:4d} hits, {info.misses:4d} misses; "
            f"most valuable: {best}"
        )
    print(f"run it again with {directory}, and every evaluation is a hit")


if __name__ == "__main__":
    main()

"""Value 2 000 rows on a Dask cluster, in a run that may be killed at any time.

On the machines of the cluster, with the same Python, Dask, skdvl, numpy and scikit-learn::

    dask scheduler                                               # on the first
    dask worker SCHEDULER:8786 --nworkers auto --nthreads 1      # on each of the others

Then, on one of them::

    python examples/dask_cluster.py SCHEDULER:8786 [rows]

Without an address a cluster is started on this machine.
"""

import sys
import time

import joblib
from distributed import Client
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier

from skdvl import ShapleyValuator

CHECKPOINT = "dask_cluster_checkpoint"


def main():
    address = sys.argv[1] if len(sys.argv) > 1 else None
    n_rows = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
    X, y = make_classification(n_rows + 1000, 20, n_informative=8, flip_y=0.1, random_state=0)
    valuator = ShapleyValuator(
        HistGradientBoostingClassifier(max_iter=20),
        method="stratified",  # many small pieces of work; a permutation is a piece of n refits
        max_evals=5 * n_rows,
        checkpoint=CHECKPOINT,
        random_state=0,
        verbose=1,
    )
    # one thread per worker: models in Python hold the interpreter lock
    own = {} if address else {"threads_per_worker": 1, "dashboard_address": ":0"}
    with Client(address, **own) as client, joblib.parallel_config(backend="dask"):
        print(f"{sum(client.ncores().values())} threads on {len(client.ncores())} workers")
        start = time.perf_counter()
        valuator.fit(X[:n_rows], y[:n_rows], X_val=X[n_rows:], y_val=y[n_rows:])
    print(f"{valuator.n_evals_} evaluations in {time.perf_counter() - start:.0f} s")
    worst = valuator.to_frame().nsmallest(10, "value")
    print(f"the ten rows of least value:\n{worst[['value', 'standard_error', 'label']]}")


if __name__ == "__main__":  # Dask starts processes that import this file
    main()

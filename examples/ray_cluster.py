"""Value 2 000 rows on a Ray cluster, in a run that may be killed at any time.

On the machines of the cluster, with the same Python, Ray, skdvl, numpy and scikit-learn::

    ray start --head --port=6379 --disable-usage-stats          # on the first: the head
    ray start --address=HEAD:6379                               # on each of the others

Then, on one of them::

    RAY_ADDRESS=HEAD:6379 python examples/ray_cluster.py [rows]

Without RAY_ADDRESS a cluster is started on this machine. Kill a node, or this script: what a dead
worker had runs again elsewhere, and the script goes on from its checkpoint, to the same bits. With
RAY_AUTH_MODE=token, set it in every process and have the same ~/.ray/auth_token on every machine.
"""

import collections
import sys
import time

import joblib
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier

from skdvl import ShapleyValuator
from skdvl.parallel import ExecutorBackend, RayExecutor

CHECKPOINT = "ray_cluster_checkpoint"


def name_of_node(_):
    import ray

    time.sleep(0.05)
    return ray.get_runtime_context().get_node_id()[:8]


def main():
    n_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    X, y = make_classification(n_rows + 1000, 20, n_informative=8, flip_y=0.1, random_state=0)
    valuator = ShapleyValuator(
        HistGradientBoostingClassifier(max_iter=20),
        method="stratified",  # many small pieces of work; a permutation is a piece of n refits
        max_evals=5 * n_rows,
        checkpoint=CHECKPOINT,
        random_state=0,
        verbose=1,
    )
    # each call reserves a processor and half a GB: a node gets no more calls than it has room for
    with RayExecutor(num_cpus=1, memory=500_000_000, max_retries=3) as executor:
        nodes = collections.Counter(executor.map(name_of_node, range(4 * executor.max_workers)))
        print(f"{executor.max_workers} calls at once, on nodes {dict(nodes)}")
        with joblib.parallel_config(backend=ExecutorBackend(executor)):
            start = time.perf_counter()
            valuator.fit(X[:n_rows], y[:n_rows], X_val=X[n_rows:], y_val=y[n_rows:])
    print(f"{valuator.n_evals_} evaluations in {time.perf_counter() - start:.0f} s")
    worst = valuator.to_frame().nsmallest(10, "value")
    print(f"the ten rows of least value:\n{worst[['value', 'standard_error', 'label']]}")


if __name__ == "__main__":
    main()

"""How well values find flipped labels, beside the simple baseline.

    python tests/benchmarks/mislabelled.py

breast_cancer, 10 % of the labels flipped, no clean validation set, default budget, five seeds.
"""

import time

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdvl import ShapleyValuator
from skdvl.datasets import flip_labels

SEEDS = range(5)


def main():
    X, y = load_breast_cancer(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    print("mean AUROC of flipped labels over", len(SEEDS), "seeds")
    noisy = [flip_labels(y, 0.1, random_state=seed) for seed in SEEDS]
    for scoring in ("accuracy", "true_class_probability"):
        scores, start = [], time.perf_counter()
        for seed, (labels, is_flipped) in zip(SEEDS, noisy, strict=True):
            valuator = ShapleyValuator(model, scoring=scoring, n_jobs=2, random_state=seed)
            scores.append(roc_auc_score(is_flipped, -valuator.fit(X, labels).values_))
        seconds = (time.perf_counter() - start) / len(SEEDS)
        print(
            f"ShapleyValuator, {scoring:23s} {np.mean(scores):.3f} "
            f"(lowest {min(scores):.3f}; {valuator.n_evals_} evaluations, "
            f"engine {valuator.engine_}, {seconds:.0f} s a fit)"
        )
    baseline = []
    for labels, is_flipped in noisy:
        proba = cross_val_predict(model, X, labels, cv=5, method="predict_proba")
        confidence = proba[np.arange(len(y)), labels]
        baseline.append(roc_auc_score(is_flipped, -confidence))
    print(f"out-of-fold self-confidence              {np.mean(baseline):.3f}")


if __name__ == "__main__":
    main()

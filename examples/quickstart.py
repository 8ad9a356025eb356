"""Find mislabelled rows of a real data set.

Flips 10 % of the training labels of the breast cancer data, values the training rows under a
pipeline of StandardScaler and LogisticRegression, and shows what the values are good for.

Run it with ``python examples/quickstart.py``; it takes half a minute on two free cores and saves
a picture beside you.
"""

import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdvl import ShapleyValuator
from skdvl.datasets import flip_labels

N_JOBS = 2


def self_confidence(model, X, y):
    """Return each row's out-of-fold probability of its own label: the simple way to find errors."""
    proba = cross_val_predict(model, X, y, cv=5, method="predict_proba")
    return proba[np.arange(len(y)), y]


def save_plot(values, flipped, path):
    """Draw how the values of right and of wrong labels are distributed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    bins = np.linspace(values.min(), values.max(), 40)
    axes.hist(values[~flipped], bins, alpha=0.7, label="label as it was")
    axes.hist(values[flipped], bins, alpha=0.7, label="label flipped")
    axes.axvline(np.quantile(values, 0.1), color="k", ls=":", label="lowest 10 %")
    axes.set(xlabel="Shapley value of the row", ylabel="rows", title="What each row is worth")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main():
    X, y = load_breast_cancer(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)
    y_noisy, flipped = flip_labels(y_train, 0.10, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression())

    valuator = ShapleyValuator(
        model,
        scoring="true_class_probability",
        max_evals=20 * len(y_train),
        n_jobs=N_JOBS,
        random_state=0,
        verbose=1,
    ).fit(X_train, y_noisy)
    values = valuator.values_

    lowest = np.argsort(values)[: round(0.1 * len(values))]
    print(f"{len(y_train)} training rows, {flipped.sum()} labels flipped")
    print(f"method {valuator.method_}, engine {valuator.engine_}, {valuator.n_evals_} evaluations")
    print(f"of the lowest-valued 10 % of the rows, {flipped[lowest].mean():.0%} are flipped ones")
    print(f"AUROC of the values: {roc_auc_score(flipped, -values):.3f}")
    baseline = self_confidence(model, X_train, y_noisy)
    print(
        f"AUROC of out-of-fold self-confidence: {roc_auc_score(flipped, -baseline):.3f} "
        "(the simple baseline: it ranks rows, but says nothing of what they are worth)"
    )

    kept = np.setdiff1d(np.arange(len(values)), lowest)
    before = clone(model).fit(X_train, y_noisy).score(X_test, y_test)
    after = clone(model).fit(X_train[kept], y_noisy[kept]).score(X_test, y_test)
    print(
        f"accuracy on clean test data: {before:.3f} with all rows, {after:.3f} without the lowest"
    )

    save_plot(values, flipped, "quickstart.png")
    print("plot saved to quickstart.png")


if __name__ == "__main__":
    main()

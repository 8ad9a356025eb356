"""The games of a fit: one per validation set, its players among all players."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import KFold, StratifiedKFold, check_cv
from sklearn.utils.metadata_routing import get_routing_for_object

from skdvl.utilities.fold import Fold, take_rows

__all__ = ["Players", "held_out_fold", "make_folds"]

_FOLD_SEED = 0  # of the default folds: part of the game, so random_state has no say in it


@dataclass(frozen=True)
class Players:
    """Who plays: rows, or groups of rows.

    Attributes
    ----------
    of_row : ndarray of int, shape (n_samples,)
        Player of each row; players are numbered as they first appear.
    labels : ndarray of shape (n_players,) or None
        Labels of the groups; None where each row is a player.
    """

    of_row: NDArray[np.intp]
    labels: NDArray[Any] | None = None

    @classmethod
    def rows(cls, n_samples: int) -> Players:
        """Let every row play for itself."""
        return cls(np.arange(n_samples))

    @classmethod
    def groups(cls, groups: Any, n_samples: int) -> Players:
        """Let the rows of a group play together.

        Raises
        ------
        ValueError
            If there are not as many labels as rows, or one is missing.
        """
        # numpy would turn the numbers and missing labels of a list with a text into texts
        plain = pd.Series(groups) if isinstance(groups, (list, tuple)) else groups
        labels = np.asarray(plain)
        if labels.shape != (n_samples,):
            raise ValueError(
                f"groups must hold one label per sample: {n_samples} samples, "
                f"but groups has shape {labels.shape}."
            )
        if pd.isna(labels).any():
            raise ValueError(
                f"groups has {int(pd.isna(labels).sum())} missing labels. Give every sample a "
                "label; samples without an owner can share one."
            )
        codes, unique = pd.factorize(labels)
        return cls(codes.astype(np.intp), np.asarray(unique))

    @property
    def n_players(self) -> int:
        """Number of players."""
        return int(self.of_row.max()) + 1

    def sorted_labels(self) -> NDArray[np.intp]:
        """Return the order of the labels; labels of several types go by type, then by text."""
        assert self.labels is not None
        try:
            return np.argsort(self.labels, kind="stable")
        except TypeError:
            keys = [(type(label).__name__, str(label)) for label in self.labels]
            return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.intp)

    def within(self, rows: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp] | None]:
        """Return the players with rows among ``rows``, and each row's player among those."""
        if self.labels is None:
            return rows, None
        # in order of first appearance: groups of one row then play exactly as rows do
        players, firsts, codes = np.unique(
            self.of_row[rows], return_index=True, return_inverse=True
        )
        order = np.argsort(firsts)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return players[order], place[codes]


def held_out_fold(
    X: Any, y: NDArray[Any], X_val: Any, y_val: NDArray[Any], classes: Any, players: Players
) -> tuple[list[Fold], list[NDArray[np.intp]]]:
    """Return the one game that is judged on held-out rows."""
    mine, player_of_row = players.within(np.arange(len(y)))
    return [Fold(0, X, y, X_val, y_val, classes, player_of_row)], [mine]


def make_folds(
    X: Any, y: NDArray[Any], cv: Any, classes: Any, players: Players, groups: Any
) -> tuple[list[Fold], list[NDArray[np.intp]]]:
    """Return a game per fold of cross-validation, and each game's players among all.

    Warns
    -----
    UserWarning
        If there are rows that no fold trains on.
    """
    splitter = default_splitter(y, classes) if cv is None else None
    if splitter is None:
        splitter = check_cv(cv, y, classifier=classes is not None)
    split_groups = groups if groups is not None and _uses_groups(splitter) else None
    folds, mine = [], []
    trained = np.zeros(len(y), dtype=bool)
    for number, (train, test) in enumerate(splitter.split(X, y, split_groups)):
        rows = np.unique(_positions(train))  # a coalition is a set, and ascending
        trained[rows] = True
        fold_players, player_of_row = players.within(rows)
        test = _positions(test)
        fold = Fold(
            number,
            take_rows(X, rows),
            y[rows],
            take_rows(X, test),
            y[test],
            classes,
            player_of_row,
        )
        folds.append(fold)
        mine.append(fold_players)
    if not trained.all():
        warnings.warn(
            f"No fold trains on {int((~trained).sum())} of the {len(y)} samples, so their values "
            "are NaN. Use a cv that trains on every sample at least once.",
            UserWarning,
            stacklevel=5,
        )
    return folds, mine


def _positions(part: Any) -> NDArray[np.intp]:
    """Return the rows of a part of a split, which may be a mask as it may in scikit-learn."""
    part = np.asarray(part)
    return np.flatnonzero(part) if part.dtype == bool else part.astype(np.intp)


def default_splitter(y: NDArray[Any], classes: NDArray[Any] | None) -> Any:
    """Return five shuffled folds, stratified for classes; fewer where there are fewer rows."""
    smallest = len(y)
    if classes is not None:
        smallest = int(np.unique(y, return_counts=True)[1].min())
    n_splits = max(2, min(5, len(y), smallest))
    stratified = classes is not None and smallest >= 2
    kind = StratifiedKFold if stratified else KFold
    return kind(n_splits, shuffle=True, random_state=_FOLD_SEED)


def _uses_groups(splitter: Any) -> bool:
    if not hasattr(splitter, "get_metadata_routing"):
        return True
    return bool(get_routing_for_object(splitter).consumes("split", ["groups"]))

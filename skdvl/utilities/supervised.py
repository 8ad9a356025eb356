"""Utilities of supervised learning: u(S) is the score of the model trained on S.

Whatever computes the scores, by refitting or by an exact incremental engine, the rules for the
empty coalition, for groups and for coalitions on which the model fails live here, once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import sklearn
from numpy.typing import ArrayLike, NDArray

from skdvl.utilities.base import Coalitions, Utilities, Utility, are_usable, prefix_rows
from skdvl.utilities.fingerprint import fingerprint, library_versions
from skdvl.utilities.fold import Fold, Judge
from skdvl.utilities.quiet import quiet_warnings
from skdvl.utilities.record import current_record

__all__ = ["FallbackRule", "SupervisedUtility"]

_N_REMEMBERED = 4096
_REFUSED_AT_ONCE = 256  # coalitions
_PREDICTIONS = 2**16  # of dummies at once: half a megabyte
_VERSION = 1  # of the utilities' definition: raised whenever the same data give other numbers


class FallbackRule:
    r"""What a coalition without a model is worth.

    A dummy is judged in the model's place. It predicts P(c) = (n_c + prior_c) / (\|S\| + 1), with
    n_c the coalition's rows of class c and prior_c the share of c in the fold, or the
    coalition's mean target. The empty coalition's dummy predicts the prior, or the fold's mean
    target. Unsmoothed, a coalition of one class would cost 36 nats a row under log loss.

    Parameters
    ----------
    judge : Judge
    empty_score : "auto" or float
        u(∅); "auto" is the dummy's score.
    error_score : "auto", "raise" or float
        u of a refused coalition; "auto" is the dummy's score.
    """

    def __init__(
        self, judge: Judge, empty_score: float | str = "auto", error_score: float | str = "auto"
    ) -> None:
        self.judge = judge
        self.empty_score = empty_score
        self.error_score = error_score
        self._remembered: dict[bytes, float] = {}

    def empty(self) -> float:
        """Return u(∅)."""
        if self.empty_score != "auto":
            return float(self.empty_score)
        nothing = np.zeros((1, self.judge.fold.n_rows), dtype=bool)
        return float(self._dummies(nothing, "empty_score")[0])

    def refused(self, rows: NDArray[np.bool_], errors: list[str]) -> NDArray[np.float64]:
        """Return the utilities of coalitions on which the model failed.

        Parameters
        ----------
        rows : ndarray of bool, shape (n_sets, n_rows)
            The coalitions' training rows.
        errors : list of str
            Why the model failed on each.

        Raises
        ------
        ValueError
            If ``error_score="raise"``, or the scorer fails on the dummy.
        """
        if self.error_score == "raise":
            where = np.flatnonzero(rows[0])
            shown = f"{where[:20].tolist()}{' …' if len(where) > 20 else ''}"
            raise ValueError(
                f"Fold {self.judge.fold.number}: the model fails on the {len(where)} training "
                f"rows {shown} (positions in the fold): {errors[0]}. With error_score='auto' "
                "such a coalition gets the score of a dummy model."
            )
        if self.error_score != "auto":
            return np.full(len(rows), float(self.error_score))
        return self._dummies(rows, "error_score")

    def _dummies(self, rows: NDArray[np.bool_], parameter: str) -> NDArray[np.float64]:
        """Return the dummies' scores, in place of which ``parameter`` could give a number."""
        score = self._scores_of_means if self.judge.fold.classes is None else self._scores_of_counts
        try:
            with quiet_warnings():
                scores = score(rows)
        except MemoryError:
            raise
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        else:
            if are_usable(scores).all():
                return scores
            problem = f"the score is {scores[~are_usable(scores)][0]}"
        raise ValueError(
            f"Fold {self.judge.fold.number}: the scorer fails on the dummy model that stands "
            f"for {'no data' if parameter == 'empty_score' else 'a failed model'}: {problem}. "
            f"Give {parameter} a number."
        )

    def _scores_of_means(self, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
        targets = np.asarray(self.judge.fold.y, dtype=np.float64)
        means = np.array([(targets[some] if some.any() else targets).mean() for some in rows])
        together = max(1, _PREDICTIONS // len(self.judge.fold.y_val))
        parts = [means[start : start + together] for start in range(0, len(means), together)]
        return np.concatenate([self.judge.judge_targets(part) for part in parts])

    def _scores_of_counts(self, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Few counts of classes are common, and of these the scores are remembered."""
        fold = self.judge.fold
        assert fold.classes is not None
        scores = np.empty(len(rows))
        for j, some in enumerate(rows):
            counts = np.bincount(fold.codes[some], minlength=len(fold.classes))
            score = self._remembered.get(counts.tobytes())
            if score is None:
                prior = np.bincount(fold.codes, minlength=len(fold.classes)) / fold.n_rows
                score = self.judge.judge_proba((counts + prior) / (counts.sum() + 1))
                if len(self._remembered) >= _N_REMEMBERED:
                    self._remembered.clear()
                self._remembered[counts.tobytes()] = score
            scores[j] = score
        return scores

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_remembered": {}}


class SupervisedUtility(Utility):
    """Base of the utilities that train and score a model.

    Subclasses implement ``_score``.

    Parameters
    ----------
    estimator : estimator object
        Its random states are integers, so that u is a function.
    fold : Fold
    judge : Judge
    fallback : FallbackRule
    """

    def __init__(self, estimator: Any, fold: Fold, judge: Judge, fallback: FallbackRule) -> None:
        self.estimator = estimator
        self.fold = fold
        self.judge = judge
        self.fallback = fallback
        self.n_players = fold.n_players

    def fingerprint(self) -> bytes:
        """Digest all that decides the utilities, once."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> bytes:
        fold, rule = self.fold, self.fallback
        data = (fold.X, fold.y, fold.X_val, fold.y_val, fold.classes, fold.player_of_row)
        scorer = (self.judge.scorer, self.judge.own_score)
        rules = (rule.empty_score, rule.error_score)
        # pipelines hand frames on if they are told so for the whole process
        handed_on = sklearn.get_config()["transform_output"]
        kind = (_VERSION, self.engine, library_versions(), handed_on)
        return fingerprint(kind, self.estimator, scorer, rules, data)

    @abstractmethod
    def _score(self, rows: NDArray[np.bool_]) -> tuple[NDArray[np.float64], dict[int, str]]:
        """Score the models trained on sets of rows.

        Parameters
        ----------
        rows : ndarray of bool, shape (n_sets, n_rows)
            Non-empty sets of training rows.

        Returns
        -------
        scores : ndarray of shape (n_sets,)
            Anything where the model failed.
        errors : dict of int to str
            Why the model failed, by position.
        """

    def _evaluate(self, coalitions: Coalitions) -> Utilities:
        players = self.fold.player_of_row
        rows = coalitions if players is None else coalitions[:, players]
        utilities = np.empty(len(rows))
        filled = rows.any(axis=1)
        if not filled.all():
            utilities[~filled] = self.fallback.empty()
        if filled.any():
            some = rows if filled.all() else rows[filled]
            with quiet_warnings():
                scores, errors = self._score(some)
            sizes = coalitions[filled].sum(axis=1)
            utilities[filled] = self._settle(lambda which: some[which], sizes, scores, errors)
        return utilities

    def prefixes(self, orders: ArrayLike, sizes: ArrayLike | None = None) -> Utilities:
        """Evaluate the prefixes of orders, see `Utility.prefixes`."""
        orders = np.asarray(orders, dtype=np.intp)
        wanted = np.arange(self.n_players + 1) if sizes is None else np.asarray(sizes)
        if not self.has_cheap_prefixes:
            return super().prefixes(orders, wanted)
        utilities = np.empty((len(orders), len(wanted)))
        utilities[:, wanted == 0] = self.fallback.empty() if (wanted == 0).any() else 0.0
        filled = np.flatnonzero(wanted > 0)
        row_orders, ends = self._row_orders(orders, wanted[filled])
        with quiet_warnings():
            scores, errors = self._score_prefixes(row_orders, ends)
        utilities[:, filled] = self._settle(
            prefix_rows(row_orders, ends),
            np.tile(wanted[filled], len(orders)),
            scores.ravel(),
            {j * len(filled) + k: error for (j, k), error in errors.items()},
        ).reshape(scores.shape)
        return utilities

    def _score_prefixes(
        self, orders: NDArray[np.intp], sizes: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], dict[tuple[int, int], str]]:
        """Score models trained on prefixes of orders of rows; for ``has_cheap_prefixes``.

        Parameters
        ----------
        orders : ndarray of int, shape (n_orders, n_rows)
        sizes : ndarray of int, shape (n_orders, n_sizes)
            Positive sizes, in rows.

        Returns
        -------
        scores : ndarray of shape (n_orders, n_sizes)
        errors : dict of (int, int) to str
            Why a model failed, by order and position in ``sizes``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no cheap prefixes")

    def _row_orders(
        self, orders: NDArray[np.intp], sizes: NDArray[np.intp]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Turn orders of players into orders of rows, a player's rows ascending."""
        players = self.fold.player_of_row
        if players is None:
            return orders, np.broadcast_to(sizes, (len(orders), len(sizes)))
        by_player = np.argsort(players, kind="stable")
        counts = np.bincount(players, minlength=self.n_players)
        starts = np.cumsum(counts) - counts
        rows_of = [by_player[start : start + n] for start, n in zip(starts, counts, strict=True)]
        row_orders = np.stack([np.concatenate([rows_of[p] for p in order]) for order in orders])
        ends = np.cumsum(counts[orders], axis=1)[:, sizes - 1]
        return row_orders, ends

    def _settle(
        self,
        rows_of: Callable[[list[int]], NDArray[np.bool_]],
        sizes: NDArray[np.intp],
        scores: NDArray[np.float64],
        errors: dict[int, str],
    ) -> NDArray[np.float64]:
        """Replace failures by the fallback rule and count them; ``sizes`` are in players."""
        failed = dict(errors)
        for bad in np.flatnonzero(~are_usable(scores)).tolist():
            failed.setdefault(bad, f"the score is {scores[bad]}")
        is_large = 2 * sizes >= self.n_players
        record = current_record()
        record.n_large += int(is_large.sum())
        scores = np.array(scores, dtype=np.float64)
        refused = list(failed)
        for start in range(0, len(refused), _REFUSED_AT_ONCE):
            where = refused[start : start + _REFUSED_AT_ONCE]
            scores[where] = self.fallback.refused(rows_of(where), [failed[j] for j in where])
        for j, error in failed.items():
            record.refused[error, bool(is_large[j])] += 1
        return scores

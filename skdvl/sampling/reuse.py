"""The reuse read-out: values from coalitions of random sizes, each used for all players."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from skdvl.sampling.base import Estimate, Game, SamplingScheme
from skdvl.sampling.draw_table import DrawTable, sizes_enumerated_by
from skdvl.sampling.enumeration import enumerated_sums
from skdvl.sampling.laws import law_of_rows
from skdvl.sampling.log import Chunk, EvaluationLog
from skdvl.sampling.members import count_members
from skdvl.semivalues import Semivalue, size_weights

__all__ = [
    "all_is_enumerated",
    "estimate_by_reuse",
    "estimate_without_draws",
    "interval_caveat",
    "known_part",
    "read_out",
    "reuse_efficiency",
    "reuse_telling_draws",
]

_MIN_EVALS_FOR_INTERVALS = 4  # per player
_MAX_FLOATS = 2**16  # of draws turned into floats at a time: they stay in the processor's cache
_FEW_FLOATS = 2**12  # making a sparse matrix takes as long as this many sums
_NEGLIGIBLE = 1e-15

Floats = NDArray[np.float64]
Weights = tuple[Floats, Floats]  # m and a of `skdvl.semivalues.size_weights`


def estimate_by_reuse(
    scheme: SamplingScheme,
    game: Game,
    target: Semivalue,
    log: EvaluationLog,
    has_baseline: bool = True,
) -> Estimate:
    """Estimate a semivalue from independent coalitions, given their sizes.

    Parameters
    ----------
    scheme : SamplingScheme
        Draws uniform coalitions of the sizes that its chunks' laws give.
    game : Game
    target : Semivalue
    log : EvaluationLog
    has_baseline : bool, default=True
        Whether the mean utility of the coalition's size is subtracted from each utility.

    Returns
    -------
    Estimate
        With standard errors from the spread of the draws' contributions within strata of sizes.
    """
    table = DrawTable.of(scheme, game, log)
    m, _ = weights = size_weights(target.size_distribution(game.n_players))
    values = known_part(scheme, weights, log, table)
    is_exact = all_is_enumerated(weights, table)
    if not len(table.sizes):
        return estimate_without_draws(values, is_exact)
    residuals = table.utilities
    if has_baseline:
        curves = table.curves()
        residuals = residuals - curves[table.blocks, table.sizes]
        values += np.sum(m * table.shares() * curves)
    sums, variances = read_out(scheme, weights, log, table, residuals)
    caveat = None if is_exact else interval_caveat(log)
    return Estimate(values + sums, np.sqrt(variances), math.inf, caveat, is_exact)


def known_part(
    scheme: SamplingScheme, weights: Weights, log: EvaluationLog, table: DrawTable
) -> Floats:
    """Return what ∅, N and the enumerated sizes add to the values."""
    m, a = weights
    game = table.game
    values = np.full(game.n_players, m[0] * game.empty + m[-1] * game.full)
    if not table.is_known.any():
        return values
    for _, draws, utilities in log.replay(scheme, enumerated=True):
        coalitions = draws.astype(bool, copy=False)
        known = table.is_known[count_members(coalitions)]
        values += enumerated_sums(game, m, a, coalitions[known], utilities[known])
    return values


def estimate_without_draws(values: Floats, is_exact: bool) -> Estimate:
    """Return what is known before anything was drawn: exact if that is all that matters."""
    errors = np.full(len(values), 0.0 if is_exact else np.nan)
    return Estimate(values, errors, is_exact=is_exact)


def all_is_enumerated(weights: Weights, table: DrawTable) -> bool:
    """Tell whether all coalitions on which a semivalue depends were evaluated."""
    m, a = weights
    matters = (m != 0) | (a != 0)
    return bool((table.is_known | ~matters)[1:-1].all())


def interval_caveat(log: EvaluationLog, needed: int = _MIN_EVALS_FOR_INTERVALS) -> str | None:
    """Say why intervals from so few draws cannot be trusted, None if they can.

    Parameters
    ----------
    log : EvaluationLog
    needed : int
        Evaluations per player from which they can.
    """
    n_evals = log.n_evals + 2  # as the budget counts them, with ∅ and N
    if n_evals >= needed * log.n_players:
        return None
    return (
        f"{n_evals} evaluations are too few for intervals of {log.n_players} players: at "
        f"least {needed} per player are needed."
    )


def read_out(
    scheme: SamplingScheme,
    weights: Weights,
    log: EvaluationLog,
    table: DrawTable,
    residuals: Floats,
) -> tuple[Floats, Floats]:
    """Sum what draws contribute to players: t_ij = inside_j · 1[i in S_j] + outside_j.

    A stratum of g draws adds g / (g - 1) · (sum t² - (sum t)² / g) to the variance. A pair of
    complements contributes as one draw.

    Returns
    -------
    sums, variances : ndarray of shape (n_players,)
        The variances are NaN where a draw is alone in its stratum: it shows no spread.
    """
    m, a = weights
    weight = table.weights()
    scale = residuals * weight
    inside = a[table.sizes] * scale
    outside = m[table.sizes] * scale - inside * table.sizes / log.n_players
    strata = table.strata()
    n_rows = scheme.rows_per_draw
    if n_rows == 2:
        outside = outside[0::2] + outside[1::2] + inside[1::2]
        inside = inside[0::2] - inside[1::2]
        strata = table.of_firsts().strata()
    n_of_stratum = np.bincount(strata).astype(np.float64)
    is_alone = n_of_stratum[strata] == 1
    correction = n_of_stratum / np.maximum(n_of_stratum - 1, 1)
    per_draw = correction[strata]
    leverage = per_draw * (inside + 2 * outside)
    of_stratum = np.asarray(np.bincount(strata, weights=outside), dtype=np.float64)
    sums = np.repeat(of_stratum[:, np.newaxis], log.n_players, axis=1)
    squares = np.full(log.n_players, np.sum(per_draw * outside**2))
    step = max(1, _MAX_FLOATS // log.n_players)
    floats = np.empty((step, log.n_players))  # once: fresh memory costs as much as the sums
    start = 0
    for _, coalitions, _ in log.replay(scheme, enumerated=False):
        firsts = coalitions[::n_rows]
        for first in range(0, len(firsts), step):
            part = floats[: len(firsts) - first]
            part[:] = firsts[first : first + step]
            mine = slice(start, start + len(part))
            sums += _sum_by_stratum(inside[mine], strata[mine], len(sums), part)
            squares += (leverage[mine] * inside[mine]) @ part
            start += len(part)
    variances = squares - (correction / n_of_stratum) @ sums**2
    if (weight[::n_rows][is_alone] > 0).any():
        variances[:] = np.nan
    return sums.sum(axis=0), np.maximum(variances, 0.0)


def _sum_by_stratum(
    inside: Floats, strata: NDArray[np.intp], n_strata: int, members: Floats
) -> Floats:
    """Return what draws add inside for each stratum and player, shape (n_strata, n_players).

    Both ways add draw after draw, and products with 0 and 1 are exact: the bits are the same.
    """
    n_draws, n_players = members.shape
    if members.size > _FEW_FLOATS:
        by_stratum = sparse.csc_array((inside, strata, np.arange(n_draws + 1)), (n_strata, n_draws))
        return np.asarray(by_stratum @ members)
    cells = strata[:, np.newaxis] * n_players + np.arange(n_players)
    terms = inside[:, np.newaxis] * members
    sums = np.bincount(cells.ravel(), weights=terms.ravel(), minlength=n_strata * n_players)
    return np.asarray(sums.reshape(n_strata, n_players), dtype=np.float64)


def mean_law(chunks: Sequence[Chunk]) -> Floats:
    """Return the mixture of the chunks' laws, weighted by the number of draws from each."""
    laws = [chunk.law for chunk in chunks if chunk.law is not None]
    return np.average(laws, axis=0, weights=[chunk.n_draws for chunk in chunks])


def reuse_efficiency(
    n_players: int, target: Semivalue, chunks: Sequence[Chunk], rows_per_draw: int
) -> float:
    """Return (sum s)² / sum(s² / r), s_k = a_k sqrt(pi_k (1 - pi_k)), r the chunks' mean law."""
    s, law = _weights_and_law(n_players, target, chunks, rows_per_draw)
    needed = s > 0
    if not needed.any():
        return 1.0
    if (law[needed] == 0).any():
        return 0.0
    return float(s.sum() ** 2 / np.sum(s[needed] ** 2 / law[needed]))


def reuse_telling_draws(
    n_players: int, target: Semivalue, chunks: Sequence[Chunk], rows_per_draw: int
) -> float:
    """Return (sum v)² / sum(v² / h), v_k = s_k² / r_k the part of size k in the variance.

    h_k is how many draws of the size have a player on the smaller side, of members or others: the
    terms of those are large, and the others show nothing of their spread.
    """
    s, law = _weights_and_law(n_players, target, chunks, rows_per_draw)
    needed = s > 0
    if not needed.any():
        return math.inf
    if (law[needed] == 0).any():
        return 0.0
    k = np.arange(n_players + 1)[needed]
    n_rows = rows_per_draw * sum(chunk.n_draws for chunk in chunks if chunk.half >= 0)
    hits = n_rows * law[needed] * np.minimum(k, n_players - k) / n_players
    v = s[needed] ** 2 / law[needed]
    return float(v.sum() ** 2 / np.sum(v**2 / hits))


def _weights_and_law(
    n_players: int, target: Semivalue, chunks: Sequence[Chunk], rows_per_draw: int
) -> tuple[Floats, Floats]:
    """Return s and r for all sizes; s is 0 where it is negligible or the size is enumerated."""
    _, a = size_weights(target.size_distribution(n_players))
    share = np.arange(n_players + 1) / n_players
    s = a * np.sqrt(share * (1 - share))
    s[s <= _NEGLIGIBLE * s.sum()] = 0.0
    s[sizes_enumerated_by(n_players, chunks)] = 0.0
    drawn = [chunk for chunk in chunks if chunk.half >= 0]
    return s, law_of_rows(mean_law(drawn), rows_per_draw) if drawn else np.zeros_like(s)

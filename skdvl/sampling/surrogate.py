"""A linear model of the utilities, fitted for each block of draws on the other blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skdvl.sampling.draw_table import DrawTable

__all__ = ["LinearSurrogate", "fit_surrogates"]

_N_BANDS = 5
_SHARED = 0.2  # of the variance of a player's effect, what is common to all sizes
_RIDGE = 2.0  # as if a third of the variance of a size's utilities were linear in membership
_N_STEPS = 6
_NEGLIGIBLE = 1e-12
_MOST_KEPT = 2**20  # numbers: 8 MB

Floats = NDArray[np.float64]
Parts = Callable[[], Iterator[NDArray[np.bool_]]]


@dataclass(frozen=True, eq=False)
class LinearSurrogate:
    """What a player adds to the utility of a coalition, for each block and as it may know it.

    A coalition of size k has the utility :math:`curve_k + spread_k · sum_b φ_b(k) (c_b · x)`, with
    :math:`x_i = (1[i in S] - π_k) / sqrt(n π_k (1 - π_k))`.

    Attributes
    ----------
    spread : ndarray of shape (n_blocks, n_players + 1)
    bands : ndarray of shape (n_blocks, n_bands, n_players + 1)
        The functions φ.
    coefficients : ndarray of shape (n_blocks, n_bands, n_players)
    predictions : ndarray of shape (n_draws,)
        Of each draw by its own block's surrogate, without the curve.
    """

    spread: Floats
    bands: Floats
    coefficients: Floats
    predictions: Floats

    def covariances(self, shares: Floats, a: Floats) -> Floats:
        """Return sum over blocks and sizes of share · a · E[(1[i in S] - π_k) · prediction].

        Parameters
        ----------
        shares : ndarray of shape (n_blocks, n_players + 1)
        a : ndarray of shape (n_players + 1,)

        Returns
        -------
        ndarray of shape (n_players,)
        """
        n_players = self.coefficients.shape[2]
        pi = np.arange(n_players + 1) / n_players
        per_size = np.sqrt(n_players * pi * (1 - pi)) / (n_players - 1)
        weights = np.einsum("gk,gbk->gb", shares * a * self.spread * per_size, self.bands)
        # the coefficients of a coalition's players add up to a constant, which tells nothing
        centred = self.coefficients - self.coefficients.mean(axis=2, keepdims=True)
        return np.einsum("gb,gbi->i", weights, centred)


def fit_surrogates(table: DrawTable, curves: Floats, parts: Parts) -> LinearSurrogate:
    """Fit a linear model for each block, by a few steps of conjugate gradients.

    Any coefficients leave the estimate unbiased, so the steps need not converge. What a player
    adds differs between small and large coalitions: the effects are linear splines of the size's
    rank, part of them common to all sizes.

    Parameters
    ----------
    table : DrawTable
    curves : ndarray of shape (n_blocks, n_players + 1)
    parts : callable
        Yields the draws' coalitions, in order, a few at a time.
    """
    n_blocks, n_sizes = table.expected.shape
    spread = table.spreads(curves)
    bands = _bands(table)
    system = _NormalEquations(table, bands, parts)
    # utilities of a size that differ by rounding have a spread that must not be divided by
    spread = np.where(spread > _NEGLIGIBLE * np.abs(table.utilities).max(), spread, 0.0)
    scaled = _ratio(table.utilities - curves[:, table.sizes], spread[:, table.sizes])
    scaled *= table.may_know()
    shape = (n_blocks, bands.shape[1], n_sizes - 1)
    coefficients = np.zeros(shape)
    rest = system.transposed(scaled)
    step = rest.copy()
    length = np.sum(rest**2, axis=(1, 2), keepdims=True)
    for _ in range(_N_STEPS):
        moved = system.gram(step)
        size = _ratio(length, np.sum(step * moved, axis=(1, 2), keepdims=True))
        coefficients += size * step
        rest -= size * moved
        shorter = np.sum(rest**2, axis=(1, 2), keepdims=True)
        step = rest + _ratio(shorter, length) * step
        length = shorter
    own = np.arange(len(table.sizes))
    fitted = system.predict(coefficients)[table.blocks, own]
    return LinearSurrogate(spread, bands, coefficients, fitted * spread[table.blocks, table.sizes])


class _NormalEquations:
    """Products with the design matrix of all blocks, which is never kept.

    Its factor that all blocks share, the scaled memberships, is, where it is small.
    """

    def __init__(self, table: DrawTable, bands: Floats, parts: Parts) -> None:
        self.table = table
        self.parts = parts
        self.known = table.may_know()
        self.phi = bands[:, :, table.sizes]
        pi = table.sizes / table.game.n_players
        self.centre = pi
        self.scale = 1 / np.sqrt(table.game.n_players * pi * (1 - pi))
        self._kept: list[tuple[slice, Floats]] | None = None
        if len(pi) * table.game.n_players <= _MOST_KEPT:
            self._kept = list(self._rows())

    def _rows(self) -> Iterator[tuple[slice, Floats]]:
        if self._kept is not None:
            yield from self._kept
            return
        start = 0
        for part in self.parts():
            mine = slice(start, start + len(part))
            yield mine, (part - self.centre[mine, np.newaxis]) * self.scale[mine, np.newaxis]
            start += len(part)

    def predict(self, coefficients: Floats) -> Floats:
        """Return the predictions of all draws by all blocks, shape (n_blocks, n_draws)."""
        n_blocks, n_bands, n_players = coefficients.shape
        flat = coefficients.reshape(-1, n_players).T
        found = np.empty((n_blocks, len(self.table.sizes)))
        for mine, rows in self._rows():
            by_band = (rows @ flat).T.reshape(n_blocks, n_bands, -1)
            np.add.reduce(by_band * self.phi[:, :, mine], axis=1, out=found[:, mine])
        return found

    def transposed(self, numbers: Floats) -> Floats:
        """Return the transposed design times a number per block and draw."""
        n_blocks, n_bands, _ = self.phi.shape
        found = np.zeros((n_blocks * n_bands, self.table.game.n_players))
        for mine, rows in self._rows():
            weighted = numbers[:, np.newaxis, mine] * self.phi[:, :, mine]
            found += weighted.reshape(n_blocks * n_bands, -1) @ rows
        return found.reshape(n_blocks, n_bands, -1)

    def gram(self, coefficients: Floats) -> Floats:
        """Return (F'F + ridge) times coefficients, F the design of what each block may know."""
        return self.transposed(self.predict(coefficients) * self.known) + _RIDGE * coefficients


def _bands(table: DrawTable) -> Floats:
    """Return a constant and hat functions of the rank of sizes, (n_blocks, n_bands, n_sizes)."""
    reached = np.cumsum(table.of_group, axis=1)
    rank = (reached - table.of_group / 2) / reached[:, -1:] * (_N_BANDS - 1)
    hats = 1 - np.abs(rank[:, np.newaxis, :] - np.arange(_N_BANDS)[:, np.newaxis])
    bands = np.sqrt(1 - _SHARED) * np.maximum(hats, 0.0)
    constant = np.full_like(bands[:, :1], np.sqrt(_SHARED))
    return table.to_blocks(np.concatenate([constant, bands], axis=1))


def _ratio(a: Floats, b: Floats) -> Floats:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)

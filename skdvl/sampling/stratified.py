"""Size-stratified reuse: every evaluation tells something about every player."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skdvl.sampling.base import Estimate, Game, SamplingScheme, next_total, split_into_chunks
from skdvl.sampling.log import Chunk, EvaluationLog
from skdvl.sampling.reuse import N_BLOCKS, estimate_by_reuse, reuse_efficiency
from skdvl.semivalues import Semivalue, Shapley, size_weights

__all__ = ["Stratified", "draw_coalitions", "prior_law"]


@dataclass(frozen=True)
class Stratified(SamplingScheme, name="stratified"):
    r"""Random coalitions of systematically drawn sizes, each used for all players.

    Where orders give one marginal contribution per evaluation, here each evaluation enters the
    value of every player, with the sign of its membership:

    .. math:: \phi_i = \frac{u(N) - u(∅)}{n}
        + \sum_j \frac{a_k (1[i \in S_j] - k/n)(u_j - b_j)}{B \, r_k}, \quad k = |S_j|

    with r the law of the sizes and b a curve of mean utilities per size, fitted without the block
    that j is in. Exactly unbiased for any number of evaluations; Shapley values add up to
    u(N) - u(∅) to rounding. At 1n to 20n evaluations the error was measured at 0.28 to 0.37 of
    that of permutations.

    Examples
    --------
    >>> import skdvl
    >>> result = skdvl.estimate_values(lambda players: len(players) ** 2, n_players=5,
    ...                                method="stratified", max_evals=30, random_state=0)
    >>> round(float(result.values.sum()), 12)
    25.0
    """

    def plan(self, game: Game, target: Semivalue, log: EvaluationLog) -> Sequence[Chunk]:
        """Plan the next round: 2n draws, then half as many again as there are."""
        if game.n_players < 2:
            return ()
        first = 2 * game.n_players
        per_chunk = min(game.evals_per_chunk, first)
        law = prior_law(game.n_players, target)
        n_new = next_total(log.n_draws, first, per_chunk) - log.n_draws
        return split_into_chunks(log, n_new, per_chunk, (law, law))

    def draw(self, n_players: int, chunk: Chunk, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Return uniform random coalitions of the sizes that the law gives."""
        assert chunk.law is not None
        return draw_coalitions(n_players, chunk.law, chunk.n_draws, rng)

    def estimate(self, game: Game, target: Semivalue, log: EvaluationLog) -> Estimate:
        """Read the values out of all evaluations."""
        return estimate_by_reuse(self, game, target, log)

    def efficiency(self, n_players: int, target: Semivalue, chunks: Sequence[Chunk]) -> float:
        """Return (sum s)² / sum(s² / r), with r the mean law of the chunks."""
        return reuse_efficiency(n_players, target, chunks)


def prior_law(n_players: int, target: Semivalue) -> NDArray[np.float64]:
    """Return how sizes are drawn before anything is known of the game.

    For Shapley half uniform, half in proportion to 1/k: small coalitions have the noisiest
    utilities, and are cheap to fit. That is the best law if the standard deviation of utilities
    falls with size in a certain way; under the same assumption it is translated to other
    semivalues.

    Returns
    -------
    ndarray of shape (n_players + 1,)
        0 for the sizes 0 and n_players, whose utilities are known.
    """
    k = np.arange(1, n_players)
    shapley = np.zeros(n_players + 1)
    shapley[1:-1] = 0.5 / len(k) + 0.5 * (1 / k) / (1 / k).sum()
    if isinstance(target, Shapley):
        return shapley
    assumed = shapley[1:-1] / _weights(n_players, Shapley())
    law = np.zeros(n_players + 1)
    law[1:-1] = assumed * _weights(n_players, target)
    return law / law.sum()


def _weights(n_players: int, target: Semivalue) -> NDArray[np.float64]:
    """Return the error that a utility of each size adds to a value, per unit of its own."""
    m, a = size_weights(target.size_distribution(n_players))
    share = np.arange(1, n_players) / n_players
    return np.sqrt(a[1:-1] ** 2 * share * (1 - share) + m[1:-1] ** 2)


def draw_coalitions(
    n_players: int, law: NDArray[np.float64], n_draws: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw coalitions: members uniformly, sizes systematically from a law.

    The draws of a chunk belong in turn to the blocks of the read-out. Sizes are systematic within
    a block and independent between blocks: what the other blocks tell about a size must not
    depend on how often this block has it. They come in random order, so that where a budget ends
    within a chunk, what was evaluated is a random part of it.
    """
    reached = np.cumsum(law)
    largest = np.flatnonzero(law)[-1]
    sizes = np.empty(n_draws, dtype=np.intp)
    for block in range(min(N_BLOCKS, n_draws)):
        n_block = len(range(block, n_draws, N_BLOCKS))
        points = rng.permutation((rng.random() + np.arange(n_block)) / n_block)
        sizes[block::N_BLOCKS] = np.searchsorted(reached, points * reached[-1], side="right")
    members = np.arange(n_players) < np.minimum(sizes, largest)[:, np.newaxis]
    return rng.permuted(members, axis=1)

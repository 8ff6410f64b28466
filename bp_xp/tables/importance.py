"""How much a model needs each column."""

from collections.abc import Callable

import numpy as np

from bp_xp.tables.preparation import Preparation

__all__ = ["permutation_importance"]


def permutation_importance(
    preparation: Preparation,
    x: np.ndarray,
    score: Callable[[np.ndarray], float],
    *,
    repeats: int,
    seed: int,
) -> dict[str, float]:
    """Return how much a score falls when the values of one column are shuffled among the rows.

    Args:
        preparation: knows which inputs come from which column.
        x: inputs, shape (N, features).
        score: a function of the inputs; a higher score is better.
        repeats: how many times each column is shuffled.
        seed: the seed of the shuffles.

    Returns:
        The mean fall of the score by column, the largest first.

    References:
        Breiman, 'Random Forests', Machine Learning 45, 2001; for any model Fisher, Rudin and
        Dominici, 'All Models are Wrong, but Many are Useful', JMLR 20, 2019.
    """
    generator = np.random.default_rng(seed)
    sources = np.array(preparation.sources, object)
    whole = score(x)
    falls = {}
    for name in dict.fromkeys(preparation.sources):
        its = sources == name
        scores = []
        for _ in range(repeats):
            shuffled = x.copy()
            shuffled[:, its] = x[generator.permutation(len(x))][:, its]
            scores.append(score(shuffled))
        falls[name] = whole - float(np.mean(scores))
    return dict(sorted(falls.items(), key=lambda item: -item[1]))

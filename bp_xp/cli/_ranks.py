"""Commands that several processes run together: only rank 0 prints and writes."""

import logging
from types import SimpleNamespace

import click

from bp_xp.backends import Placement
from bp_xp.cli._options import of_run
from bp_xp.cli._program import logger
from bp_xp.ranks import WORDS, Ranks, find_ranks, launched

__all__ = ["distributed_option", "ranks_of"]

distributed_option = of_run(
    "--distributed",
    type=click.Choice(WORDS),
    help="How the processes that share the run communicate; auto uses what has started them.",
)


def ranks_of(given: SimpleNamespace, placement: Placement) -> Ranks:
    """Return the processes that share the run; all but rank 0 log only warnings from now on."""
    if given.distributed is None and (word := launched()):
        logger.warning(
            "this is one of several processes that were started together (%s), and each trains for "
            "itself: --distributed auto lets them share the run.",
            word,
        )
    ranks = find_ranks(given.distributed, placement)
    if ranks.rank:
        logger.setLevel(logging.WARNING)
    return ranks

"""Models of tables in files: a network's file with two additional sections."""

import os
from collections.abc import Mapping

from bp_xp.storage import network_file
from bp_xp.storage.network_file import Section
from bp_xp.tables.card import Card
from bp_xp.tables.preparation import Preparation

__all__ = ["holds_table", "read_sections", "write_sections"]

_PREPARATION, _CARD = "table", "card"


def write_sections(preparation: Preparation, card: Card | None = None) -> dict[str, Section]:
    """Return the sections that the file of a model has besides its network."""
    sections = {_PREPARATION: preparation.to_section()}
    return sections if card is None else sections | {_CARD: card.to_section()}


def read_sections(
    sections: Mapping[str, Section], path: str | os.PathLike[str]
) -> tuple[Preparation | None, Card | None]:
    """Return what :func:`write_sections` wrote, and None for a missing section.

    Args:
        sections: the sections of a file.
        path: the file, for messages.

    Raises:
        CheckpointError: a section is not complete.
    """
    try:
        preparation = sections.get(_PREPARATION)
        card = sections.get(_CARD)
        return (
            preparation and Preparation.from_section(preparation),
            card and Card.from_section(card),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise network_file.unfit(path, "be read as a model of tables", error) from error


def holds_table(path: str | os.PathLike[str]) -> bool:
    """Return whether a file holds a model of tables, and not only a network.

    Raises:
        CheckpointError: it holds neither.
        OSError: it can't be read.
    """
    return _PREPARATION in network_file.read(path).others

"""The parts of what is exported."""

from bp_xp.network import Network
from bp_xp.tables import Preparation, TableModel

__all__ = ["parts_of"]


def parts_of(model: Network | TableModel) -> tuple[Network, Preparation | None]:
    """Return the network of a model, and the preparation of a model of tables.

    Raises:
        TypeError: it is not such a model.
        ValueError: it has learned nothing yet.
    """
    if isinstance(model, TableModel):
        preparation = model._fitted
        return model.network, preparation
    if not isinstance(model, Network):
        raise TypeError(
            f"a Network or a TableModel can be exported, not a {type(model).__name__} (of an "
            "estimator, pass to_network(estimator))."
        )
    return model, None

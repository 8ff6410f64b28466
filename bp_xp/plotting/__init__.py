"""Pictures of networks, of their training and of their errors (matplotlib: the extra ``plot``).

Every function draws on the Axes or the Figure that it is given, using only these objects, and
changes no setting of matplotlib. Without one it opens a new figure with ``pyplot``: a notebook then
shows it, ``pyplot.show()`` finds it, and ``pyplot.close()`` frees it.

A picture with one panel takes ``ax`` and returns it:
``confusion_matrix(net, x, y).figure.savefig(...)``. A picture with several panels takes ``figure``
and returns its Axes by name: ``training_curves(history)["accuracy"]``. (A notebook would show a
returned figure twice.) Fonts, and the colors of text and background, are those of your own style.
"""

from bp_xp.plotting.classes import confusion_matrix, decision_regions
from bp_xp.plotting.curves import gradient_flow, training_curves
from bp_xp.plotting.graph import network_graph
from bp_xp.plotting.images import first_layer_weights, misclassified
from bp_xp.plotting.importance import column_importance
from bp_xp.plotting.sweeps import sweep_curves, sweep_heat_map

__all__ = [
    "column_importance",
    "confusion_matrix",
    "decision_regions",
    "first_layer_weights",
    "gradient_flow",
    "misclassified",
    "network_graph",
    "sweep_curves",
    "sweep_heat_map",
    "training_curves",
]

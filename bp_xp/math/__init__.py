"""The mathematics: pure functions of arrays, for any namespace ``xp``. Read it in this order.

``equations`` (the weighted input and BP1 to BP4), ``activations`` and ``costs``, ``backprop`` (the
trace forward, the loop backward), ``initializers``, ``regularization``, ``dropout``, ``metrics``.
``freshness`` tells which arrays may be written to.

Nothing here knows a library, a device or a network's user: arrays come in, arrays go out.
"""

__all__: list[str] = []

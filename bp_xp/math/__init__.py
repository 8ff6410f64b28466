"""The mathematics: pure functions of arrays, for any namespace ``xp``. Read it in this order.

``equations`` (the weighted input and BP1 to BP4), ``activations`` and ``costs``, ``backprop`` (the
forward trace, the backward loop), ``initializers``, ``regularization``, ``dropout``, ``metrics``.
``freshness`` determines which arrays may be overwritten.

Nothing here depends on a library, a device or the user of a network: functions take arrays and
return arrays.
"""

__all__: list[str] = []

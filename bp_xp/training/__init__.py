"""Training: the step, what drives a run, and what is kept of it. Read it in this order.

``step`` (a pure function of arrays), ``looks`` (steps, chunk by chunk, and the looks between them),
``trainer`` (drives every run, and tells its observers), ``fitting`` (from the arguments of ``fit``
to a run). Beside them ``arguments`` (what people pass becomes settings), ``evaluation``,
``prediction``, ``history``, ``callbacks``, ``checkpoint``, ``progress``, ``divergence`` and
``reduction``.
"""

__all__: list[str] = []

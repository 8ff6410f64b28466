"""Training: the step, the code that drives a run, and its records. Read it in this order.

``step`` (a pure function of arrays), ``looks`` (steps, chunk by chunk, and the looks between them),
``trainer`` (drives every run, and notifies its observers), ``fitting`` (turns the arguments of
``fit`` into a run). The other modules are ``arguments`` (turns user arguments into settings),
``evaluation``, ``prediction``, ``history``, ``callbacks``, ``checkpoint``, ``progress``,
``divergence`` and ``reduction``.
"""

__all__: list[str] = []

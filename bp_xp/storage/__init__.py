"""Files: written whole or not at all, verified when they are read.

``files`` replaces a file in one step, ``tensors`` is the format (safetensors with a digest),
``network_file`` says what is in the file of a network or a run.
"""

__all__: list[str] = []

"""Files: written completely or not at all, and verified when they are read.

``files`` replaces a file in one step, ``tensors`` is the format (safetensors with a digest),
``array_file`` writes arrays row by row, ``network_file`` defines the content of the file of a
network or a run, and ``book_file`` that of a network of the book.
"""

__all__: list[str] = []

"""Files: written whole or not at all, verified when they are read.

``files`` replaces a file in one step, ``tensors`` is the format (safetensors with a digest),
``array_file`` writes arrays row by row, ``network_file`` says what is in the file of a network or a
run, ``book_file`` what is in that of a network of the book.
"""

__all__: list[str] = []

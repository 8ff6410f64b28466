"""array_api_strict: the checker of the standard, whose devices stand in for a GPU."""

__all__: list[str] = []

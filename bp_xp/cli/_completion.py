"""Shell completion that click does not provide: names of this library, and files."""

from collections.abc import Callable, Iterable
from typing import Any

from click.shell_completion import CompletionItem

__all__ = ["complete"]


def complete(
    names: Iterable[str] = (), *, files: bool = False
) -> Callable[[Any, Any, str], list[CompletionItem]]:
    """Return a function that completes an option or argument with names, files, or both."""
    known = list(names)

    def completions(ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        # bash drops the completions that come before files.
        found = [CompletionItem(incomplete, type="file")] if files else []
        return found + [CompletionItem(name) for name in known if name.startswith(incomplete)]

    return completions

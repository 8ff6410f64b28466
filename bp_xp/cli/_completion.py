"""What a shell completes where click does not know it: names of this library, and files."""

from collections.abc import Callable, Iterable
from typing import Any

from click.shell_completion import CompletionItem

__all__ = ["complete"]


def complete(
    names: Iterable[str] = (), *, files: bool = False
) -> Callable[[Any, Any, str], list[CompletionItem]]:
    """Return what completes an option or an argument: by names, by files, or by both."""
    known = list(names)

    def completions(ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        # bash forgets what comes before files.
        found = [CompletionItem(incomplete, type="file")] if files else []
        return found + [CompletionItem(name) for name in known if name.startswith(incomplete)]

    return completions

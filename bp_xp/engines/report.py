"""The report of an engine on a run: how mini-batches were taken, and why not in a faster way."""

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Account", "Report"]

logger = logging.getLogger("bp_xp")


@dataclass
class Account:
    """How the mini-batches of one shape were taken.

    Attributes:
        steps: the number of steps taken.
        plain: the number of these that the plain loop took.
        before: the number of steps that the run took before it was resumed.
        reason: why the plain loop took steps; empty if it took none.
        program: returns the text of the program that took the others; None without one.
        remark: a remark on these steps, or empty.
    """

    steps: int = 0
    plain: int = 0
    before: int = 0
    reason: str = ""
    program: Callable[[], str] | None = None
    remark: str = ""

    @property
    def fast(self) -> int:
        """Steps taken in the engine's own way."""
        return self.steps - self.plain

    def __getstate__(self) -> dict[str, Any]:
        # The function that writes the text refers to objects of an engine that cannot be pickled.
        text = self.program and functools.partial(str, self.program())
        return vars(self) | {"program": text}


@dataclass
class Report:
    """Which engine took the steps of a run, and how; prints as a few lines.

    Attributes:
        engine: the name of the engine.
        way: how it takes steps, in a few words.
        why: why this engine is used, if the library has no faster one or another was requested.
        accounts: how the mini-batches of each shape were taken.
        epoch: returns the number of mini-batches of so many rows in an epoch; None if unknown.
        rows: the number of rows in the current mini-batches, of which this process may take a
            share; 0 if it is not set. Accounts and programs are for whole mini-batches, so that all
            processes that share a run take a step in the same way.
        unfused: elementwise functions that could not be fused into one operation in the plain loop,
            by name, with the reason.
    """

    engine: str
    way: str
    why: str = ""
    accounts: dict[tuple[int, ...], Account] = field(default_factory=dict)
    epoch: dict[int, int] | None = field(default_factory=dict)
    rows: int = 0
    unfused: dict[str, str] = field(default_factory=dict)

    def whole(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the whole mini-batch of which this process takes a share."""
        if not self.rows or len(shape) < 2:
            return tuple(shape)
        return (*shape[:-2], self.rows, shape[-1])

    def account(self, shape: Sequence[int]) -> Account:
        """Return the account of the mini-batches of a shape."""
        return self.accounts.setdefault(self.whole(shape), Account())

    def fall_back(self, shape: tuple[int, ...], reason: str, *, expected: bool = False) -> None:
        """Note why the plain loop takes the mini-batches of a shape, and log it once.

        Args:
            shape: that of a mini-batch.
            reason: why.
            expected: whether this is normal, as for a network that would not be faster with the
                engine; otherwise it is logged as a warning.
        """
        account = self.account(shape)
        if account.reason != reason:
            account.reason = reason
            logger.log(
                logging.INFO if expected else logging.WARNING,
                "the plain loop takes mini-batches of shape %s in place of the %s engine: %s",
                self.whole(shape),
                self.engine,
                reason,
            )

    @property
    def ran(self) -> str:
        """The name of the engine that took steps; ``"plain"`` if the plain loop took all."""
        taken = self.accounts.values()
        only_plain = any(one.plain for one in taken) and not any(one.fast > 0 for one in taken)
        return "plain" if only_plain else self.engine

    @property
    def program(self) -> str:
        """The text of the programs that took steps; empty if there are none."""
        programs = [one.program for one in self.accounts.values() if one.program is not None]
        return "\n\n".join(write() for write in programs)

    def __str__(self) -> str:
        why = f" ({self.why})" if self.why else ""
        lines = [f"engine {self.engine}: {self.way}{why}"]
        for shape, one in self.accounts.items():
            remark = f" ({one.remark})" if one.remark else ""
            parts = [f"{one.fast} steps this way{remark}"] if one.fast > 0 else []
            if one.plain:
                why = f" ({one.reason})" if one.reason else ""
                parts.append(f"{one.plain} steps in the plain loop{why}")
            size = " × ".join(map(str, shape))
            lines.append(f"  mini-batches of {size}: {', '.join(parts) or 'none yet'}")
        lines += [f"  {name} is not fused: {reason}" for name, reason in self.unfused.items()]
        return "\n".join(lines)

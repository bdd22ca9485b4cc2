"""Let the agent do builtins that another thread asks for, one after the other, before the payload.

The loop belongs to the machine's thread, and so this one hears of each order through a pipe.
"""

from __future__ import annotations

import os
from functools import partial

from apppot.agent.loop import READ
from apppot.agent.task import Task
from apppot.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from apppot.agent.session import Session


@dataclass(frozen=True)
class Order:
    """A builtin, and the descriptor that it writes to. `then` is told why it failed, or ''."""

    words: tuple[bytes, ...]
    target: int
    then: Callable[[str], None]


class Serving:
    """What is ordered until the pipe `bell` ends; each byte of it stands for an order."""

    trouble = ""  # that of an order is told to who has ordered

    def __init__(self, session: Session, bell: int, orders: Callable[[], Order]) -> None:
        self._session, self._bell, self._orders = session, bell, orders
        self._task: Task | None = None
        self._then: Callable[[], None] = lambda: None

    def begin(self, then: Callable[[], None]) -> None:
        """Serve; `then` is called when no more orders can come."""
        self._then = then
        self._session.loop.watch(self._bell, READ, lambda _: self._heard())

    def _heard(self) -> None:
        if os.read(self._bell, 1):
            order = self._orders()
            ended = partial(self._ended, order)
            self._task = Task(self._session, order.words, ended, target=order.target)
        else:
            self._session.loop.unwatch(self._bell)
            self._then()

    def _ended(self, order: Order) -> None:
        order.then(self._task.trouble if self._task else "")

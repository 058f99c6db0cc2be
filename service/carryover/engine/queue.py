"""Where a model's operations wait for their turn: long ones apart, so that they hold up no short one."""

from collections import Counter
from collections.abc import Sequence
from functools import partial

from carryover.engine.batcher import Batcher
from carryover.engine.costs import SMALL, Costs, elements_of
from carryover.engine.limits import Limits
from carryover.engine.operations import Operation
from carryover.engine.transaction import Transaction


class Queue:
    """Two batchers: of the operations that are expected to be long, and of all others.

    While a session has a long operation, its others wait with that: in another batch they would change the session
    again and again before the long one, which would lose the race each time.
    """

    def __init__(self, transaction: Transaction, costs: Costs, limits: Limits) -> None:
        self._costs = costs
        self._limit = limits.batch
        self._ordinary = Batcher[Operation](transaction.process, limits.batch, limits.queue)
        self._aside = Batcher[Operation](partial(transaction.process, aside=True), limits.batch, limits.queue)
        self._sessions_aside: Counter[str] = Counter()

    @property
    def waiting(self) -> int:
        """How many requests wait for a batch."""
        return self._ordinary.waiting + self._aside.waiting

    def run(self, operations: Sequence[Operation]) -> None:
        """Return when all operations are finished.

        Raises:
            OverloadedError: too many wait already; none was run.

        """
        if self._is_aside(operations, elements_of(operations)):
            self._run_aside(operations)
        else:
            self._ordinary.run(operations)

    def _is_aside(self, operations: Sequence[Operation], elements: int) -> bool:
        """Whether operations are long, by their inputs' elements or their number, or one of their sessions is held."""
        if (elements > SMALL or self._costs.any_held) and self._costs.aside(elements):
            return True
        held = self._sessions_aside
        return len(operations) > self._limit or (bool(held) and any(each.session in held for each in operations))

    def _run_aside(self, operations: Sequence[Operation]) -> None:
        sessions = [operation.session for operation in operations if operation.session]
        self._sessions_aside.update(sessions)
        try:
            self._aside.run(operations)
        finally:
            self._sessions_aside.subtract(sessions)
            self._sessions_aside = +self._sessions_aside

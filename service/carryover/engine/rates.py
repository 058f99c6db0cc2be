"""Which operations of a batch the rates of their API keys allow."""

from collections.abc import Iterable

from carryover.engine.operations import Operation
from carryover.store import Demand

Demanded = list[tuple[Demand, list[Operation]]]
"""For each key what is asked of its rate, and by which operations."""


def demands(operations: Iterable[Operation]) -> Demanded:
    """Return what operations ask for; nothing where no key has a rate."""
    by_key: dict[str, list[Operation]] = {}
    for operation in operations:
        if operation.charge is not None:
            by_key.setdefault(operation.charge.name, []).append(operation)
    return [(members[0].charge.demand(len(members)), members) for members in by_key.values() if members[0].charge]


def settle(demanded: Demanded) -> None:
    """Give an error to the operations that are too many. The others have paid: not again where they run again."""
    for demand, members in demanded:
        for number, operation in enumerate(members):
            charge = operation.charge
            if charge is None:
                continue
            charge.settle(demand)
            if number < demand.allowed:
                operation.charge = None
            else:
                operation.error = charge.error()

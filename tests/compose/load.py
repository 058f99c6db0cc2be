"""Clients of every kind at once, and what they have seen."""

import time
from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import Any

from tests.compose.clients import (
    AccumulatorClient,
    Actor,
    KeyedSessionClient,
    SessionClient,
    StatelessClient,
    StreamClient,
    Tally,
    totals_of,
)
from tests.compose.terminal import say
from tests.support.client import Client


class Load:
    """Clients of every kind, at work while things break."""

    def __init__(self, port: int) -> None:
        self.stateful = Tally()
        self.stateless = Tally()
        self.writers = [
            [AccumulatorClient(f"accumulator-{number}", port, self.stateful, digit) for digit in range(4)]
            for number in range(3)
        ]
        self.clients: list[Actor] = [
            *chain.from_iterable(self.writers),
            *(SessionClient(f"session-{number}", port, self.stateful, number) for number in range(12)),
            *(KeyedSessionClient(f"keyed-{number}", port, self.stateful, 50 + number) for number in range(8)),
            *(StreamClient(f"stream-{number}", port, self.stateful, 100 + number) for number in range(4)),
            *(StatelessClient(f"stateless-{number}", port, self.stateless, 200 + number) for number in range(4)),
        ]
        self.port = port
        for client in self.clients:
            client.start()

    def during(self, fault: str, happens: Callable[[], None]) -> None:
        """Let something happen, and say what the clients have seen of it."""
        tallies = (self.stateful, self.stateless)
        asked = -sum(tally.requests for tally in tallies)
        errors, applied = self.errors(), self.applied()
        for tally in tallies:
            tally.slowest = 0.0
        start = time.monotonic()
        happens()
        seconds = time.monotonic() - start
        asked += sum(tally.requests for tally in tallies)
        errors, applied = self.errors() - errors, self.applied() - applied
        slowest = max(tally.slowest for tally in tallies)
        seen = ", ".join(f"{count} times {error}" for error, count in sorted(errors.items())) or "no errors"
        took_effect = f"; {applied.total()} had taken effect" if applied else ""
        say(f"{fault:<32} {seconds:5.1f} s {asked:6} requests, slowest {slowest:.1f} s: {seen}{took_effect}")

    def end(self) -> None:
        """Stop the clients, and have each compare its account with the service's."""
        for client in self.clients:
            client.stopping.set()
        for client in self.clients:
            client.join(timeout=90)
        for number, writers in enumerate(self.writers):
            with Client(self.port) as connection:
                got: dict[str, Any] = connection.get(f"/v1/accumulators/accumulator-{number}").expect()
            expected = totals_of(writers)
            if not expected.items() <= got.items():
                self.stateful.wrong.append(f"accumulator-{number} is {got}, a plain module {expected}")
        say(
            f"{len(self.clients)} clients: {self.stateful.requests + self.stateless.requests} requests, "
            f"{self.stateful.steps} steps acknowledged, {self.errors().total()} errors seen, "
            f"{self.applied().total()} of which had taken effect; lost or wrong: {len(self.wrong())}"
        )

    def errors(self) -> Counter[str]:
        return self.stateful.errors + self.stateless.errors

    def applied(self) -> Counter[str]:
        return self.stateful.applied + self.stateless.applied

    def wrong(self) -> list[str]:
        """Return everything that must not be."""
        never_ended = [f"{client.name} never ended" for client in self.clients if client.is_alive()]
        return self.stateful.wrong + self.stateless.wrong + never_ended

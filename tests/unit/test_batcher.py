"""What is queued is processed together, in order, and nobody is left waiting."""

from collections.abc import Callable

import gevent
import pytest
from gevent.event import Event
from gevent.socket import socket, socketpair, wait_read

from carryover.engine.batcher import Batcher
from carryover.errors import OverloadedError


class Item:
    """A unit of work that is finished after so many rounds."""

    def __init__(self, name: str, rounds: int = 1) -> None:
        self.name = name
        self.rounds = rounds

    @property
    def finished(self) -> bool:
        return self.rounds <= 0

    @finished.setter
    def finished(self, value: bool) -> None:
        self.rounds = 0 if value else self.rounds


class Processor:
    """Notes what comes to it; waits at the gate where that is closed."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = Event()
        self.gate.set()
        self.fails_with: BaseException | None = None

    def __call__(self, items: list[Item]) -> None:
        self.batches.append([item.name for item in items])
        self.gate.wait()
        if self.fails_with is not None:
            error, self.fails_with = self.fails_with, None
            raise error
        for item in items:
            item.rounds -= 1


@pytest.fixture
def processor() -> Processor:
    return Processor()


@pytest.fixture
def batcher(processor: Processor) -> Batcher[Item]:
    return Batcher(processor, limit=4, capacity=6)


Ask = Callable[..., "gevent.Greenlet[..., None]"]


@pytest.fixture
def ask(batcher: Batcher[Item]) -> Ask:
    """Queues items, one a name, from a greenlet of its own."""

    def start(*items: str | Item) -> "gevent.Greenlet[..., None]":
        work = [item if isinstance(item, Item) else Item(item) for item in items]
        greenlet = gevent.spawn(batcher.run, work)
        gevent.idle()
        return greenlet

    return start


def done(*greenlets: "gevent.Greenlet[..., None]") -> None:
    """Wait for all; raise what any of them raised."""
    gevent.joinall(greenlets, timeout=10, raise_error=True)
    assert all(greenlet.ready() for greenlet in greenlets), "somebody is left waiting"


def test_one_caller_waits_for_nobody(processor: Processor, batcher: Batcher[Item]) -> None:
    items = [Item("a"), Item("b")]
    batcher.run(items)
    assert processor.batches == [["a", "b"]]
    assert all(item.finished for item in items)


def test_those_whose_requests_are_there_join_the_batch(processor: Processor, batcher: Batcher[Item]) -> None:
    """Each waits for its client, whose request the event loop has not looked for yet."""
    pairs = [socketpair() for _ in range(3)]

    def asked(ours: socket, name: str) -> None:
        ours.recv(1)
        batcher.run([Item(name)])

    waiting = [gevent.spawn(asked, ours, name) for (ours, _), name in zip(pairs, "bcd", strict=True)]
    gevent.sleep(0)
    for _, theirs in pairs:
        theirs.send(b"x")
    batcher.run([Item("a")])
    gevent.joinall(waiting, raise_error=True)
    assert [sorted(batch) for batch in processor.batches] == [["a", "b", "c", "d"]]
    for pair in pairs:
        for end in pair:
            end.close()


def test_a_leader_does_not_wait_until_nothing_else_happens(processor: Processor, batcher: Batcher[Item]) -> None:
    one, other = socketpair()
    other.send(b"never read")
    turns = 0

    def busy() -> None:
        nonlocal turns
        while not processor.batches and turns < 1000:
            wait_read(one.fileno())
            turns += 1

    working = gevent.spawn(busy)
    gevent.sleep(0)
    batcher.run([Item("a")])
    working.join()
    assert processor.batches == [["a"]]
    assert turns < 5
    one.close()
    other.close()


def test_those_that_come_during_a_batch_share_the_next(processor: Processor, ask: Ask) -> None:
    processor.gate.clear()
    callers = [ask("a"), ask("b"), ask("c"), ask("d")]
    assert processor.batches == [["a"]]
    processor.gate.set()
    done(*callers)
    assert processor.batches == [["a"], ["b", "c", "d"]]


def test_a_batch_is_limited_and_a_callers_items_stay_together(processor: Processor, ask: Ask) -> None:
    processor.gate.clear()
    callers = [ask("a"), ask("b1", "b2", "b3"), ask("c1", "c2"), ask("d")]
    processor.gate.set()
    done(*callers)
    assert processor.batches == [["a"], ["b1", "b2", "b3"], ["c1", "c2", "d"]]


def test_a_caller_with_more_items_than_a_batch_takes_gets_a_batch_of_its_own(
    processor: Processor, batcher: Batcher[Item]
) -> None:
    batcher.run([Item(str(number)) for number in range(20)])
    assert [len(batch) for batch in processor.batches] == [20]


def test_unfinished_items_run_again_before_those_that_wait(processor: Processor, ask: Ask) -> None:
    processor.gate.clear()
    callers = [ask(Item("a", rounds=3)), ask("b"), ask("c")]
    processor.gate.set()
    done(*callers)
    assert processor.batches[0] == ["a"]
    assert processor.batches[1][0] == "a"
    assert sum(batch.count("a") for batch in processor.batches) == 3
    assert [name for batch in processor.batches for name in batch if name != "a"] == ["b", "c"]


def test_only_the_unfinished_items_of_a_caller_run_again(processor: Processor, batcher: Batcher[Item]) -> None:
    batcher.run([Item("a"), Item("b", rounds=2), Item("c")])
    assert processor.batches == [["a", "b", "c"], ["b"]]


def test_a_leader_goes_when_its_own_items_are_finished(processor: Processor, ask: Ask) -> None:
    processor.gate.clear()
    first = ask("a")
    second = ask("b")
    processor.gate.set()
    done(first)
    processor.gate.clear()
    third = ask("c")
    assert first.ready()
    processor.gate.set()
    done(second, third)
    assert [name for batch in processor.batches for name in batch] == ["a", "b", "c"]


def test_one_that_is_killed_while_it_waits_leaves_the_others_served(processor: Processor, ask: Ask) -> None:
    processor.gate.clear()
    leader, victim, other = ask("leader"), ask("victim"), ask("other")
    victim.kill()
    processor.gate.set()
    done(leader, other)
    done(ask("later"))
    served = [name for batch in processor.batches for name in batch]
    assert [name for name in served if name != "victim"] == ["leader", "other", "later"]


def test_all_that_wait_may_be_killed(processor: Processor, ask: Ask) -> None:
    processor.gate.clear()
    leader = ask("leader")
    victims = [ask(str(number)) for number in range(4)]
    gevent.killall(victims)
    processor.gate.set()
    done(leader)
    done(ask("later"), ask("last"))
    assert {"later", "last"} <= {name for batch in processor.batches for name in batch}


def test_a_leader_that_is_killed_leaves_the_others_served(processor: Processor, ask: Ask) -> None:
    processor.gate.clear()
    leader = ask("leader")
    others = [ask("b"), ask("c")]
    leader.kill()
    processor.gate.set()
    done(*others)
    done(ask("later"))
    assert "later" in processor.batches[-1]


def test_the_next_leader_may_be_killed_before_it_leads(processor: Processor, ask: Ask) -> None:
    for turns in range(6):
        processor.gate.clear()
        leader, next_leader, other = ask("leader"), ask("next"), ask("other")
        processor.gate.set()
        for _ in range(turns):
            gevent.sleep(0)
        next_leader.kill()
        done(leader, other)
    done(ask("later"))


def test_a_processor_that_raises_fails_those_of_its_batch_and_no_others(processor: Processor, ask: Ask) -> None:
    processor.gate.clear()
    callers = [ask("a"), ask("b"), ask("c")]
    processor.fails_with = ValueError("broken")
    processor.gate.set()
    gevent.joinall(callers, timeout=10)
    assert isinstance(callers[0].exception, ValueError)
    assert [caller.exception for caller in callers[1:]] == [None, None]
    assert processor.batches == [["a"], ["b", "c"]]
    done(ask("d"), ask("e"))


def test_too_many_are_rejected_untouched_and_taken_again_later(processor: Processor, ask: Ask) -> None:
    processor.gate.clear()
    leader = ask("leader")
    waiting = [ask(str(number)) for number in range(6)]
    surplus = Item("surplus")
    refused = ask(surplus)
    assert isinstance(refused.exception, OverloadedError)
    assert "6" in str(refused.exception)
    assert surplus.rounds == 1
    processor.gate.set()
    done(leader, *waiting)
    done(ask("later"))
    assert "surplus" not in [name for batch in processor.batches for name in batch]


def test_a_caller_with_more_than_may_wait_is_taken_when_nobody_waits(
    processor: Processor, batcher: Batcher[Item]
) -> None:
    batcher.run([Item(str(number)) for number in range(100)])
    assert len(processor.batches[0]) == 100


def test_order_is_that_of_arrival(processor: Processor, ask: Ask) -> None:
    processor.gate.clear()
    callers = [ask(str(number)) for number in range(7)]
    processor.gate.set()
    done(*callers)
    assert [name for batch in processor.batches for name in batch] == [str(number) for number in range(7)]

"""Work that several greenlets want is done once."""

import gevent
import pytest
from gevent.event import Event

from carryover.threads import SingleFlight


def test_work_is_done_once_for_all_who_want_it_at_the_same_time() -> None:
    flights, done, calls = SingleFlight[int](), Event(), list[str]()

    def work() -> int:
        calls.append("work")
        done.wait()
        return len(calls)

    callers = [gevent.spawn(flights.run, "same", work) for _ in range(5)] + [gevent.spawn(flights.run, "other", work)]
    gevent.sleep(0)
    assert len(calls) == 2
    done.set()
    assert [caller.get(timeout=10) for caller in callers] == [2] * 6
    gevent.sleep(0)
    assert flights.run("same", work) == 3


def test_work_is_done_once_for_all_who_are_woken_together() -> None:
    flights, woken, calls = SingleFlight[int](), Event(), list[int]()

    def work() -> int:  # which waits for nothing
        calls.append(1)
        return len(calls)

    def wait() -> int:
        woken.wait()
        return flights.run("same", work)

    callers = [gevent.spawn(wait) for _ in range(5)]
    gevent.sleep(0)
    woken.set()
    assert [caller.get(timeout=10) for caller in callers] == [1] * 5


def test_work_that_fails_fails_for_all_who_wait_for_it() -> None:
    flights, begun = SingleFlight[int](), Event()

    def fail() -> int:
        begun.wait()
        raise LookupError

    def caught() -> bool:
        with pytest.raises(LookupError):
            flights.run(1, fail)
        return True

    callers = [gevent.spawn(caught) for _ in range(3)]
    gevent.sleep(0)
    begun.set()
    assert all(caller.get(timeout=10) for caller in callers)
    gevent.sleep(0)
    assert flights.run(1, lambda: 7) == 7

"""Which trace a request belongs to: what W3C's Trace Context allows, and nothing else."""

import pytest

from carryover.telemetry.traces import Timing, parse

ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (f"00-{ID}-{SPAN}-01", True), (f"00-{ID}-{SPAN}-00", False), (f" 00-{ID}-{SPAN}-03 ", True),
        (f"01-{ID}-{SPAN}-01-more", True), (f"cc-{ID}-{SPAN}-00", False),
    ],
)  # fmt: skip
def test_a_trace_has_its_ids_and_whether_it_is_sampled(header: str, sampled: bool) -> None:
    found = parse(header)
    assert found is not None
    assert (found.id, found.span, found.sampled) == (ID, SPAN, sampled)
    assert parse(found.header) == found


@pytest.mark.parametrize(
    "header",
    [
        None, "", "a", f"ff-{ID}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{ID}-{'0' * 16}-01",
        f"00-{ID.upper()}-{SPAN}-01", f"00-{ID}-{SPAN}", f"00-{ID}-{SPAN}-01-more", f"00-{ID}-{SPAN}-1",
        f"00-{ID}-{SPAN}-01,00-{ID}-{SPAN}-01",
    ],
)  # fmt: skip
def test_a_malformed_header_names_none(header: str | None) -> None:
    assert parse(header) is None


def test_the_stages_of_each_batch_are_noted() -> None:
    timing = Timing()
    timing.note(1, (2, 4, 8, 16))
    timing.note(16, (16, 17, 18, 19))
    assert timing.stages[:4] == [("queue", 1, 2), ("load", 2, 4), ("forward", 4, 8), ("commit", 8, 16)]
    assert [stage for stage, _, _ in timing.stages[4:]] == ["queue", "load", "forward", "commit"]

"""What is known of a version's forwards decides which calls run beside the others."""

from carryover.engine.costs import HELD, SMALL, Costs

QUICK, SLOW = HELD / 10, HELD * 2


def test_a_large_call_is_long_until_one_as_large_was_quick() -> None:
    costs = Costs()
    assert not costs.aside(SMALL)
    assert costs.aside(SMALL * 4)
    costs.learn(((SMALL * 4).bit_length(), 0), QUICK, in_place=False)
    assert not costs.aside(SMALL * 4)
    assert not costs.aside(SMALL * 2)
    assert costs.aside(SMALL * 64)


def test_a_small_call_is_long_where_one_as_small_was() -> None:
    costs = Costs()
    costs.learn((4, 0), SLOW, in_place=False)
    assert costs.aside(8)
    assert costs.aside(100)
    assert not costs.aside(1)


def test_what_becomes_quick_is_soon_taken_for_quick() -> None:
    costs = Costs()
    costs.learn((4, 0), SLOW, in_place=False)
    for _ in range(3):
        costs.learn((4, 0), QUICK, in_place=False)
    assert not costs.aside(8)

"""Memory that was freed is given back to the operating system."""

import platform

import psutil
import pytest

from carryover.server import memory

BLOCK = 100_000
"""Bytes; glibc takes larger blocks from the operating system, and gives them back, each by itself."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_lies_free_below_a_block_that_is_in_use_is_given_back() -> None:
    held = [bytearray(b"x" * BLOCK) for _ in range(1000)]
    last = held.pop()
    process, freed = psutil.Process(), BLOCK * len(held)
    del held
    before = process.memory_info().rss
    memory.trim()
    assert before - process.memory_info().rss > freed / 2
    assert len(last) == BLOCK

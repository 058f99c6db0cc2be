"""Functions run above more C frames than torch walks."""

import ctypes

from carryover.runtime.deep_stack import FRAMES, deep


def test_a_deep_function_runs_above_all_the_frames_that_torch_looks_at() -> None:
    libc = ctypes.CDLL(None)
    found = (ctypes.c_void_p * 4096)()

    def frames() -> int:
        count: int = libc.backtrace(found, len(found))
        return count

    assert deep(frames)() - frames() >= FRAMES

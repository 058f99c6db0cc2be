"""What a crash of the whole machine leaves behind is no hindrance."""

import socket
import time
from pathlib import Path

from carryover.server.embedded_valkey import EmbeddedValkey


def test_a_socket_that_nobody_listens_on_holds_nothing_up(tmp_path: Path) -> None:
    own = EmbeddedValkey(tmp_path)
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(own.url.removeprefix("unix://"))
    start = time.monotonic()
    own.start()
    try:
        assert time.monotonic() - start < 30
    finally:
        own.stop()

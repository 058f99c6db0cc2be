"""Accepting connections, also when the worker is out of file descriptors."""

import errno
import logging
import time
from collections.abc import Callable
from typing import Any

from gevent.server import StreamServer

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE = 0.1
"""Seconds until it tries again."""
_QUIET = 60.0
"""Seconds between two log lines that say the same."""

log = logging.getLogger(__name__)


class Listener(StreamServer):
    """Accepts connections; when it cannot, it frees descriptors, waits and tries again, where gevent logs a traceback.

    New connections wait in the kernel's queue, from which another worker may take them.
    """

    free: Callable[[], None]
    """Closes connections that are idle."""
    _logged = -_QUIET

    def do_read(self) -> Any:
        """Accept a connection; None if there is none, or no descriptor for one."""
        try:
            return super().do_read()
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            self._wait(error)
            return None

    def _wait(self, error: OSError) -> None:
        if time.monotonic() - self._logged > _QUIET:
            self._logged = time.monotonic()
            log.error(
                "cannot accept connections (%s): closing idle ones, new ones wait; raise the limit of open files "
                "(ulimit -n), or run more workers",
                error.strerror,
            )
        Listener.free()
        self.stop_accepting()
        self._timer = self.loop.timer(_PAUSE)
        self._timer.start(self._resume)

    def _resume(self) -> None:
        if self.started:
            self.start_accepting()

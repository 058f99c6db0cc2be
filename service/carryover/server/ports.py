"""Whether the service can listen where it is to, found out before the models are loaded."""

import errno
import os
import shlex
import socket
import sys
from contextlib import closing

from gunicorn.util import parse_address

from carryover.errors import ConfigurationError

_REASONS = {
    errno.EADDRINUSE: "another process listens there; set BIND to another port, or end that process",
    errno.EADDRNOTAVAIL: "this machine has no such address; set BIND to one that it has, or to 0.0.0.0 for all",
    errno.EACCES: "this user may not listen there; set BIND to a port of 1024 or above",
}


def require_free(bind: str) -> None:
    """Check that the address and port of BIND can be listened on.

    Raises:
        ConfigurationError: they cannot, and why.

    """
    if _is_given_otherwise():
        return
    try:
        address = parse_address(bind)
    except RuntimeError as error:
        raise ConfigurationError(f"BIND={bind}: {error}") from None
    if not isinstance(address, tuple) or address[0] == "fd":
        return
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            reason = _REASONS.get(error.errno or 0, error.strerror)
            raise ConfigurationError(f"BIND={bind}: {reason}") from None


def _is_given_otherwise() -> bool:
    """Whether gunicorn listens not at BIND but at what its flags say, or at sockets that it was handed."""
    flags = [*sys.argv[1:], *shlex.split(os.environ.get("GUNICORN_CMD_ARGS", ""))]
    handed = "GUNICORN_FD" in os.environ or "LISTEN_FDS" in os.environ
    return handed or any(flag.startswith(("-b", "--bind")) for flag in flags)

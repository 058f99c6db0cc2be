"""Single server, Sentinel and Cluster behind one small interface; the URL's scheme chooses between them."""

from carryover.store.redis.server import ERRORS, LONG_IDLE
from carryover.store.redis.topology import Command, Topology, UnconfirmedError
from carryover.store.redis.url import connect

__all__ = ["ERRORS", "LONG_IDLE", "Command", "Topology", "UnconfirmedError", "connect"]

"""A client of the service: sessions, streams and accumulators, with every step committed exactly once.

Importing this package imports neither torch, Flask nor gunicorn. It needs the extra `client`.
"""

try:
    import aiohttp as _aiohttp  # noqa: F401 - to say what is missing
except ModuleNotFoundError as error:
    raise ImportError(f"carryover.client needs {error.name}: pip install 'carryover[client]'") from error

from carryover.client.asynchronous import AsyncAccumulator, AsyncClient, AsyncSession
from carryover.client.blocking import Accumulator, Client, Session, Stream
from carryover.client.errors import CertificateError, ClientError, NoResponseError, ProblemError, StreamOrderError
from carryover.client.results import Predictions, SessionInfo, Step, Totals
from carryover.client.retries import Retries
from carryover.client.streams import AsyncStream

__all__ = [
    "Accumulator",
    "AsyncAccumulator",
    "AsyncClient",
    "AsyncSession",
    "AsyncStream",
    "CertificateError",
    "Client",
    "ClientError",
    "NoResponseError",
    "Predictions",
    "ProblemError",
    "Retries",
    "Session",
    "SessionInfo",
    "Step",
    "Stream",
    "StreamOrderError",
    "Totals",
]

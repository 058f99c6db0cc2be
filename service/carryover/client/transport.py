"""Requests over aiohttp, which reads the response to a stream while it still sends the request."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import aiohttp
import orjson
from yarl import URL

from carryover.client.errors import CertificateError, ClientError, NoResponseError, ProblemError
from carryover.client.retries import Attempts, Retries

JSON = "application/json"
NDJSON = "application/x-ndjson"
SAFETENSORS = "application/vnd.safetensors"
_LOST = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError, ConnectionError)
_KEEPALIVE = 60.0
"""Seconds that an idle connection is kept: fewer than the service's 75, which then rarely closes one in use."""
_ERROR = 400


@dataclass(frozen=True)
class Reply:
    """A response that is no problem."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return orjson.loads(self.body)


def encode(value: Any) -> bytes:
    """Encode a value as JSON; arrays, tensors and their numbers are lists and numbers.

    Raises:
        TypeError: it has what is none of these.

    """
    try:
        return orjson.dumps(value, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError as error:
        raise TypeError(str(error.__cause__ or error)) from None


def new_key() -> str:
    """Return an idempotency key that nobody else has."""
    return str(uuid4())


def path_of(*parts: str) -> str:
    """Join the parts of a path, names among them, each quoted."""
    return "".join(f"/{quote(part, safe=':')}" for part in parts)


def lost(error: BaseException) -> NoResponseError:
    """Return the client's error for one of aiohttp's."""
    said = f"there is no response: {str(error) or type(error).__name__}"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return CertificateError(f"{said}; SSL_CERT_FILE names the certificate of an authority of your own")
    return NoResponseError(said)


class Transport:
    """Connections to one service, shared by all that a client hands out."""

    def __init__(self, url: str, headers: Mapping[str, str], timeout: float, retries: Retries) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"the URL {url!r} is invalid; expected http:// or https:// and a host")
        self.timeout = timeout
        self._url = url.rstrip("/")
        self._headers = dict(headers)
        self._retries = retries
        self._http: aiohttp.ClientSession | None = None

    def attempts(self) -> Attempts:
        """Return the attempts of a new call."""
        return Attempts(self._retries)

    async def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send a request until there is a response that is not temporary.

        Raises:
            ProblemError, NoResponseError: the last attempt's.

        """
        attempts = self.attempts()
        while True:
            try:
                return await self.send_once(method, path, body, headers)
            except ClientError as error:
                await attempts.wait(error)

    async def send_once(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send a request once."""
        given = {**self._headers, **({} if body is None else {"Content-Type": JSON}), **(headers or {})}
        try:
            async with self._session().request(method, self._full(path), data=body, headers=given) as response:
                content = await response.read()
        except _LOST as error:
            raise lost(error) from error
        _require_success(response, content)
        return Reply(response.status, content)

    async def open(self, path: str, lines: AsyncIterator[bytes]) -> aiohttp.ClientResponse:
        """Start a stream: return as soon as the head of its response has come."""
        given = {**self._headers, "Content-Type": NDJSON}
        # Only the head is awaited for a limited time: a stream lasts as long as its client has lines.
        forever = aiohttp.ClientTimeout(total=None)
        try:
            async with asyncio.timeout(self.timeout):
                response = await self._session().post(self._full(path), data=lines, headers=given, timeout=forever)
                if response.status >= _ERROR:
                    content = await response.read()
                    # Not released, which would wait for the end of the request.
                    response.close()
                    _require_success(response, content)
        except _LOST as error:
            raise lost(error) from error
        return response

    async def close(self) -> None:
        """Close all connections."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            # Each stream holds a connection: aiohttp's limit of 100 would make the 101st wait for ever.
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE)
            self._http = aiohttp.ClientSession(
                connector=connector, timeout=aiohttp.ClientTimeout(total=self.timeout), raise_for_status=False
            )
        return self._http

    def _full(self, path: str) -> URL:
        return URL(self._url + path, encoded=True)


def _require_success(response: aiohttp.ClientResponse, content: bytes) -> None:
    if response.status >= _ERROR:
        after = response.headers.get("Retry-After", "")
        raise ProblemError.of_response(response.status, response.reason or "", content, after)


def _plain(value: Any) -> Any:
    """Return what is no JSON to orjson: arrays that are not contiguous or of another datatype, torch's tensors."""
    if callable(tolist := getattr(value, "tolist", None)):
        return tolist()
    raise TypeError(f"{type(value).__name__} is not JSON; expected lists, numbers or arrays")

"""The files that pages load: shipped with this package or with another one that is installed."""

from functools import cache
from hashlib import sha256
from http import HTTPStatus
from importlib.resources import files

from werkzeug.http import parse_etags

from carryover.api.inbound import Inbound
from carryover.api.pages import HEADERS
from carryover.api.response import Response
from carryover.api.v2.encodings import compressed

_KEPT = ("Cache-Control", "no-cache")
"""A browser keeps a file and asks each time whether it has changed, so that the files of one version stay together."""


def respond(inbound: Inbound, folder: str, name: str, media_type: str) -> Response:
    """Return a file of a package, compressed on request; 304 if the client has it. `folder` starts with the package."""
    data, tag = _read(folder, name)
    headers = (*HEADERS, _KEPT, ("ETag", f'W/"{tag}"'))
    if parse_etags(inbound.headers.get("if-none-match")).contains_weak(tag):
        return Response(status=HTTPStatus.NOT_MODIFIED, media_type=None, headers=headers)
    return compressed(Response(data, media_type=media_type, headers=headers), inbound)


@cache
def _read(folder: str, name: str) -> tuple[bytes, str]:
    """Return a file's bytes, and a digest of them."""
    package, _, rest = folder.partition("/")
    data = files(package).joinpath(rest, name).read_bytes()
    return data, sha256(data).hexdigest()[:16]

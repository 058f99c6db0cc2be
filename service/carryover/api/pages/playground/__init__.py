"""`/`: a page on which to try every model, in a browser. Its files are beside this one, and use relative URLs."""

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from carryover.api.inbound import Inbound
from carryover.api.pages import CSS, HTML, SCRIPT, SVG, files
from carryover.api.response import JSON, Response
from carryover.api.v2 import health
from carryover.engine import Engine
from carryover.errors import NotFoundError

_FOLDER = "carryover/api/pages/playground"
_MODULES = (
    "accumulator", "charts", "classifier", "digits", "dom", "events", "form", "metrics", "pad", "page", "rows",
    "safetensors", "service", "session", "snippets", "socket", "strip",
)  # fmt: skip
FILES = {"page.css": CSS, "icon.svg": SVG} | {f"{name}.js": SCRIPT for name in _MODULES}
"""What the page loads, and the media types."""
_VARY = ("Vary", "Accept")


def root(engine: Engine, inbound: Inbound) -> Response:
    """Show the playground to a client that accepts HTML; to others, say that the server is alive, as in KServe's V1."""
    if _is_browser(inbound.headers.get("accept", "")):
        return files.respond(inbound, _FOLDER, "page.html", HTML).with_headers(_VARY)
    return health.alive(engine, inbound).with_headers(_VARY)


def asset(_: Engine, inbound: Inbound) -> Response:
    """Return a file that the playground loads."""
    name = inbound.parameters["asset"]
    if name not in FILES:
        raise NotFoundError(f"there is no such file; expected one of {', '.join(FILES)}")
    return files.respond(inbound, _FOLDER, name, FILES[name])


def _is_browser(accept: str) -> bool:
    """Whether an `Accept` header names HTML, and does not prefer JSON to it."""
    accepted = parse_accept_header(accept.lower(), MIMEAccept)
    named = any(value == "text/html" for value, _ in accepted)
    return named and accepted["text/html"] > 0 and accepted["text/html"] >= accepted[JSON]

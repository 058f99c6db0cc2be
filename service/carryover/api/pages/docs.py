"""`/docs`: Swagger UI on this service's OpenAPI document. The files are those of a package, not of another host."""

from functools import cache
from importlib.resources import files

from carryover.api.inbound import Inbound
from carryover.api.pages import CSS, HEADERS, HTML, PNG, SCRIPT
from carryover.api.response import Response
from carryover.api.v2.encodings import compressed
from carryover.engine import Engine
from carryover.errors import NotFoundError

_DIST = "flask_swagger_ui/dist"
FILES = {
    "swagger-ui.css": (_DIST, "swagger-ui.css", CSS),
    "swagger-ui.js": (_DIST, "swagger-ui-bundle.js", SCRIPT),
    "favicon.png": (_DIST, "favicon-32x32.png", PNG),
    "start.js": ("carryover/api/pages", "start.js", SCRIPT),
}
"""What the page loads: the folder of an installed package, the name there and the media type."""
_CACHED = ("Cache-Control", "public, max-age=3600")


def show(_: Engine, inbound: Inbound) -> Response:
    """Show the interface, with forms to try it."""
    page = Response(_read("carryover/api/pages", "docs.html"), media_type=HTML, headers=HEADERS)
    return compressed(page, inbound)


def file(_: Engine, inbound: Inbound) -> Response:
    """Return a file that `/docs` loads."""
    found = FILES.get(inbound.parameters["file"])
    if found is None:
        raise NotFoundError(f"there is no such file; expected one of {', '.join(FILES)}")
    folder, name, media_type = found
    return compressed(Response(_read(folder, name), media_type=media_type, headers=(*HEADERS, _CACHED)), inbound)


@cache
def _read(folder: str, name: str) -> bytes:
    package, _, rest = folder.partition("/")
    return files(package).joinpath(rest, name).read_bytes()

"""`/docs`: Swagger UI on this service's OpenAPI document. The files are those of a package, not of another host."""

from carryover.api.inbound import Inbound
from carryover.api.pages import CSS, HTML, PNG, SCRIPT, files
from carryover.api.response import Response
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


def show(_: Engine, inbound: Inbound) -> Response:
    """Show the interface, with forms to try it."""
    return files.respond(inbound, "carryover/api/pages", "docs.html", HTML)


def file(_: Engine, inbound: Inbound) -> Response:
    """Return a file that `/docs` loads."""
    found = FILES.get(inbound.parameters["file"])
    if found is None:
        raise NotFoundError(f"there is no such file; expected one of {', '.join(FILES)}")
    return files.respond(inbound, *found)

"""`/docs` shows the OpenAPI document with nothing from other hosts; no page is framed or runs foreign scripts."""

import re
import zlib

import pytest

from carryover.api.pages.docs import FILES
from tests.support.client import Client, problem

SOURCES = re.compile(r"""(?:src|href)=["']([^"']+)["']""")


def policy(client: Client, path: str) -> dict[str, str]:
    """The content security policy of a page, by directive."""
    header = client.get(path).headers["Content-Security-Policy"]
    return {name: rest for name, _, rest in (part.strip().partition(" ") for part in header.split(";"))}


def test_all_that_the_page_loads_is_the_services_own(client: Client) -> None:
    page = client.get("/docs")
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    loaded = SOURCES.findall(page.body.decode())
    assert {"docs/swagger-ui.css", "docs/swagger-ui.js", "docs/start.js", "openapi.json"} <= set(loaded)
    for path in loaded:
        found = client.get(f"/{path}")
        assert (found.status, len(found.body) > 50) == (200, True), path
        assert found.headers["X-Content-Type-Options"] == "nosniff"
    assert b"SwaggerUIBundle" in client.get("/docs/swagger-ui.js").body
    assert b".swagger-ui" in client.get("/docs/swagger-ui.css").body


@pytest.mark.parametrize("path", ["/docs", *(f"/docs/{name}" for name in FILES)])
def test_pages_have_security_headers(client: Client, path: str) -> None:
    directives = policy(client, path)
    assert directives["default-src"] == "'none'"
    assert directives["frame-ancestors"] == "'none'"
    assert not re.search(r"unsafe|https?:|\*", " ".join(directives.values()))
    headers = client.get(path).headers
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Frame-Options"] == "DENY"
    if headers.get_content_maintype() == "text":
        assert headers.get_content_charset() == "utf-8"


def test_the_page_has_no_script_and_no_style_of_its_own(client: Client) -> None:
    page = client.get("/docs").body.decode()
    assert not re.search(r"<style|style=|\bon\w+=|<script>|javascript:", page)


def test_files_are_compressed_on_request(client: Client) -> None:
    plain = client.get("/docs/swagger-ui.js").body
    packed = client.request("GET", "/docs/swagger-ui.js", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert zlib.decompress(packed.body, wbits=31) == plain
    assert len(packed.body) < len(plain) / 2


def test_no_other_file_is_served(client: Client) -> None:
    for name in ("docs.html", "swagger-ui-bundle.js", "..%2Fstart.js", "%2E%2E", "docs.py"):
        problem(client.get(f"/docs/{name}"), 404)

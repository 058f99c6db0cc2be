"""`/` is a page for browsers, and says `{"status": "alive"}` to others. Its files are small and run nothing foreign."""

import re
from importlib.resources import files

import pytest

from carryover.api.pages.playground import FILES
from tests.support.client import Client, problem

FOLDER = files("carryover.api.pages.playground")
TEXTS = {name: FOLDER.joinpath(name).read_text() for name in ("page.html", *FILES)}
MOST = 60_000
"""Bytes of all files together, without the charts."""
CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


def get(client: Client, path: str, **headers: str) -> tuple[int, str, bytes]:
    response = client.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    return response.status, response.headers.get_content_type(), response.body


@pytest.mark.parametrize(
    "accept", [CHROME, "text/html", "text/html, application/json", "text/html;q=0.5, */*;q=0.1", "TEXT/Html"]
)
def test_a_browser_gets_the_page(client: Client, accept: str) -> None:
    status, media_type, body = get(client, "/", Accept=accept)
    assert (status, media_type) == (200, "text/html")
    assert b"<!doctype html>" in body


@pytest.mark.parametrize(
    "accept", [None, "*/*", "application/json", "text/*", "text/html;q=0", "text/html;q=0.5, application/json", "?,;="]
)
def test_other_clients_are_told_that_the_server_is_alive(client: Client, accept: str | None) -> None:
    response = client.request("GET", "/", headers={} if accept is None else {"Accept": accept})
    assert response.expect() == {"status": "alive"}
    assert "Accept" in response.headers["Vary"]


def test_the_page_loads_its_own_files_by_relative_urls(client: Client) -> None:
    loaded = set(re.findall(r"""(?:src|href)=["']([^"'#]+)["']""", TEXTS["page.html"])) - {"docs"}
    assert loaded == {"playground/icon.svg", "playground/page.css", "playground/page.js"}
    imported = {name for text in TEXTS.values() for name in re.findall(r"""from "\./([^"]+)";""", text)}
    assert imported | {"page.js", "page.css", "icon.svg"} == set(FILES)
    for name, media_type in FILES.items():
        response = client.get(f"/playground/{name}")
        assert (response.status, response.headers["Content-Type"]) == (200, media_type)
        assert response.body.decode() == TEXTS[name]


def test_pages_have_a_strict_policy(client: Client) -> None:
    for path in ("/", *(f"/playground/{name}" for name in FILES)):
        headers = client.request("GET", path, headers={"Accept": CHROME}).headers
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';"), path
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_browser_that_has_a_file_does_not_get_it_again(client: Client) -> None:
    tag = client.get("/playground/page.js").headers["ETag"]
    for given in (tag, f'"other", {tag}', tag.removeprefix("W/"), "*"):
        again = client.request("GET", "/playground/page.js", headers={"If-None-Match": given})
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
        assert "Content-Length" not in again.headers
    assert client.request("GET", "/playground/page.js", headers={"If-None-Match": '"other"'}).status == 200


def test_no_other_file_is_served(client: Client) -> None:
    for name in ("page.html", "__init__.py", "..%2Fstart.js", "page.js.map"):
        problem(client.get(f"/playground/{name}"), 404)


def test_all_files_together_are_small() -> None:
    assert sum(len(text.encode()) for name, text in TEXTS.items() if "charts" not in name) < MOST


@pytest.mark.parametrize("name", TEXTS)
def test_no_markup_is_made_from_data_and_no_script_is_inline(name: str) -> None:
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser", TEXTS[name]
    )
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script>|javascript:", TEXTS[name])
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg|doi\.org|github\.com/huggingface)", TEXTS[name])

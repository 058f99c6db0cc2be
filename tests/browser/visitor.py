"""Someone in front of a browser."""

import re
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect

Points = Sequence[tuple[float, float]]

PATIENCE = 20.0
"""Seconds after which a wait fails."""

expect.set_options(timeout=1000 * PATIENCE)

NONE = re.compile("(?!)")
STROKES: dict[str, list[Points]] = {
    "0": [[(0.5, 0.1), (0.3, 0.25), (0.26, 0.5), (0.32, 0.78), (0.52, 0.9), (0.7, 0.75), (0.74, 0.48), (0.5, 0.1)]],
    "1": [[(0.4, 0.3), (0.53, 0.15), (0.52, 0.5), (0.5, 0.88)]],
    "3": [[(0.3, 0.2), (0.5, 0.1), (0.68, 0.2), (0.66, 0.38), (0.46, 0.5), (0.68, 0.58), (0.74, 0.75), (0.58, 0.9),
           (0.3, 0.86)]],
    "7": [[(0.25, 0.14), (0.5, 0.13), (0.75, 0.12), (0.62, 0.45), (0.5, 0.9)], [(0.4, 0.52), (0.72, 0.5)]],
}  # fmt: skip
"""How someone draws digits, in shares of the pad."""


class Visitor:
    """Someone who opens the page in tabs of one browser, and notices errors and requests to other hosts.

    `expected` are console messages that do not count. Settings such as `color_scheme` are playwright's.
    """

    def __init__(self, browser: Browser, url: str, expected: re.Pattern[str] = NONE, **settings: Any) -> None:
        self.url = url
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | settings))
        self.context.on("console", self._listen)
        self.context.on("weberror", lambda error: self.errors.append(str(error.error)))
        self.context.on("request", self._watch)
        self.errors: list[str] = []
        self._expected = expected

    def open(self, where: str = "") -> Page:
        """Open a tab at a part of the page, such as `models/digits-rnn`, and wait until it is there."""
        page = self.context.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(self.url + (f"#/{where}" if where else ""))
        expect(page.locator("main h2")).to_be_visible()
        return page

    def _listen(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not self._expected.search(message.text):
            self.errors.append(message.text)

    def _watch(self, request: Request) -> None:
        found = urlsplit(request.url)
        if found.scheme not in ("data", "blob") and found.netloc != urlsplit(self.url).netloc:
            self.errors.append(f"a request to {request.url}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.context.close()
        if kind is None:
            assert self.errors == [], self.errors


def draw(page: Page, digit: str) -> None:
    """Draw a digit with the mouse."""
    pad = page.get_by_role("application", name="Drawing pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    assert box is not None
    for stroke in STROKES[digit]:
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place, steps=8)
        page.mouse.up()


def press(page: Page, name: str) -> None:
    """Press a button."""
    page.get_by_role("button", name=name, exact=True).click()


def hidden_state(page: Page) -> str | None:
    """What the heat map of the frame of the current step looks like."""
    return page.locator("[aria-current=step] svg.heat").first.inner_html()


def current_step(page: Page, step: int) -> None:
    """Wait until the session is shown at a step."""
    expect(page.get_by_label("Step", exact=True)).to_have_text(str(step))

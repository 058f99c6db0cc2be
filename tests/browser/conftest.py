"""A browser, and a service with two workers, the models that come with it and some of one's own."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, sync_playwright

from tests.browser.visitor import Visitor
from tests.support.carried_cases import CASES
from tests.support.paths import CHECKPOINTS
from tests.support.repository import write_lstm, write_mixed
from tests.support.service import Service


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium or Chrome, without its sandbox, which containers do not allow."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program, "these tests need chromium; on Debian: apt-get install chromium"
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of the models that come with the service, an LSTM, and one of several inputs.

    `normalised` is one of them with labels that are long words.
    """
    folder = tmp_path_factory.mktemp("browser") / "models"
    shutil.copytree(CHECKPOINTS, folder)
    shutil.copytree(CHECKPOINTS / "digits-batchnorm", folder / "normalised")
    manifest = folder / "normalised" / "model.toml"
    manifest.write_text(re.sub(r'"(\d)"', rf'"{"Eichhörnchen" * 5}\1"', manifest.read_text()))
    write_lstm(folder)
    CASES["gru"].write(folder, "constructor")
    _write_large(folder / "large")
    write_mixed(folder)
    return folder


def _write_large(folder: Path) -> None:
    """Write a model with a state of 16 MB."""
    (folder / "1").mkdir(parents=True)
    (folder / "large.py").write_text(
        "import torch\n\n\nclass Large(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        '        self.register_buffer("grid", torch.zeros(4_000_000))\n\n'
        "    def forward(self, x):\n        self.grid = self.grid + x\n        return self.grid[:1]\n"
    )
    (folder / "model.toml").write_text(
        'class = "large.py:Large"\n'
        'inputs = [{ name = "x", datatype = "FP32", shape = [1] }]\n'
        'outputs = [{ name = "y", datatype = "FP32", shape = [1] }]\n'
    )
    torch.save({"grid": torch.zeros(4_000_000)}, folder / "1" / "weights.pt")


@pytest.fixture(scope="session")
def playground(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Service]:
    running = Service(tmp_path_factory.mktemp("playground"), MODEL_REPOSITORY=models)
    try:
        yield running.start()
    finally:
        running.end()


@pytest.fixture
def visitor(browser: Browser, playground: Service) -> Iterator[Visitor]:
    """Someone who opens the page, in as many tabs as they like; nothing may be wrong in any of them."""
    with Visitor(browser, f"http://127.0.0.1:{playground.port}/") as someone:
        yield someone


@pytest.fixture
def unlucky(browser: Browser, playground: Service) -> Iterator[Visitor]:
    """Someone whose connections may break, which a browser notes in its console."""
    with Visitor(browser, f"http://127.0.0.1:{playground.port}/", re.compile("Failed to load|WebSocket")) as someone:
        yield someone

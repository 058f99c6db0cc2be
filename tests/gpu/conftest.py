"""These tests fail where there is no GPU: they are asked for by name."""

import pytest
import torch


def pytest_sessionstart(session: pytest.Session) -> None:
    if not torch.cuda.is_available() and not session.config.option.collectonly:
        pytest.exit("these tests need an NVIDIA GPU and torch's build for it", returncode=1)

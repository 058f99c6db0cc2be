"""Train the detector on the quiet part of the EEG: `python -m examples.detector.train`, about a second."""

from pathlib import Path

import torch
from safetensors import torch as safetensors
from torch import Tensor

from .detector import Detector
from .series import QUIET, eeg

STEPS, WINDOWS, WINDOW = 150, 32, 60


def train(quiet: Tensor) -> Detector:
    """Return a detector trained to forecast each sample of the quiet recording (T, C) from the previous ones."""
    torch.manual_seed(0)
    model = Detector()
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-2, total_steps=STEPS)
    for _ in range(STEPS):
        starts = torch.randint(0, len(quiet) - WINDOW, (WINDOWS,))
        windows = quiet[starts + torch.arange(WINDOW)[:, None]]
        # An EEG that is inverted, amplified or attenuated is a valid EEG too.
        windows = windows * torch.randn(WINDOWS, 1).sign() * (1 + 0.3 * torch.randn(WINDOWS, 1))
        forecasts, _ = model.forecast(windows[:-1] + 0.1 * torch.randn_like(windows[:-1]))
        optimizer.zero_grad()
        torch.autograd.backward((forecasts - windows[1:])[5:].square().mean())
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        forecasts, _ = model.forecast(quiet[:-1, None])
        model.usual.copy_((forecasts[:, 0] - quiet[1:]).square().mean(0).sqrt())
    return model


if __name__ == "__main__":
    torch.set_num_threads(1)
    weights = safetensors.save(train(torch.tensor(eeg()[:QUIET], dtype=torch.float32)).state_dict())
    Path(__file__).with_name("1").mkdir(exist_ok=True)
    Path(__file__).with_name("1").joinpath("weights.safetensors").write_bytes(weights)

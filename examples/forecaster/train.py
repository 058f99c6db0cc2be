"""Train the forecaster on two seconds of a neuron: `python -m examples.forecaster.train`, about a second."""

from pathlib import Path

import torch
from safetensors import torch as safetensors
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from .forecaster import Forecaster
from .series import AHEAD, potential

STEPS = 500


def train(series: Tensor) -> Forecaster:
    """Return a forecaster trained on the whole series (T,) at once, for which the convolution needs no ring buffer."""
    torch.manual_seed(0)
    model = Forecaster()
    model.centre, model.scale = series.mean(), series.std()
    samples = (series - model.centre) / model.scale
    seen, to_come = samples[model.ring.shape[1] - 1 : -AHEAD], samples[model.ring.shape[1] - 1 + AHEAD :]
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=STEPS)
    for _ in range(STEPS):
        change = model.convolution(samples[None, None, :-AHEAD])[0, 0]
        optimizer.zero_grad()
        torch.autograd.backward(smooth_l1_loss(seen + change, to_come))
        optimizer.step()
        schedule.step()
    return model


if __name__ == "__main__":
    torch.set_num_threads(1)
    weights = safetensors.save(train(torch.tensor(potential()[0])).state_dict())
    Path(__file__).with_name("1").mkdir(exist_ok=True)
    Path(__file__).with_name("1").joinpath("weights.safetensors").write_bytes(weights)

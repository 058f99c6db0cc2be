"""Layers such as `nn.LazyLinear`, of which the checkpoint says the sizes: they are what their first call makes them."""

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

_OWN = torch.nn.__name__


def settle(module: nn.Module) -> None:
    """Do at once what the first call of torch's lazy layers does; those without sizes yet stay as they are."""
    for layer in module.modules():
        if isinstance(layer, LazyModuleMixin) and type(layer).__module__.startswith(_OWN):
            tensors = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
            if tensors and not layer.has_uninitialized_params():
                layer._infer_parameters(layer, (tensors[0],))  # noqa: SLF001 - torch has no public name

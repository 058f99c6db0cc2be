"""A session of a model of `own_cases`, and the module by itself beside it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from tests.support.client import Client
from tests.support.own_cases import CASES, DTYPES, Case
from tests.support.sources import own_models

LENGTHS = (1, 1, 3, 1, 2, 4)
"""How many instances each of a session's calls holds, where it may hold several."""


TOLERANCE = {"FP64": 1e-12, "FP16": 2e-3, "BF16": 2e-2}
"""Relative and absolute; 1e-5 for FP32, and none for whole numbers."""


class Player:
    """A session's calls as the service gets them, and what the module by itself gives."""

    def __init__(self, name: str, seed: int, case: Case | None = None) -> None:
        self.case = CASES[name] if case is None else case
        self.document = self.case.document
        self.module = self.case.module()
        self._random = Generator().manual_seed(seed)
        self._calls = 0

    def instances(self) -> tuple[list[Any], dict[str, Tensor]]:
        """The next call's instances, and the tensors that they stand for."""
        count = LENGTHS[self._calls % len(LENGTHS)]
        size = self.case.sizes[self._calls % len(self.case.sizes)]
        specs = self.document["inputs"]
        tensors = {spec["name"]: self._draw(spec, _fill(spec, count, size)) for spec in specs}
        # The axis of sessions, of size 1, may be left out: every second call does so.
        rows = [_rows(spec, tensors[spec["name"]], parted=self._calls % 2 == 1) for spec in specs]
        self._calls += 1
        if len(specs) == 1:
            return [row.tolist() for row in rows[0]], tensors
        names = [spec["name"] for spec in specs]
        columns = [[row.tolist() for row in column] for column in rows]
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)], tensors

    def check(self, predictions: Any, tensors: dict[str, Tensor]) -> None:
        """Compare predictions with what the module gives for the same tensors, and go on from there."""
        given = {name: tensor.clone() for name, tensor in tensors.items()}
        with torch.no_grad():
            by_name = dict(list(given.items())[self.case.by_position :])
            returned = self.module(*list(given.values())[: self.case.by_position], **by_name)
        specs = self.document["outputs"]
        for spec, expected in zip(specs, _named(returned, specs), strict=True):
            assert expected.dtype is DTYPES[spec["datatype"]]
            values = predictions if len(specs) == 1 else [prediction[spec["name"]] for prediction in predictions]
            found = torch.tensor(values, dtype=expected.dtype)
            wanted = torch.stack(_rows(spec, expected, parted=True))
            tolerance = TOLERANCE.get(spec["datatype"], 1e-5) if expected.is_floating_point() else 0
            torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)

    def step(self, client: Client, address: str) -> None:
        """Make the next call of a session and compare."""
        instances, tensors = self.instances()
        self.check(client.step(address, instances)["predictions"], tensors)

    def _draw(self, spec: Mapping[str, Any], shape: list[int]) -> Tensor:
        dtype = DTYPES[spec["datatype"]]
        if dtype.is_floating_point:
            return torch.randn(shape, generator=self._random, dtype=torch.float64).to(dtype)
        if dtype is torch.bool:
            return torch.randint(0, 2, shape, generator=self._random).bool()
        limits = torch.iinfo(dtype)
        low, high = (0, 10) if spec["name"] == "tokens" else (limits.min, min(limits.max, 2**63 - 1))
        return torch.randint(low, high, shape, generator=self._random, dtype=dtype)


def _fill(spec: Mapping[str, Any], count: int, size: int) -> list[int]:
    """The shape of one session's call: `count` instances, and `size` for what else varies."""
    shape = list(spec["shape"])
    if "batch_dim" in spec:
        shape[spec["batch_dim"]] = abs(shape[spec["batch_dim"]])
    axes = [axis for axis, length in enumerate(shape) if length == -1]
    for axis, length in zip(axes, (count, size), strict=False):
        shape[axis] = length
    return shape


def _rows(spec: Mapping[str, Any], tensor: Tensor, *, parted: bool) -> list[Tensor]:
    """What lies along the axis of instances; where `parted`, without the axis of sessions."""
    batch = spec.get("batch_dim")
    axis = next((axis for axis, size in enumerate(spec["shape"]) if size == -1 and axis != batch), None)
    rows = tensor[None] if axis is None else tensor.movedim(axis, 0)
    if parted and batch is not None:
        rows = rows.squeeze(batch + 1 if axis is None or batch < axis else batch)
    return list(rows)


def _named(returned: Any, specs: list[Mapping[str, Any]]) -> list[Tensor]:
    """What a forward returned, in the manifest's order."""
    if isinstance(returned, Tensor):
        return [returned]
    if isinstance(returned, Mapping):
        return [returned[spec["name"]] for spec in specs]
    if isinstance(returned, own_models.Both):
        return [getattr(returned, spec["name"]) for spec in specs]
    return list(returned[: len(specs)])

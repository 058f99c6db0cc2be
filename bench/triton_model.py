"""The classifier, or the RNN with a state for each sequence, for Triton's Python backend, which imports this file."""

import json
import os
import sys
from typing import Any

sys.path[:0] = os.environ["BENCH_PATH"].split(os.pathsep)

import torch  # noqa: E402 - found there
import triton_python_backend_utils as triton  # type: ignore[import-not-found]  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from models.batchnorm import BatchNormClassifier  # noqa: E402
from models.rnn import RNNClassifier  # noqa: E402

torch.set_num_threads(1)


class TritonPythonModel:
    """What the backend calls."""

    def initialize(self, arguments: dict[str, str]) -> None:
        """Load the weights."""
        self.config = json.loads(arguments["model_config"])
        self.states: dict[Any, torch.Tensor] = {}
        self.stateful = "sequence_batching" in self.config
        weights = load_file(self.config["parameters"]["checkpoint"]["string_value"])
        width = weights["hidden"].shape[-1] if self.stateful else 0
        made = RNNClassifier(hidden_size=width) if self.stateful else BatchNormClassifier()
        self.module: Any = made.eval().requires_grad_(False)
        self.module.load_state_dict(weights)
        self.given = self.config["input"][0]["name"]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run one forward for all requests."""
        tensors = [triton.get_input_tensor_by_name(request, self.given) for request in requests]
        inputs: list[torch.Tensor] = [torch.from_dlpack(tensor) for tensor in tensors]  # type: ignore[attr-defined]
        x = torch.cat(inputs)
        with torch.inference_mode():
            outputs = self._steps(requests, x) if self.stateful else self.module(x)
        parts = outputs.split([len(given) for given in inputs])
        return [
            triton.InferenceResponse([triton.Tensor.from_dlpack("probabilities", part.clone().__dlpack__())])
            for part in parts
        ]

    def _steps(self, requests: list[Any], x: torch.Tensor) -> torch.Tensor:
        """Run one step of each sequence: (sequences, 1, 8) to (sequences, 1, 10)."""
        names = [request.correlation_id() for request in requests]
        for request, name in zip(requests, names, strict=True):
            if request.flags() & triton.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
                self.states[name] = torch.zeros(self.module.rnn.hidden_size)
        self.module.hidden = torch.stack([self.states[name] for name in names])[None]
        outputs: torch.Tensor = self.module(x.transpose(0, 1)).transpose(0, 1)
        for name, state in zip(names, self.module.hidden[0], strict=True):
            self.states[name] = state.clone()
        return outputs.contiguous()

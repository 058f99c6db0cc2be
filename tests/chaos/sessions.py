"""What was acknowledged, and what a plain run of exactly that gives."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from safetensors.torch import load, load_file
from torch import nn

from models.accumulator import Accumulator
from models.rnn import RNNClassifier
from tests.support import repository
from tests.support.client import Client
from tests.support.paths import CHECKPOINTS

TOLERANCE = 1e-4
"""Between a state and a plain run of its inputs: batches of other sizes differ in the last bits."""


def digits_rnn() -> nn.Module:
    """The classifier of the model `digits-rnn`."""
    module = RNNClassifier()
    module.load_state_dict(load_file(CHECKPOINTS / "digits-rnn" / "1" / "weights.safetensors"))
    return module.eval()


@dataclass(frozen=True)
class Kind:
    """A model whose sessions are stepped: its module for a plain run, and what one row of its input looks like."""

    model: str
    module: Any
    width: int
    values: tuple[int, int]

    def address(self, name: str) -> str:
        """Where a session of that name is."""
        sessions = "/v1/accumulators" if self.model == "accumulator" else f"/v1/models/{self.model}/sessions"
        return f"{sessions}/{name}"

    def step(self, name: str, rows: list[Any]) -> tuple[str, dict[str, Any]]:
        """The path and the body of a request that steps a session of that name."""
        address = self.address(name)
        return (
            (address, {"values": rows}) if self.model == "accumulator" else (f"{address}:predict", {"instances": rows})
        )

    def rows(self, rng: Random) -> list[Any]:
        """The input of a step."""
        rows: list[Any] = [[rng.randint(*self.values) for _ in range(self.width)] for _ in range(rng.randint(1, 3))]
        return [row[0] for row in rows] if self.model == "accumulator" else rows


KINDS = (
    Kind("digits-rnn", digits_rnn, 8, (0, 16)),
    Kind("lstm", repository.lstm, 3, (-2, 2)),
    Kind("accumulator", Accumulator, 1, (-1000, 1000)),
)


@dataclass
class Session:
    """A session and its acknowledged steps: the number that each was answered with, and its input.

    `unsure` is the input of its last step, of which nobody knows whether it was, or will be, carried out.
    """

    kind: Kind
    name: str
    unsure: list[Any] | None = None
    acknowledged: list[tuple[int, list[Any]]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def address(self) -> str:
        """Where the session is."""
        return self.kind.address(self.name)

    def acknowledge(self, step: int, rows: list[Any]) -> None:
        """Note a step that was answered."""
        with self.lock:
            self.acknowledged.append((step, rows))


@dataclass(frozen=True)
class Verdict:
    """How a session differs from a plain run of its acknowledged steps."""

    lost: int
    doubled: int
    sentences: Sequence[str]


def judge(client: Client, session: Session) -> Verdict:
    """Compare a session with a plain run of its acknowledged steps."""
    step = _step(client, session)
    if session.unsure is not None and step == 1 + len(session.acknowledged):
        session.acknowledge(step, session.unsure)
    numbers = [step for step, _ in session.acknowledged]
    distinct = {number for number in numbers if number <= step}
    lost, doubled = len(numbers) - len(distinct), step - len(distinct)
    sentences = []
    if lost or doubled:
        missing = sorted(set(range(1, step + 1)) - distinct)[:5]
        sentences.append(
            f"{session.address} is at step {step}; {len(numbers)} were acknowledged, {lost} of them are lost and "
            f"{doubled} steps are nobody's (among them {missing})"
        )
    elif numbers:
        sentences += _differences(client, session)
    return Verdict(lost, doubled, sentences)


def _step(client: Client, session: Session) -> int:
    answer = client.get(session.address)
    if answer.status == 404 and session.kind.model == "accumulator":
        return 0
    step: int = answer.expect()["step"]
    return step


def _differences(client: Client, session: Session) -> list[str]:
    """Where the state is not that of a plain run."""
    module = session.kind.module()
    steps = [rows for _, rows in sorted(session.acknowledged, key=lambda one: one[0])]
    with torch.inference_mode():
        for rows in steps:
            if session.kind.model == "accumulator":
                module(torch.tensor(rows, dtype=torch.float64))
            else:
                module(torch.tensor(rows, dtype=torch.float32)[:, None])
    if session.kind.model == "accumulator":
        totals = client.get(session.address).expect()
        values = [value for rows in steps for value in rows]
        wanted = {"count": len(values), "sum": sum(values), "minimum": min(values), "maximum": max(values)}
        given = {name: totals[name] for name in wanted}
        return [] if given == wanted else [f"{session.address} is {given}, and must be {wanted}"]
    answer = client.get(f"{session.address}/state")
    assert answer.status == 200, answer.body
    state = load(answer.body)
    differing = [
        name for name, tensor in state.items() if not torch.allclose(tensor, module.get_buffer(name), atol=TOLERANCE)
    ]
    return [f"{session.address}: {', '.join(differing)} differ from a plain run"] if differing else []

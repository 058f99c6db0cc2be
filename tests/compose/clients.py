"""Clients that know what they were promised: each keeps its own account, and says where the service's differs.

A client without keys repeats a request only after a 502, 503 or 504, or after no answer at all; and as it then cannot
know whether the request took effect, it first looks. Those with keys use `carryover.client`, which just retries.
"""

import json
import random
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor

import carryover.client
from models.accumulator import Accumulator
from models.batchnorm import BatchNormClassifier
from models.rnn import RNNClassifier
from tests.compose.deployment import TIMEOUT
from tests.support.client import JSON, Client
from tests.support.paths import CHECKPOINTS
from tests.support.waiting import PATIENCE

_REPEATABLE = (502, 503, 504)


class NeverAnsweredError(Exception):
    """A request met nothing but errors for `PATIENCE` seconds."""


@dataclass
class Tally:
    """What all the clients have seen."""

    requests: int = 0
    steps: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Answers that were not given, by status or `no answer`."""
    applied: Counter[str] = field(default_factory=Counter)
    """Those of `errors` that turned out to have taken effect."""
    wrong: list[str] = field(default_factory=list)
    """Everything that must not be."""
    slowest: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self, seconds: float, error: str | None = None) -> None:
        with self.lock:
            self.requests += 1
            self.slowest = max(self.slowest, seconds)
            if error:
                self.errors[error] += 1

    def took_effect(self, error: str) -> None:
        with self.lock:
            self.applied[error] += 1

    def stepped(self) -> None:
        with self.lock:
            self.steps += 1


class Actor(threading.Thread):
    """Repeats `turn` until told to stop, then settles accounts with `settle`."""

    pause: ClassVar[float] = 0.2

    def __init__(self, name: str, port: int, tally: Tally, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self.port = port
        self.tally = tally
        self.random = random.Random(seed)
        self.stopping = threading.Event()
        self._client = Client(port, TIMEOUT)

    def run(self) -> None:
        try:
            self.begin()
            while not self.stopping.wait(self.random.uniform(0, 2 * self.pause)):
                self.turn()
            self.settle()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must hear of it
            with self.tally.lock:
                self.tally.wrong.append(f"{self.name}: {type(error).__name__}: {error}")
        finally:
            self._client.close()

    def begin(self) -> None:
        """Do what comes before the first turn."""

    def turn(self) -> None:
        """Do one thing."""
        raise NotImplementedError

    def settle(self) -> None:
        """Compare accounts, after the last turn."""

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, str | None]:
        """Send one request once.

        Returns:
            The status and the body; and the error, where it is one after which to retry.

        """
        start = time.monotonic()
        try:
            self._client.reopen_if_closed()
            data = None if body is None else json.dumps(body).encode()
            answer = self._client.request(method, path, data, {"Content-Type": JSON, **(headers or {})})
        except (OSError, HTTPException) as broken:
            self.tally.asked(time.monotonic() - start, "no answer")
            raise AssertionError(f"{method} {path} got no answer: {broken!r}") from None
        if answer.status not in _REPEATABLE:
            self.tally.asked(time.monotonic() - start)
            return answer.status, answer.json if answer.body else None, None
        error = f"{answer.status} of the {'service' if 'gunicorn' in answer.headers.get('Server', '') else 'proxy'}"
        self.tally.asked(time.monotonic() - start, error)
        clean = answer.headers.get("Content-Type") == "application/problem+json" and "Retry-After" in answer.headers
        self.check(clean, f"{method} {path}: not a clean error: {answer.headers} {answer.body[:200]!r}")
        return answer.status, None, error

    def insist(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request that may be repeated until it is answered."""
        for _ in self.attempts(f"{method} {path}"):
            status, answer, error = self.ask(method, path, body)
            if error is None:
                return status, answer
        raise AssertionError

    def attempts(self, what: str) -> Iterator[None]:
        """Come back after a moment, as often as patience lasts."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            yield
            time.sleep(self.random.uniform(0.1, 0.5))
        raise NeverAnsweredError(f"{what}: nothing but errors for {PATIENCE:.0f} s")

    def check(self, true: bool, sentence: str) -> None:
        """End this client, with what is wrong, unless something is true."""
        if not true:
            raise AssertionError(sentence)


class SessionClient(Actor):
    """Steps a session of its own, with a plain module beside it."""

    def begin(self) -> None:
        self.path = f"/v1/models/digits-rnn/sessions/{self.name}"
        self.module = _load(RNNClassifier(), "digits-rnn")
        self.step = 0
        # The name is its own: taken means that the request before took effect.
        status, _ = self.insist("POST", "/v1/models/digits-rnn/sessions", {"session": self.name, "ttl": 3600})
        self.check(status in (201, 409), f"creation answers {status}")

    def turn(self) -> None:
        rows = [[self.random.randint(0, 16) for _ in range(8)] for _ in range(self.random.randint(1, 3))]
        expected = self.advance(rows)
        for _ in self.attempts(f"step {self.step} of {self.name}"):
            status, answer, error = self.ask("POST", f"{self.path}:predict", {"instances": rows})
            if error is None:
                self.check(status == 200, f"step {self.step} answers {status} {answer}")
                self.answered(answer, expected)
                return
            if self.has_been_applied(error):
                return

    def advance(self, rows: list[list[int]]) -> Tensor:
        """Step the plain module: (T rows of 8) to (T, 10)."""
        self.step += 1
        with torch.inference_mode():
            output: Tensor = self.module(torch.tensor(rows, dtype=torch.float32)[:, None])
            return output[:, 0]

    def answered(self, answer: dict[str, Any], expected: Tensor) -> None:
        self.tally.stepped()
        self.check(answer["step"] == self.step, f"is at step {answer['step']}, where {self.step} was due")
        got = torch.tensor([prediction["probabilities"] for prediction in answer["predictions"]])
        self.check(torch.allclose(got, expected, atol=1e-5), f"step {self.step} predicts {got}, not {expected}")

    def has_been_applied(self, error: str) -> bool:
        step = self.current_step()
        if step == self.step:
            self.tally.took_effect(error)
            self.tally.stepped()
            return True
        self.check(step == self.step - 1, f"is at step {step} after step {self.step} and {error}")
        return False

    def current_step(self) -> int:
        status, answer = self.insist("GET", self.path)
        if status != 200:
            raise AssertionError(f"the session answers {status} {answer}")
        step: int = answer["step"]
        return step

    def settle(self) -> None:
        self.check(
            self.current_step() == self.step, f"ends at step {self.current_step()}, where {self.step} was acknowledged"
        )


class KeyedSessionClient(SessionClient):
    """Steps a session of its own with `carryover.client`, which gives each step a key and retries it."""

    def run(self) -> None:
        retries = carryover.client.Retries(PATIENCE, longest=1.0)
        with carryover.client.Client(f"http://127.0.0.1:{self.port}", timeout=TIMEOUT, retries=retries) as client:
            self.session = client.session("digits-rnn", self.name)
            super().run()

    def turn(self) -> None:
        self.take(self.session.step)

    def take(self, step: Callable[[Any], carryover.client.Step]) -> None:
        """Take one step."""
        rows = [[self.random.randint(0, 16) for _ in range(8)]]
        expected = self.advance(rows)
        start = time.monotonic()
        found = step(rows)
        self.tally.asked(time.monotonic() - start)
        self.answered({"step": found.step, "predictions": found.predictions}, expected)


class StreamClient(KeyedSessionClient):
    """Steps a session of its own over two-way streams of some dozens of lines, which go on when one is lost."""

    def turn(self) -> None:
        with self.session.stream() as stream:
            for _ in range(self.random.randint(10, 60)):
                if self.stopping.wait(self.random.uniform(0, 2 * self.pause)):
                    return
                self.take(stream.step)


class AccumulatorClient(Actor):
    """Adds to an accumulator that others add to as well.

    Client k adds 8192^k each time: the sum, read as a number of base 8192, tells how often each has been counted.
    """

    base: ClassVar[int] = 8192

    def __init__(self, name: str, port: int, tally: Tally, digit: int) -> None:
        super().__init__(f"{name}/{digit}", port, tally, seed_of(name, digit))
        self.path = f"/v1/accumulators/{name}"
        self.unit: int = self.base**digit
        self.count = 0

    def turn(self) -> None:
        self.count += 1
        for _ in self.attempts(self.path):
            status, answer, error = self.ask("POST", self.path, {"values": [self.unit]})
            if error is None:
                self.tally.stepped()
                self.check(status == 200 and self.counted(answer) == self.count, f"{self.count} times: {answer}")
                return
            status, answer = self.insist("GET", self.path)
            counted = 0 if status == 404 else self.counted(answer)
            if counted == self.count:
                self.tally.took_effect(error)
                self.tally.stepped()
                return
            self.check(counted == self.count - 1, f"counted {counted} times after {self.count} and {error}")

    def counted(self, answer: dict[str, Any]) -> int:
        """Return how often this client is counted in the totals."""
        return int(answer["sum"]) // self.unit % self.base

    def settle(self) -> None:
        _, answer = self.insist("GET", self.path)
        self.check(self.counted(answer) == self.count, f"ends with {self.count}: {answer}")


class StatelessClient(Actor):
    """Asks for predictions without a session, and for what the models are."""

    def begin(self) -> None:
        self.digits = _load(BatchNormClassifier(), "digits-batchnorm")

    def turn(self) -> None:
        images = [[self.random.randint(0, 16) for _ in range(64)] for _ in range(self.random.randint(1, 4))]
        status, answer = self.insist("POST", "/v1/models/digits-batchnorm:predict", {"instances": images})
        self.check(status == 200, f"a prediction answers {status} {answer}")
        got = torch.tensor([prediction["probabilities"] for prediction in answer["predictions"]])
        with torch.inference_mode():
            expected = self.digits(torch.tensor(images, dtype=torch.float32))
        self.check(torch.allclose(got, expected, atol=1e-5), f"predicts {got}, not {expected}")
        status, answer = self.insist("GET", "/v1/models")
        self.check(status == 200 and len(answer["models"]) == 3, f"the models are {status} {answer}")


def totals_of(writers: list[AccumulatorClient]) -> dict[str, float]:
    """Return what a plain accumulator has after all that was acknowledged to the writers of one accumulator."""
    module = Accumulator()
    values = [writer.unit for writer in writers for _ in range(writer.count)]
    totals: dict[str, Tensor] = module(torch.tensor(values, dtype=torch.float64))
    return {name: value.item() for name, value in totals.items()}


def seed_of(*parts: object) -> int:
    """Return a number for a client to be random by, the same in every run."""
    return zlib.crc32("/".join(map(str, parts)).encode())


def _load(module: Any, name: str) -> Any:
    module.load_state_dict(load_file(CHECKPOINTS / name / "1" / "weights.safetensors"))
    return module.eval().requires_grad_(False)

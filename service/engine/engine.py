"""What the service can do, as one object."""

import secrets
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from service.engine.batching import Batcher
from service.engine.forwards import Forwards
from service.engine.steps import Step, Stepper, key, resolve
from service.errors import CarryoverError, GoneError, InvalidInputError, NameTakenError, NotFoundError
from service.model.repository import Model, Repository
from service.model.tensors import Array
from service.model.version import Call, ModelVersion, Result
from service.store import Record, Store


@dataclass(frozen=True, slots=True)
class Session:
    """A session as it stands; times in milliseconds since 1970, `ttl` in seconds."""

    name: str
    model: Model
    version: ModelVersion
    step: int
    created: int
    last_used: int
    expires: int
    ttl: int
    state: bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker takes on.

    `batch` is the most requests that one forward takes, `queue` the most that may wait for a model, `ttl` the life of a
    session after its last use in seconds, `state_bytes` the largest state of a session.
    """

    batch: int
    queue: int
    ttl: int
    state_bytes: int


_UNANSWERED = CarryoverError("this call was not processed")


@dataclass(slots=True, eq=False)
class _Prediction:
    """A stateless call and its answer."""

    call: Call
    finished: bool = False
    answer: Result | CarryoverError = _UNANSWERED


class Engine:
    """Predictions, sessions and accumulators over a repository and a store."""

    def __init__(self, repository: Repository, store: Store, limits: Limits) -> None:
        self.store = store
        self._limits = limits
        self._forwards = Forwards()
        self._stepper = Stepper(store, self._forwards, limits.state_bytes)
        self.serve(repository)

    def serve(self, repository: Repository) -> None:
        """Serve these models from now on."""
        self.repository = repository
        limit, capacity = self._limits.batch, self._limits.queue
        self._steps = {
            model.name: Batcher[Step](self._stepper.process, limit, capacity) for model in repository if model.stateful
        }
        self._predictions = {
            version: Batcher[_Prediction](_Predictor(version, self._forwards), limit, capacity)
            for model in repository
            for version in model.versions.values()
        }

    def predict(self, model: Model, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run the model from its initial state and keep nothing."""
        item = _Prediction(Call(inputs, model.default.initial_state))
        self._predictions[model.default].run([item])
        return _outputs(item.answer)

    def create(self, model: Model, name: str | None, ttl: int | None) -> Session:
        """Begin a session at step 0; without a name it gets one.

        Raises:
            NameTakenError: a live session has the name.

        """
        self._require_state(model)
        name = name or secrets.token_urlsafe(12)
        version = model.default
        record = Record.new(version.fingerprint, version.initial_state, ttl or self._limits.ttl)
        if not self.store.create(key(model, name), record):
            raise NameTakenError(
                f"model {model.name!r} has a session {name!r} already; delete it first, or choose another name"
            )
        return _session(model, name, version, record, record.ttl * 1000)

    def session(self, model: Model, name: str) -> Session:
        """Return a session as it stands; this does not count as a use."""
        self._require_state(model)
        stored = self.store.look(key(model, name))
        version, record = resolve(model, name, stored)
        return _session(model, name, version, record, stored.remaining if stored else 0)

    def delete(self, model: Model, name: str) -> None:
        """End a session."""
        self._require_state(model)
        deleted = self.store.delete(key(model, name))
        if deleted is None:
            raise NotFoundError(f"model {model.name!r} has no session {name!r}")
        if not deleted:
            raise GoneError(f"session {name!r} of model {model.name!r} was deleted before")

    def run(self, steps: list[Step]) -> None:
        """Run steps of one model and return when each is committed or has failed; see `Step.answer`."""
        self._require_state(steps[0].model)
        self._steps[steps[0].model.name].run(steps)

    def accumulate(self, model: Model, name: str, inputs: Mapping[str, Array]) -> Step:
        """Step a session that the first step creates."""
        step = Step(model, name, inputs, create=self._limits.ttl)
        self.run([step])
        return step.answer()

    def peek(self, model: Model, name: str, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], int]:
        """Run a step without committing it.

        Returns:
            The outputs, and the step that the session stands at.

        """
        self._require_state(model)
        version, record = resolve(model, name, self.store.look(key(model, name)))
        result = self._forwards.run(version, [Call(inputs, record.state)])[0]
        return _outputs(result), record.step

    def _require_state(self, model: Model) -> None:
        if not model.stateful:
            raise InvalidInputError(
                f"model {model.name!r} has no state buffers and so no sessions; use /v1/models/{model.name}:predict"
            )


class _Predictor:
    """Processes batches of stateless calls of one version."""

    def __init__(self, version: ModelVersion, forwards: Forwards) -> None:
        self._version = version
        self._forwards = forwards

    def __call__(self, items: list[_Prediction]) -> None:
        groups: dict[Hashable, list[_Prediction]] = {}
        for item in items:
            group = self._version.group(item.call)
            groups.setdefault(id(item) if group is None else group, []).append(item)
        for members in groups.values():
            results = self._forwards.run(self._version, [member.call for member in members])
            for member, result in zip(members, results, strict=True):
                member.answer = result
                member.finished = True


def _outputs(answer: Result | CarryoverError) -> Mapping[str, Array]:
    if isinstance(answer, CarryoverError):
        raise answer
    return answer.outputs


def _session(model: Model, name: str, version: ModelVersion, record: Record, remaining: int) -> Session:
    now = time.time_ns() // 1_000_000
    return Session(
        name=name,
        model=model,
        version=version,
        step=record.step,
        created=record.created,
        last_used=now + remaining - record.ttl * 1000,
        expires=now + remaining,
        ttl=record.ttl,
        state=record.state,
    )

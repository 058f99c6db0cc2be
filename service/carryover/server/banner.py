"""What the service prints when it is ready."""

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from carryover.runtime.repository import Repository
from carryover.runtime.version import TensorInfo
from carryover.server.embedded_valkey import EmbeddedValkey


def banner(listens: str, stores: str, repository: Repository) -> str:
    """Return where the service listens, where it stores sessions, and the buffers of each model."""
    lines = [f"Carryover listens at {listens}; {stores}"]
    for model in repository:
        version = model.default
        lines.append(f"  {model.name} version {version.version}")
        for kind, tensors in (("frozen", version.frozen_buffers()), ("state", version.state_buffers())):
            shown = ", ".join(_tensor(tensor) for tensor in tensors)
            lines.append(f"    {kind:<7}{shown or 'none'}")
    return "\n".join(lines)


def _tensor(tensor: TensorInfo) -> str:
    # State that starts as None gets its shape from the first step.
    return tensor.name if tensor.shape is None else f"{tensor.name} {tensor.datatype} {list(tensor.shape)}"


def served(repository: Repository) -> str:
    """Return the versions of each model, the default one first, and how much could not be loaded."""
    models = [
        f"{model.name} ({', '.join(sorted(model.versions, key=lambda number: number != model.default.version))})"
        for model in repository
    ]
    failures = len(repository.failures)
    return ", ".join(models) + (f"; {failures} problems are logged above" if failures else "")


def stores(redis_url: str | None, valkey: EmbeddedValkey | None, lost: str | None) -> str:
    """Return where sessions are stored or, where Redis is `lost`, why they cannot be."""
    place = f"the embedded Valkey, {valkey.folder}" if valkey else f"Redis, {_without_password(redis_url or '')}"
    return f"sessions are stored in {place}" if lost is None else f"sessions cannot be stored in {place}: {lost}"


def beyond_loopback(listeners: Iterable[Any]) -> str:
    """Return the addresses among those of gunicorn's listeners that other machines can reach."""
    names = ((listener, listener.sock.getsockname()) for listener in listeners)
    reached = [
        str(listener) for listener, name in names if isinstance(name, tuple) and not ip_address(name[0]).is_loopback
    ]
    return ", ".join(reached)


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()

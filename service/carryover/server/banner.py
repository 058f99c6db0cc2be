"""What the service says on the terminal once it is ready."""

from urllib.parse import urlsplit

from carryover.runtime.repository import Repository
from carryover.server.embedded_valkey import EmbeddedValkey


def banner(
    addresses: str, workers: int, repository: Repository, redis_url: str | None, own: EmbeddedValkey | None
) -> str:
    """Return where the service listens, where it keeps sessions, and the buffers of each model."""
    kept = f"in its own Valkey, {own.folder}" if own else f"in the Redis at {_without_password(redis_url or '')}"
    lines = [f"Carryover listens at {addresses} with {workers} workers; sessions are kept {kept}"]
    for model in repository:
        version = model.default
        lines.append(f"  {model.name} version {version.version}")
        for word, tensors in (("frozen", version.frozen_buffers()), ("state", version.state_buffers())):
            shown = ", ".join(f"{tensor.name} {tensor.datatype} {list(tensor.shape or ())}" for tensor in tensors)
            lines.append(f"    {word:<7}{shown or 'none'}")
    return "\n".join(lines)


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()

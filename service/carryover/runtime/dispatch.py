"""Seeing each operation of a forward, without torch's compiler."""

from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that is not wrapped for the compiler, as importing that takes two seconds of a start."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

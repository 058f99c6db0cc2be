"""The load's own process: what it spends on sending and receiving is neither the server's nor this process'."""

import gc
import multiprocessing
import signal
from multiprocessing.connection import Connection as Pipe
from types import TracebackType
from typing import Self

from bench.load import Load, Sample, drive
from bench.responses import LoadError

_MARGIN_SECONDS = 90.0


class Generator:
    """A process that drives one load after another."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        self._process = context.Process(target=_drive_all, args=(far_end,), daemon=True)
        self._process.start()
        far_end.close()

    def run(self, load: Load) -> Sample:
        """Drive one load.

        Raises:
            LoadError: see `drive`; also where the process ends or takes far too long.

        """
        self._pipe.send(load)
        if not self._pipe.poll(load.warm_up + load.seconds + _MARGIN_SECONDS):
            raise LoadError("the load generator does not come to an end")
        try:
            outcome = self._pipe.recv()
        except EOFError:
            raise LoadError("the load generator has ended") from None
        if isinstance(outcome, LoadError):
            raise outcome
        sample: Sample = outcome
        return sample

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()


def _drive_all(pipe: Pipe) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process ends this one
    while True:
        load = pipe.recv()
        gc.collect()
        gc.disable()  # no pause in the middle of a measurement; it is bounded, and so is its garbage
        try:
            pipe.send(drive(load))
        except LoadError as error:
            pipe.send(error)
        except OSError as error:
            pipe.send(LoadError(f"a connection broke: {error}"))
        gc.enable()

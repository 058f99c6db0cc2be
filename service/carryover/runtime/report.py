"""What is wrong with a model, collected while it is loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from carryover.errors import ConfigurationError, ModelFailedError
from carryover.runtime.siblings import real


class Severity(StrEnum):
    """Whether a problem keeps a model from being served."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that would go wrong, as a sentence for the owner of the model."""

    severity: Severity
    sentence: str


class Report:
    """The problems of a model, in the order in which they were found."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    @property
    def errors(self) -> list[str]:
        """The sentences of what keeps the model from being served."""
        return [problem.sentence for problem in self.problems if problem.severity is Severity.ERROR]

    def error(self, sentence: str) -> None:
        """Add a problem that keeps the model from being served."""
        self.problems.append(Problem(Severity.ERROR, sentence))

    def warn(self, sentence: str) -> None:
        """Add a problem that its users will notice."""
        self.problems.append(Problem(Severity.WARNING, sentence))

    @contextmanager
    def stage(self, where: str) -> Iterator[None]:
        """Add what goes wrong in the block, whatever it raises: `where` is the file, unless the error names one."""
        try:
            yield
        except ConfigurationError as error:
            self.error(str(error))
        except ModelFailedError as error:
            self.error(f"{where}: {error}")
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a model's own code, or torch on what is unusual in it
            self.error(f"{where}: cannot be loaded: {first_line(error)}")

    def raise_first(self) -> None:
        """Raise the first error, if there is one.

        Raises:
            ConfigurationError: with its sentence.

        """
        if self.errors:
            raise ConfigurationError(self.errors[0])


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class where it has none."""
    return real((str(error).strip() or type(error).__name__).splitlines()[0])

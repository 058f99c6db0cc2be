"""What the commands have in common: `--json`, errors as one sentence, and plain aligned tables."""

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import click
import orjson
from flask.helpers import get_debug_flag

from carryover.errors import CarryoverError
from carryover.runtime.report import first_line

json_option: Callable[[Any], Any] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead; what is not a finite number is null there."
)


@contextmanager
def working() -> Iterator[None]:
    """While a model's own code may run: what that prints goes to stderr, and any error is one sentence and exit 1.

    Python's warnings, such as torch's of each input that is tried, are shown where `PYTHONWARNINGS` or `-W` asks for
    them. `flask --debug` shows the traceback of what is no error of the service's own.
    """
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings(action=None if sys.warnoptions else "ignore"):
            yield
    except CarryoverError as error:
        raise click.ClickException(str(error)) from None
    except SystemExit:
        raise click.ClickException("the model's code ends the process it is imported in, with sys.exit()") from None
    except Exception as error:
        if get_debug_flag():
            raise
        raise click.ClickException(f"{type(error).__name__}: {first_line(error)}") from None


def show_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return rows as aligned text, two spaces between the columns; those in `right` are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )

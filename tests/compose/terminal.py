"""What is said on the terminal when all tests have run."""

lines: list[str] = []


def say(line: str) -> None:
    """Have a line on the terminal at the end."""
    lines.append(line)

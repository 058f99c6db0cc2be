"""Continue a text, one character a step: `python -m examples._published.decoder.client [URL] [TEXT]`."""

import sys
from collections.abc import Iterator

from carryover.client import Client


def continued(client: Client, text: str, count: int) -> Iterator[str]:
    """Yield the characters that follow; each step sends one, as the session holds the keys and values of all before."""
    session = client.create("decoder")
    tokens = list(text.encode("ascii"))
    for _ in range(count):
        step = session.step(tokens)
        tokens = [int(step.array()[-1].argmax())]
        yield chr(tokens[0])


def main(service: str, text: str) -> None:
    """Print a text and what follows."""
    with Client(service) as client:
        print(text + "".join(continued(client, text, 40)))


if __name__ == "__main__":
    asked = sys.argv[1:]
    main(asked[0] if asked else "http://127.0.0.1:8000", asked[1] if asked[1:] else "the terms of this ")

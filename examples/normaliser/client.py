"""Send the monthly returns of the S&P 500: `python -m examples.normaliser.client [URL]`.

In a session each month is scored against all previous months, and the final mean and variance are those of the whole
series, although no request holds more than one number. Without a session every month is scored against the nineties.
"""

import sys
from functools import partial

from carryover.client import Client

from .series import months

UNUSUAL = 3.0
"""A value this many standard deviations from the mean is unusual."""


def main(service: str) -> None:
    """Print the unusual months and the final mean and variance, with a session and without."""
    names, growth = months()
    with Client(service) as client:
        session = client.create("normaliser")
        for how, predict in (("with a session", session.step), ("without", partial(client.predict, "normaliser"))):
            unusual, last = [], {}
            for name, value in zip(names, growth.tolist(), strict=True):
                if name < "2000":
                    continue
                last = predict([value]).predictions[0]
                if abs(last["score"]) > UNUSUAL:
                    unusual.append(name)
            print(f"{how}: unusual are {', '.join(unusual)}; mean {last['mean']:.9f}, variance {last['variance']:.9f}")
    print(f"all {len(growth)} months at once: mean {growth.mean():.9f}, variance {growth.var(ddof=1):.9f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000")

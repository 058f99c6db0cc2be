"""The baseline: the least that Flask behind gunicorn can do, an empty route that responds with constant bytes.

The route does not look at the request. gunicorn reads the body all the same, before it takes the connection's next
request: the baseline pays for the same bytes on the wire as `:predict`.
"""

from flask import Flask

app = Flask(__name__, static_folder=None)


@app.post("/")
def empty() -> bytes:
    """Respond."""
    return b"{}"

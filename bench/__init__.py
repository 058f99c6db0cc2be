"""What a request costs, measured against the least that a request can cost: `python -m bench`."""

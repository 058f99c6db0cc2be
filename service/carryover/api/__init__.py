"""The REST interface: bodies in, engine calls, JSON out. Knows neither torch nor Redis."""

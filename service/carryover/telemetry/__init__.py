"""Observability: counters and logs."""

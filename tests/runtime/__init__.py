"""Models that are loaded and run in this process: what the runtime finds in them, takes and rejects."""

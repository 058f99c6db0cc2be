"""A GRU that tells how surprising each sample of an EEG is, given all that came before it."""

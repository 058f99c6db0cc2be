"""A GRU that scores how surprising each sample of an EEG is, given all previous samples."""

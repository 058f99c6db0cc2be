"""Running mean and variance of a stream, and how many standard deviations each value is off."""

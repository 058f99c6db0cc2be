"""Running mean and variance of a stream, and each value's distance from the mean in standard deviations."""

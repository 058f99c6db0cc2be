"""A causal convolution that forecasts a neuron's membrane potential from a ring buffer of its last samples."""

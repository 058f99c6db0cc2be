"""Models: manifests, checkpoints, buffers and the forward pass. Knows torch; knows neither HTTP nor Redis."""

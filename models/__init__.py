"""The models that are served here: plain modules that keep what they must remember in buffers."""

"""The models that come with the service: plain modules that keep their state in buffers."""

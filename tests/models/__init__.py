"""The models that come with the service: what they compute, and how they are trained."""

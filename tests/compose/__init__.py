"""The deployment, tested with a real container engine: `make test-compose`."""

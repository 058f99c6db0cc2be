"""The process around the service: gunicorn's configuration and worker, and the embedded Valkey."""

"""The process around the service: gunicorn's configuration, its worker, and the embedded Valkey."""

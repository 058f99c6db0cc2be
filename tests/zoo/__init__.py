"""Published modules, served from their packages' own classes; `make test-zoo` installs them."""

"""Published models, with the weights that their packages ship; `make test-zoo` installs the packages."""

"""`/v1`: the service's own interface; `:predict` is that of KServe's first version."""

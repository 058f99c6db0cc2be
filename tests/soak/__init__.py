"""A long run of mixed load, after which nothing may have grown."""

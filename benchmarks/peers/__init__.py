"""Who runs in benchmarks/engines.py, on what, how it is timed, and the page that comes of it."""

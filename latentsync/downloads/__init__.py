"""Fetching models, on an explicit command only. Needs nothing but Python's standard library, so that install.py can
run it before anything is installed."""

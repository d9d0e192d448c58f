"""The faults that must be survived, each a named test: see registry.py. All of it: `python -m tests.acceptance.faults`."""

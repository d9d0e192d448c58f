"""The faults that must be survived, each a named test: see cases.txt. All: `python -m tests.acceptance.faults`."""

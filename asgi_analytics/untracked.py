"""Objects that Python's collector of reference cycles does not look at, as they are in none.

It looks at all that live whenever a quarter more has come to stay: at thirty objects of each of 15,000 visitors, which
held the event loop up for a quarter of a second. They go with the last reference to them all the same.
"""

from __future__ import annotations

from collections.abc import Callable


def _untracker() -> Callable[[object], object]:
    try:
        import ctypes

        function = ctypes.PYFUNCTYPE(None, ctypes.py_object)
        return function(("PyObject_GC_UnTrack", ctypes.pythonapi))
    except (ImportError, AttributeError):  # not CPython
        return id


_untrack = _untracker()


def untrack(*objects: object) -> None:
    """Keep objects from being looked at. None of them may come to refer to itself, not even by way of others."""
    for one in objects:
        _untrack(one)

"""Running facts that most visitors have none of, made with the first thing that leaves a trace."""

from __future__ import annotations

from ..facts import Behaviour, Traces


def traces_of(facts: Behaviour) -> Traces:
    """Return the traces, made where there were none."""
    traces = facts.traces
    if traces is None:
        traces = facts.traces = Traces()
    return traces

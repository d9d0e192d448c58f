"""The last stage: a finished request becomes a row in this worker's journal, which survives the process.

recorder.py is called by requests; writer.py is the background thread that moves the journal to the store.
"""

from __future__ import annotations

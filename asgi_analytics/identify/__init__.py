"""The first stage: who sends a request, and what it says about itself. `Identifier` in visitor.py begins here.

Nothing here waits. What a visitor who returns needs again is kept with the visitor.
"""

from __future__ import annotations

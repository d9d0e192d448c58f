"""Work beside the requests that waits for the network or a disk: claims of crawlers, and what they are verified by."""

from __future__ import annotations

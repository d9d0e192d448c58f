"""The stages once more: over access logs, and over recorded hits by another policy."""

from __future__ import annotations

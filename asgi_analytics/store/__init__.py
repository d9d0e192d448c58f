"""Postgres: what batches write exactly once (postgres.py), and what commands read, mend and migrate.

All SQL is in sql/, as named queries; the schema is in migrations/.
"""

from __future__ import annotations

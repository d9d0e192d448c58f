"""Every error this package raises.

AnalyticsError
├── ConfigurationError          (also ValueError) raised while the app is built
│   └── DatabaseNotConfigured
├── StoreError                  raised on the writer's side, never into a request
│   ├── StoreUnavailable        transient: wait and try again
│   ├── StoreMisconfigured      an operator must act: wait, try again, say so
│   ├── RowRejected             poison: this row will never go in
│   └── MigrationError
├── SharedUnavailable           transient, in the background: quotas hold per worker until it is over
├── JournalError
│   ├── JournalFormatError
│   ├── JournalClosed           the row is not in: it belongs into the next journal
│   └── AppendInterrupted       the row may be in: it is not appended again
├── CrawlerError                raised in the background, never into a request
│   ├── DataFileError           a published file could not be fetched or does not hold what it should
│   └── ResolverError           transient: ask again later
├── EmbeddedPostgresError
├── CommandError                raised by the command line, which prints it in one line
└── ReplayError
"""

from __future__ import annotations


class AnalyticsError(Exception):
    """Base of all errors of asgi-analytics."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__class__.__doc__ or "").strip())


class ConfigurationError(AnalyticsError, ValueError):
    """An option is unknown or its value is not allowed."""


class DatabaseNotConfigured(ConfigurationError):
    """No database is named, and no embedded one is installed."""


class StoreError(AnalyticsError):
    """Postgres could not do what was asked."""


class StoreUnavailable(StoreError):
    """Postgres cannot be reached or is busy; nothing is lost, the transfer is tried again."""


class StoreMisconfigured(StoreError):
    """Postgres refuses for a reason that an operator must remove: a privilege, a missing table, a password."""


class RowRejected(StoreError):
    """Postgres refuses a value of a row; `sqlstate` is None when the driver did."""

    def __init__(self, message: str, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate

    @property
    def took_too_long(self) -> bool:
        """Whether no value was refused, but the statement ran into its time-out (query_canceled)."""
        return self.sqlstate == "57014"


class MigrationError(StoreError):
    """A migration that was applied differs from the file of the same number."""


class SharedUnavailable(AnalyticsError):
    """The server that quotas are shared through cannot be reached or did not answer in time."""


class JournalError(AnalyticsError):
    """The journal could not be written or read."""


class JournalFormatError(JournalError):
    """A journal segment has a header that this version does not know."""


class JournalClosed(JournalError):
    """The journal takes no more rows: its engine has stopped."""


class AppendInterrupted(JournalError):
    """An append ended with an error that is not the journal's own, such as a signal handler's: the row may be in."""


class CrawlerError(AnalyticsError):
    """A crawler's claim could not be checked."""


class DataFileError(CrawlerError):
    """A published file could not be fetched or does not hold what it should."""


class ResolverError(CrawlerError):
    """The name server gave no answer; the claim is checked again later."""


class EmbeddedPostgresError(AnalyticsError):
    """The embedded Postgres could not be started."""


class CommandError(AnalyticsError):
    """A command cannot do what was asked."""


class ReplayError(AnalyticsError):
    """What was to be replayed cannot be read, or an option of the replay is wrong."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: what is open is closed."""

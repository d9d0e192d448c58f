"""What became of a request that ended with an error: its client has disconnected, or the app has failed."""

from __future__ import annotations

from asyncio import CancelledError
from traceback import walk_tb

from anyio import get_cancelled_exc_class

from ..protocols import Send

MAX_CAUSES = 8  # errors looked at that led to one
CLIENT_DISCONNECT = "ClientDisconnect"  # Starlette's error for a client that disconnects during an upload
HTTP_EXCEPTION = "HTTPException"  # the error of Starlette, FastAPI and Litestar that they turn into an answer
BODY_LIMIT = "_RequestBodyLimitResponseSent"  # Starlette's `send` raises it when it has sent a 413 instead


def status_from_outside(error: BaseException, is_handled: bool) -> int | None:
    """Return the status of the answer that is made outside this middleware after an app's error; None without one.

    `is_handled`: a framework turns errors into answers there, as it does for the middleware of a route or a mount.
    """
    names = [kind.__name__ for kind in error.__class__.__mro__]
    if BODY_LIMIT in names:
        return 413
    if is_handled and HTTP_EXCEPTION in names:
        status = getattr(error, "status_code", None)
        return status if isinstance(status, int) else None
    return None


def outcome_of(error: BaseException, send: Send) -> str:
    """Return "aborted" for a cancellation or a client that disconnected, else "error"; `send`: the server's."""
    return "aborted" if was_cancelled(error) or was_disconnected(error, send) else "error"


def was_cancelled(error: BaseException) -> bool:
    """Tell whether an error is a cancellation by asyncio or trio, a group of nothing else, or the end of a loop."""
    if isinstance(error, CancelledError | GeneratorExit):
        return True
    try:
        kind = get_cancelled_exc_class()
        return isinstance(error, kind) or (isinstance(error, BaseExceptionGroup) and error.split(kind)[1] is None)
    except Exception:  # noqa: BLE001 - no event loop that anyio knows, or a group that cannot be split
        return False


def was_disconnected(error: BaseException, send: Send) -> bool:
    """Tell whether an error began with a CLIENT_DISCONNECT, or with the OSError of a server's `send` (ASGI 2.4).

    The app may have raised others while it handled that one, or a group of nothing else.
    """
    try:
        return _began_in(error, send)
    except Exception:  # noqa: BLE001 - a group that goes too deep, or an error of an odd kind
        return False


def _began_in(error: BaseException | None, send: Send) -> bool:
    for _ in range(MAX_CAUSES):
        if isinstance(error, BaseExceptionGroup):
            return all(_began_in(one, send) for one in error.exceptions)
        if error is None or isinstance(error, OSError):
            break
        if error.__class__.__name__ == CLIENT_DISCONNECT:
            return True
        error = error.__context__
    code = getattr(send, "__code__", None)
    return isinstance(error, OSError) and any(frame.f_code is code for frame, _ in walk_tb(error.__traceback__))

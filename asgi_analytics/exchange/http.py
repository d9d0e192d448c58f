"""One HTTP request with its answer, from identification to its row in the journal."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from ..clock import MINUTE_NS
from ..errors import JournalClosed
from ..identify.request import is_shared, leads_to_other_origin
from ..model import CachedRefusal
from ..protocols import Headers, Message, Send
from ..respond import CLOSED, ORDINARY, OURS, in_lower_case, messages, with_fields
from ..threads import run_in_thread
from .arrival import CACHED_FOR
from .outcome import outcome_of, status_from_outside
from .recorded import Recorded

SCOPE_KEY = "asgi_analytics"  # in the scope while the app runs: an outer middleware of ours has this request already

# Beside http.response.body, what can end an answer.
_FILE_MESSAGES = frozenset(("http.response.pathsend", "http.response.zerocopysend"))


class Exchange(Recorded):
    """An HTTP request and its answer: what the app sends passes here, and at its end the request becomes a row."""

    _length: Any = None  # of the answer, as its headers announce it
    _is_bodiless = False  # the visitor has all of the answer with its headers
    _is_synced = False  # its row is flushed

    def send(self, message: Message) -> Awaitable[None]:
        """Pass a message of the app on; the row is in the journal before the visitor has all of the answer."""
        kind = message["type"]
        if kind == "http.response.start":
            if self.status is not None and self.bytes_sent:  # else a server has refused the first one
                self.end("aborted")  # it is begun anew, as by MCP's transport of events when its visitor has left
                return self._send(message)
            try:
                message = self._respond(message)
            except RecursionError:  # the stack is so full that not even our own failure can be counted
                pass
            if not self._is_bodiless:
                return self._send(message)
        else:
            is_last = False
            try:
                if kind == "http.response.body":
                    is_last = not message.get("more_body")
                    body = message.get("body")
                    if body:
                        self.bytes_sent += len(body)
                elif kind in _FILE_MESSAGES:
                    is_last = not message.get("more_body")
                    self._count_file(message)
            except Exception as error:  # noqa: BLE001 - an invalid body is left to the server
                self._engine.failed("count", error)
            # With all bytes that Content-Length announces the visitor has all: many apps end the answer only later.
            if not is_last and self._length != b"%d" % self.bytes_sent:
                return self._send(message)
        try:
            self.end("complete")
        except RecursionError:  # as above
            self._owed = "complete"
        return self._send_synced(message) if self._engine.syncs else self._send(message)

    def _count_file(self, message: Message) -> None:
        """Count what the server sends from a file, as far as it is announced: asking the disk may block."""
        count = message.get("count")  # None: to the end of the file, as a pathsend is
        self.bytes_sent = int(self._length or self.bytes_sent) if count is None else self.bytes_sent + int(count)

    async def refuse(self) -> bool:
        """Answer with a refusal instead of the app. Returns False if our own bug kept it from being made."""
        send = self._send_synced if self._engine.syncs else self._send
        if self._cached is not None:
            self._count_again(self._cached)
            for message in messages(self.scope, self._cached.answer):
                await send(message)
            return True
        try:
            self._engine.recorder.refuse(self)
        except Exception as error:  # noqa: BLE001 - our own bug must never cost the host a request
            self._engine.failed("count refusals", error)
        try:
            refusal = self._engine.responder.answer(self.scope, self.decision)
            told = messages(self.scope, refusal)
        except Exception as error:  # noqa: BLE001 - as above
            self._engine.failed("refuse", error)
            return False
        self.status, self.bytes_sent, self.first_byte_us = refusal.status, len(refusal.body), self._elapsed_us()
        self.end("refused")
        try:
            for message in told:
                await send(message)
        finally:
            self.end("refused")  # where the row could not be made
        if refusal.error is not None:
            self._engine.failed("refine_refusal", refusal.error)
        if self.count_frame is not None and refusal is not CLOSED:
            until = min(self.decision.holds_until, self.started_at + CACHED_FOR)
            minute = self.time_ns // MINUTE_NS
            cached = CachedRefusal(self.decision, refusal, self.count_frame, until, minute, self._ruling)
            self._engine.state.cache_refusal(self.visitor, cached)
        return True

    def _count_again(self, cached: CachedRefusal) -> None:
        """Count a refusal that is sent again: before it is sent, as all are."""
        self.recorded = True
        engine = self._engine
        try:
            try:
                engine.open_recorder().refuse_again(cached.count_frame)
            except JournalClosed:  # stopped meanwhile
                engine.open_recorder().refuse_again(cached.count_frame)
        except Exception as error:  # noqa: BLE001 - as above
            engine.failed("count refusals", error)

    async def fail(self, error: BaseException, send: Send, is_handled: bool) -> None:
        """Record the request, if it is not yet, after the app has raised; `is_handled`: see status_from_outside."""
        status = None if self.recorded else status_from_outside(error, is_handled and self.status is None)
        if status is None:
            return await self.finish(outcome_of(error, send))
        try:
            if self.status is None:
                self._judge(status, {})
        except Exception as failure:  # noqa: BLE001 - as in `end`
            self._engine.failed("judge", failure)
        self.status = status
        await self.finish("complete")

    def _respond(self, message: Message) -> Message:
        """Judge the visitor by the answer that begins, and add our headers; without them if that fails."""
        engine, headers = self._engine, None
        try:
            self.status = status = message["status"]
            headers = list(message.get("headers") or ())
            names = dict(headers)
            is_ordinary = ORDINARY.issuperset(names)
            if not is_ordinary:
                names = in_lower_case(names, headers)
            self._length = length = names.get(b"content-length")
            if length == b"0" or status in (204, 304) or self.method == "HEAD":
                self._is_bodiless = True
            self._judge(status, names)
            fields = engine.responder.fields(self.decision)
            cookie = self.visitor.cookie
            if cookie is not None and status != 304 and not is_shared(headers) and not self._leads_away(names, cookie):
                fields = (*fields, (b"set-cookie", cookie))
                # Taken from the visitor: another request, of somebody who looks alike, must not get the same one.
                self.visitor.cookie, self.visitor.cookie_sent = None, True
            if is_ordinary or OURS.isdisjoint(names):
                headers.extend(fields)
                message = {**message, "headers": headers}
            else:
                message = with_fields({**message, "headers": headers}, fields)
        except Exception as error:
            if headers is None and hasattr(message.get("headers"), "__next__"):
                raise  # the app's own error, raised by its iterator, which is used up
            engine.failed("judge and respond", error)
            if headers is not None:  # an iterator is used up by now
                return {**message, "headers": headers}
        return message

    def _leads_away(self, names: Headers, cookie: bytes) -> bool:
        """Tell whether the answer redirects to another origin of this site, which does not get its cookie."""
        location, secure = names.get(b"location"), cookie.startswith(b"__Host-")
        return location is not None and leads_to_other_origin(location, self._headers.get(b"host", b""), secure)

    async def _send_synced(self, message: Message) -> None:
        """Send a message after which nothing may follow, once the row of the request is flushed to disk."""
        journal = self._engine.recorder.journal
        if journal is not None and not self._is_synced:
            self._is_synced = True
            try:
                await run_in_thread(journal.sync)
            except Exception as error:  # noqa: BLE001 - a failing disk must not cost the visitor the answer
                self._engine.failed("sync", error)
        await self._send(message)

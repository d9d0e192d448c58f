"""A request that the app answers: its visitor is judged by the answer."""

from __future__ import annotations

import re
from typing import Any

from ..decide.attempts import is_typed
from ..decide.behaviour import comes_between, with_order
from ..decide.callers import is_small, login_among
from ..decide.conduct import CRAWLER, TOOL
from ..decide.failures import Failure, guess_of
from ..decide.probes import OF_FOLDERS, is_injected, is_injection, is_package, is_picture
from ..decide.redirects import NOT_FOUND, is_redirected, note_redirect, stands_for_not_found
from ..decide.verdict import pass_redirected
from ..facts import Actor, Behaviour, Claims, Traces
from ..identify.credentials import (
    has_credentials,
    is_form_of_no_page,
    login_number,
    refused_attempt,
    token_of,
    typed_length,
)
from ..identify.request import (
    is_data,
    is_inner,
    is_linked,
    is_navigation,
    is_page,
    is_precached_or_tile,
    is_prefetch,
    redirect_target,
    referring_page,
    target_number,
    target_on_site,
)
from ..inputs import (
    BETWEEN,
    BY_LENGTH,
    DATA,
    FORM,
    INJECTED,
    IS_LED,
    KNOWN,
    LED_ON,
    PREFETCHED,
    QUERIED,
    REDIRECTED,
    TRUSTED,
    TYPED,
)
from ..model import Variant
from ..protocols import Headers
from .arrival import Arrival
from .coercion import text

_REDIRECTS = (301, 302, 303, 307, 308)
_ORIGIN = re.compile(rb"[a-z]+://[^/]*")
# The answer to a write echoes what was sent: a phone that was offline saves its changes one by one. That to HEAD says
# what there would be: an upload that goes on, or a file that is already here.
_WITHOUT_DATA = OF_FOLDERS | {"POST", "PUT", "PATCH", "DELETE", "HEAD"}


class Answered(Arrival):
    """A request whose visitor is judged by the answer, before its headers are sent."""

    def _judge(self, status: Any, names: Headers) -> None:
        """Judge by the answer: a page, an error, data or what follows a POST, a redirect, or something else."""
        engine, visitor, decision = self._engine, self.visitor, self.decision
        actor, now = visitor.actor, engine.monotonic()
        self.first_byte_us = int((now - self.started_at) * 1e6)
        before, admitted = decision.previous_level, decision.level
        # A package manager asks an index for all that a project builds on: neither pages nor data.
        program = actor.program
        indexed = program and status == 200 and is_package(self.path)
        if self.method == "GET" and not indexed and is_page(self._headers, status, names, program is TOOL, self.path):
            self._judge_page(actor, now)
        elif (isinstance(status, int) and status >= 400) or self._was_refused(status, names):
            self._judge_failure(status, names, now)
        elif (data := self._has_data(status, names) and not indexed) or self.method == "POST":
            kind = self._headers.get(b"content-type", b"")
            form = not data and b"form" in kind and self._is_form(status, names)
            self._judge_data_or_post(data, now, form)
            if status in (302, 303) and not decision.refused:
                note_redirect(actor.behaviour, redirect_target(self._located(names)), now)
        elif status in _REDIRECTS:
            self._judge_redirect(self._located(names), now)
        elif not decision.refused:
            actor.behaviour.requests += 1
        if decision.previous_level is not before:
            self._level_changed()
        elif decision.level is not admitted:  # risen again to what it cooled down from, or put at the level of a pool
            engine.state.level_changed(visitor)

    def _judge_page(self, actor: Actor, now: float) -> None:
        facts = actor.behaviour
        self.page_view = True
        self.from_inside = inner = is_inner(self._headers)
        if inner and facts.people < facts.entries and not self.decision.refused and self._comes_between(facts, now):
            self.inputs |= BETWEEN
        # Read only where they may change the verdict.
        claims = None if facts.steps < facts.quiet_until else self._claims_of_page()
        page: str | Variant = self.path
        if self._query:
            self.inputs |= QUERIED
            page = self._page_variant(inner) or page
        traces = facts.traces
        if traces is not None and traces.redirected_to and self._was_redirected(traces, page, now):
            return
        visitor, loads = self.visitor, facts.page_loads
        self._engine.judge.page(actor, page, inner, self.decision, now, claims, visitor.network, not self._query)
        if visitor.borrows:
            visitor.borrowed_loads += facts.page_loads - loads

    def _has_data(self, status: Any, names: Headers) -> bool:
        return self.method not in _WITHOUT_DATA and is_data(names, status, self.path)

    def _comes_between(self, facts: Behaviour, now: float) -> bool:
        path, query = referring_page(self._headers.get(b"referer", b"").decode("latin-1"))
        root = text(self.scope.get("root_path")).rstrip("/")
        if root and not f"{self.path}/".startswith(f"{root}/"):
            path = path.removeprefix(root)
        return comes_between(facts, path, query, self._engine.variants, now)

    def _is_form(self, status: Any, names: Headers) -> bool:
        """Tell whether this is a form that no page sent, and note it."""
        if not is_form_of_no_page(self._headers, self.path, status, names, self._shows_pages()):
            return False
        self.inputs |= FORM
        return True

    def _claims_of_page(self) -> Claims:
        claims = self._session_claims or self._claims(self.scope)
        if claims.is_led:
            self.inputs |= IS_LED
        return claims

    def _was_redirected(self, traces: Traces, page: str | Variant, now: float) -> bool:
        """Tell whether the app itself redirected to this page after a form; if so, count it as such."""
        if not is_redirected(traces, target_number(self.path, self._query), now):
            return False
        self.inputs |= REDIRECTED
        return pass_redirected(self.visitor.actor, page, self.decision, now)

    def _judge_redirect(self, names: Headers, now: float) -> None:
        """Judge a redirect that stands for an error. Another one of a page counts by the answer where it leads.

        That answer comes here, too; but files may be on another server, and a crawler follows redirects of long ago.
        """
        actor = self.visitor.actor
        if self._stands_for_error(names):
            self.inputs |= REDIRECTED
            self._judge_failure(NOT_FOUND, names, now)
        elif is_navigation(self.method, self._headers) and actor.program != CRAWLER:
            self.inputs |= LED_ON
        elif not self.decision.refused:
            actor.behaviour.requests += 1

    def _stands_for_error(self, names: Headers) -> bool:
        """Tell whether a redirect stands for an error; not one to a picture, which may replace all missing ones."""
        if is_picture(names.get(b"location", b"").decode("latin-1")):
            return False
        return stands_for_not_found(self.visitor.actor, self.path, target_on_site(names, self._headers, self.path))

    def _judge_failure(self, status: Any, names: Headers, now: float) -> None:
        engine, visitor = self._engine, self.visitor
        self.from_inside = inner = self._is_linked()
        self.attempt = self._refused_attempt(status, names)
        trusted = self.attempt is None and has_credentials(self._headers)
        if trusted:
            self.inputs |= TRUSTED
        typed = self.attempt is not None and self._is_typed(status, self.attempt)
        if typed:
            self.inputs |= TYPED
        injected = (bool(self._query) and is_injection(self._query)) or is_injected(self._headers)
        if injected:
            self.inputs |= INJECTED
        guess = None
        if self._query and self.attempt is None:
            guess = guess_of(engine.variants, self.path, self._query, status)
        if guess is not None:
            self._keep_for_row(guess)
        form = self.method == "POST" and self._is_form(status, names)
        failure = Failure(status, self.method, self.path, inner, self.attempt, trusted, injected, guess, typed, form)
        claims = self._claims(self.scope)
        engine.judge.failure(visitor.actor, failure, self.decision, now, claims, visitor.network)

    def _is_typed(self, status: Any, attempt: int) -> bool:
        """Tell whether what was refused, and is no token, is being typed in."""
        if self.decision.refused or (attempt and not attempt & BY_LENGTH):
            return False
        return is_typed(self.visitor.actor.behaviour, typed_length(self._headers, status))

    def _is_linked(self) -> bool:
        """Tell whether a page made the request."""
        return is_linked(self._headers)

    def _judge_data_or_post(self, data: bool, now: float, form: bool) -> None:
        engine, actor = self._engine, self.visitor.actor
        excused, trusted, variant, login = False, False, None, 0
        if data:
            prefetched = is_prefetch(self._headers) or is_precached_or_tile(self.path, self._query)
            trusted = has_credentials(self._headers)
            self.inputs |= DATA | PREFETCHED * prefetched | TRUSTED * trusted
            excused = prefetched or trusted
            variant = self._data_variant() if self._query else None
        if b"cookie" in self._headers or (data and trusted):
            login = self._login(data)
        engine.judge.data_or_post(actor, data, self.path, self.decision, now, excused, variant, form, login)

    def _login(self, data: bool) -> int:
        """Return the number of who asks for data, or sends something, where several browsers look alike."""
        actor, identity = self.visitor.actor, self.visitor.identity
        traces = actor.behaviour.traces
        if traces is None or is_small(traces, data) or self.decision.refused:
            return 0
        forges = actor.program or (actor.claims.faults and self._engine.site.knows_headers())
        if forges and token_of(self._headers) is None:  # any program may keep cookies
            return 0
        login = login_among(traces, login_number(self._headers, identity.fingerprint))
        if identity.tracked and login:
            self.login = login
            self.inputs |= DATA if data else KNOWN
        return login

    def _page_variant(self, inner: bool) -> Variant | None:
        """Return which page the query names; a client that does not send where it comes from may follow a link."""
        actor = self.visitor.actor
        says = (
            b"sec-fetch-site" in self._headers
            or actor.program
            or (actor.claims.is_browser and self._engine.site.knows_headers())
        )
        variant = self._engine.variants.page(self.path, self._query, inner or not says)
        return None if variant is None else self._keep_for_row(with_order(variant, actor.behaviour))

    def _data_variant(self) -> Variant | None:
        """Return which data the query names; None where credentials came with the request."""
        if self.method != "GET" or has_credentials(self._headers):
            return None
        variant = self._engine.variants.data(self.path, self._query)
        return None if variant is None else self._keep_for_row(variant)

    def _keep_for_row(self, variant: Variant) -> Variant:
        if self.visitor.identity.tracked:
            self.variant = variant
        return variant

    def _was_refused(self, status: Any, names: Headers) -> bool:
        """Tell whether a form was refused and shown again, with a status that is no error."""
        return self.method == "POST" and self._refused_attempt(status, names) is not None

    def _refused_attempt(self, status: Any, names: Headers) -> int | None:
        by_tool = self.visitor.actor.program is TOOL
        if status in _REDIRECTS:
            names = self._located(names)
        return refused_attempt(self.method, self._headers, status, self.path, names, by_tool)

    def _located(self, names: Headers) -> Headers:
        """Return the headers, Location without the root_path if paths come without it: a proxy has taken it off."""
        scope, location = self.scope, names.get(b"location")
        root = text(scope.get("app_root_path", scope.get("root_path"))).rstrip("/")  # the first one behind a Mount
        if not root or location is None or f"{self.path}/".startswith(f"{root}/"):
            return names
        found, mounted_at = _ORIGIN.match(location), root.encode("utf-8", "replace")
        origin = found[0] if found else b""
        if not location.startswith(mounted_at + b"/", len(origin)):
            return names
        return {**names, b"location": origin + location[len(origin) + len(mounted_at) :]}

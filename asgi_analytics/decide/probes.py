"""Sensitive paths: whoever asks for them, on a site that does not serve them, is looking for vulnerabilities."""

from __future__ import annotations

import re

from ..facts import Behaviour, Traces
from ..inputs import bounded, is_unguessed, path_number
from ..protocols import Headers

# No page needs these: a Referer that says so is forged, unless somebody else put them into the page.
_HIDDEN = re.compile(
    r"/\.(?:env|git|svn|hg|aws|ssh|htpasswd|htaccess|ds_store|vscode|npmrc|docker|kube|bash_history)\b", re.IGNORECASE
)
# No person types these; a site that moved may still link them: each is enough.
_SECRETS = re.compile(
    r"/(?:eval-stdin|shell|phpinfo|info|wlwmanifest|adminer|setup-config|c99|r57|alfa|filemanager)\.(?:php|xml)\b"
    r"|/(?:wp-config|config|backup|dump|db|database|site|www)\.(?:php\.\w+|sql|zip|tar|tar\.gz|rar|bak|7z)$"
    r"|/(?:cgi-bin|boaform|hnap1|_ignition|telescope/requests|actuator/(?:env|heapdump)|solr/admin|manager/html)"
    r"|/(?:wp-content/plugins|wp-includes|vendor/phpunit|etc/passwd|proc/self|jenkins/login|owa/auth)"
    r"|^/credentials$|/credentials\.\w+$"
    r"|/(?:id_rsa|web\.config|appsettings\.json|docker-compose\.ya?ml)\b",
    re.IGNORECASE,
)
# People who look after sites type these now and then: two of them are needed.
_DOORS = re.compile(
    r"/+(?:wp-login\.php|wp-admin|wp-json|xmlrpc\.php|phpmyadmin|pma\b|myadmin|administrator|admin\.php|server-status"
    r"|console\b|graphql\b|swagger|api-docs|remote/login|actuator|config\.json|test\.php)",
    re.IGNORECASE,
)
# Some apps find out by asking which of hundreds of pictures are missing; scanners do not look there.
_PICTURE = re.compile(
    r"\.(?:png|jpe?g|gif|webp|avif|svg|ico|pbf|mvt|terrain)(?:;[^/]*+)?$"
    r"|\.(?:css|m?js)\.map$"  # asked for by who opens the developer tools
    r"|/(?:avatars?|covers?|photos?|pictures?|posters?|thumb(?:nail)?s?)/[^/.]+(?:/[^/.]+)?$",
    re.IGNORECASE,
)
# What package managers ask one index after another for: Python's, Go's, Maven's, Debian's.
_PACKAGE = re.compile(
    r"/simple/[\w.-]+/?\Z|/@v/(?:list|v[\w.+-]+)\Z|/@latest\Z|\.pom\Z|/maven-metadata\.xml(?:\.\w+)?\Z|/dists/[^/]+/",
    re.ASCII,
)
# What scanners write into parameters: SQL, paths out of the folder, scripts, look-ups. People ask a search for it, too:
# only an app that fails at it makes it a probe.
_INJECTION = re.compile(
    r"\bunion(?:\s|/\*[^*\s]{0,20}\*+/|\(|\ball|\bdistinct){1,8}select\b"
    r"|\b(?:or|and)\b[ '\"(]{1,4}\w{1,8}['\")]{0,2} ?= ?['\"(]{0,2}\w"
    r"|=-?\d+['\"](?=[\s&)#;]|$)"
    r"|\b(?:sleep|benchmark|extractvalue|updatexml|load_file|xp_cmdshell)\s?\(|\bwaitfor\s+delay\b"
    r"|(?:\.\.|%2e%2e)(?:[/\\]|%2f|%5c)(?:\.\.|%2e%2e)(?:[/\\]|%2f|%5c)|\.{4}//|/etc/passwd|<script\b|\bonerror\s?="
    r"|\$\{(?:jndi:|\$\{)|(?:[{$#]\{|<%=)\s?\d{1,9}\s?\*\s?\d|\b__(?:class|globals|import)__\b|=(?:php://|file:///)"
    r"|\b169\.254\.169\.254\b|[;|`]\s?(?:cat|wget|curl|whoami)\b",
    re.IGNORECASE,
)
_IN_HEADERS = re.compile(rb"\$\{(?:jndi:|\$\{)|\(\) ?\{ ?[:_]", re.IGNORECASE)  # Log4Shell, also disguised; Shellshock
_STORED = 1024  # characters of a path
_QUERY, _LONGEST_QUERY = 1024, 8192  # characters of a query: that are looked at, and out of which padding is taken
# Plain parameters, and words of 64 characters or more. As a set, \w is searched for at the speed of a scan.
_PADDING = re.compile(r"[\w](?<!\w\w)\w*+(?:=\w*+&(?:\w++=\w*+&)*+|(?<=\w{64}))", re.ASCII)
_ESCAPED = re.compile("%([0-9a-fA-F]{2})")
PROBE_BITS = 128  # of a bitmap
HIDDEN = 3  # the kind of a probe that no page links, above those that weigh 1 and 2
DIGEST = 64  # in kind_of, above what variants.packed puts there
# Of WebDAV, by which programs, and pages' scripts, keep files and calendars alike (RFC 4918, 3253, 4791, 5323, 3744).
OF_FOLDERS = frozenset(
    ("PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "REPORT", "SEARCH", "ACL")
).union(("MKCALENDAR", "MKACTIVITY", "CHECKIN", "CHECKOUT", "UNCHECKOUT", "MERGE", "UPDATE", "VERSION-CONTROL"))
_METHODS = OF_FOLDERS | {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WEBSOCKET"}
# What systems look for in each folder that they mount, beside each file or once.
_IN_FOLDERS = re.compile(
    r"/(?:\._[^/]*|\.(?:DS_Store|directory|fseventsd|hidden|localized|metadata_never_index|Spotlight-V100|Trashes?(?:-\d+)?)"
    r"|autorun\.inf|desktop\.ini|folder\.(?:jpg|gif)|thumbs\.db)/?\Z",
    re.IGNORECASE,
)


def probe_kind(path: str) -> int:
    """Return how sensitive a path is.

    HIDDEN: a file that no page links; 2: a path that only scanners ask for; 1: one that a person might try; 0: others.
    """
    cut = path[:256]
    if _HIDDEN.search(cut):
        return HIDDEN
    if _SECRETS.search(cut):
        return 2
    return 1 if _DOORS.match(cut) else 0


def probed(path: str, kind: int) -> str:
    """Return the text that a sensitive path counts by: for all below one of _DOORS, its name alone.

    A site may have its own /console or /graphql, with things in it that are gone.
    """
    door = _DOORS.match(path[:256]) if kind == 1 else None
    return bounded(path) if door is None else f"/{door[0].lstrip('/').lower()}"


def count_probe(facts: Behaviour, path: str, kind: int) -> bool:
    """Count a sensitive path that the site does not serve. Returns False for one that was counted before.

    `kind`: as from probe_kind, or 1 for weaker evidence.
    """
    traces = facts.traces
    if traces is None:
        traces = facts.traces = Traces()
    bit = 1 << path_number(probed(path, kind)) % PROBE_BITS
    if traces.probes_bitmap & bit:
        return False
    traces.probes_bitmap |= bit
    traces.probes += min(kind, 2)
    return True


def is_hidden_file(path: str) -> bool:
    """Tell whether a path names a hidden file at the site's root."""
    return path.startswith("/.") and _HIDDEN.match(path[:256]) is not None


def is_picture(path: str) -> bool:
    """Tell whether a path names a picture, or a tile of a map."""
    return _PICTURE.search(path, 0, _STORED) is not None


def is_package(path: str) -> bool:
    """Tell whether a path is what a client of an index of packages asks for, which has few of those that it needs."""
    return _PACKAGE.search(path, 0, _STORED) is not None


def is_in_folders(path: str) -> bool:
    """Tell whether a path names what a system looks for in each folder."""
    return _IN_FOLDERS.search(path, 0, _STORED) is not None


def is_injection(query: bytes | str) -> bool:
    """Tell whether a query, as it was sent, holds what scanners write into parameters."""
    text = query[:_LONGEST_QUERY].decode("latin-1") if isinstance(query, bytes) else query[:_LONGEST_QUERY]
    if len(text) > _QUERY:
        text = _PADDING.sub("x", text)[:_QUERY]
    # As unquote_plus, for which each % that is no escape costs an exception.
    plain = _ESCAPED.sub(lambda escape: chr(int(escape[1], 16)), text.replace("+", " "))
    return _INJECTION.search(plain) is not None


def is_injected(headers: Headers) -> bool:
    """Tell whether a header holds what scanners write into user agents, Referers, cookies and X-Forwarded-For."""
    text = b"\n".join(headers.values())[:_LONGEST_QUERY]
    return b"{" in text and _IN_HEADERS.search(text) is not None


def kind_of(path: str) -> int:
    """Return `probe_kind` of a path, plus 4 if no browser sends it, plus DIGEST if it ends with what nobody guesses."""
    return probe_kind(path) + 4 * is_odd("GET", path) + DIGEST * is_unguessed(path)


def is_odd(method: str, path: str) -> bool:
    """Tell whether no browser, nor a script in a page, sends a method or a path (RFC 9110, 9.3.8; RFC 3986, 5.2.4)."""
    if method not in _METHODS:
        return True
    return "/../" in path or path.endswith("/..") or "\0" in path or "\\" in path or "://" in path[:16]

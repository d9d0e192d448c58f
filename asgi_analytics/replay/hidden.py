"""Stand-ins for paths that are not stored as they were, because of long tokens or parameters in them."""

from __future__ import annotations

from functools import lru_cache
from itertools import count

from ..decide.probes import DIGEST, is_picture, kind_of
from ..inputs import LOW_32_BITS, PATH_BITS, path_number

LONGEST = 200  # characters, so that what is put behind counts: verdicts look at the first 256
PLAIN = ("/hidden", "/wp-admin/hidden", "/cgi-bin/hidden", "/.env/hidden")  # by decide.probes.probe_kind
ODD = 4  # see decide.probes.kind_of
BACKSLASH = "\\"  # makes a path odd


@lru_cache(maxsize=8192)
def stand_in(path: str, inputs: int) -> str:
    """Return a path that verdicts see as they saw the one that was asked for.

    `path` as it is stored; `inputs` as in hits.path_inputs. It is the same kind of probe, as odd, likewise a picture, a
    digest or neither, has the same place in bitmaps, and differs from other stand-ins. How it sorts among others of the
    same stored path is not known.
    """
    number, kind = inputs & LOW_32_BITS, inputs >> 32
    digest, kind = kind & DIGEST, kind & ~DIGEST
    name = f"#{number:08x}{BACKSLASH if kind & ODD else ''}-"
    base = path[:LONGEST]
    if kind_of(f"{base}{name}") != kind:
        base = PLAIN[kind % ODD]
    ending = f"/{number:032x}" if digest else ""
    if is_picture(path) != is_picture(f"{base}{name}"):
        ending = f".{path.rpartition('.')[2]}"
    places = (1 << PATH_BITS) - 1
    return next(
        found
        for found in (f"{base}{name}{further}{ending}" for further in count())
        if (path_number(found) ^ number) & places == 0
    )

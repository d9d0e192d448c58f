"""The second stage: admission.py lets a request in or refuses it; verdict.py judges its visitor by the app's answer.

What counts as evidence, and what is excused:

- Page loads are counted by the answer: HTML that a browser asks for as it navigates, or a script that shows it (htmx
  for boosted links, Turbo, PJAX), and what Inertia makes a page of. Files, beacons, API calls, our own refusals and
  reloads of one of the last four pages are none, nor is a page that the answer to a form led to (303 or 302, up to 600
  an hour). Reloads faster than one a second count for the pace from the 51st in a row on; of a page without a query,
  only beyond 3,000 an hour. So do forms that no page sent, as far as can be told: their sender has loaded none, or says
  neither by Fetch Metadata, Origin nor Referer that one did. They count if answered by a page, or among such answers by
  500; with a token or a signature, or from a page's script, never.
- Failures are answers of 4xx, websockets that are not accepted (unless by a close code of 1011 to 1014), and redirects
  from a path that only scanners ask for, or to the same target as the redirect before (except a crawler's, and those to
  other hosts or to a picture). A path fails anew with another `token`, `code`, `password` or the like in its query,
  and, answered 403, 404 or 410, with another number as `id`, `order_id` or the like. Excused are up to 60 in a session
  that a browser asks for at least two seconds apart; a token that is asked for, or refused in a header; 402, 409, 412;
  pictures, source maps and tiles; what failed before; 404 for digests, bar codes and what package managers ask each
  index for; what systems look for in each folder, by methods of WebDAV; what a page of the site or its domain links
  (200 paths an hour and person), or one of another site shows; and what is asked for with an `Authorization` (1,000
  paths an hour). Beyond these, those of the last five minutes count after all: a scanner is slowed down from some 220
  guesses on if it says that pages sent it, from some 1,200 with a made-up token.
- Sensitive paths: all below one such as `/console/…` are one. What a page of this site links, or one of another shows,
  does not count, unless a tool claims so; for hidden files, only a browser that loaded a page is believed. Queries that
  scanners try may be typed by a developer: a browser has 15 an hour, and 40 by what it says are links.
- Credentials are refused by 400, 401, 403 to a POST, and by 401 or 403 to an `Authorization`; at a login also by 404,
  422, the form shown again, or a redirect back to it or to an address that tells of an error; at a payment by 402, 404,
  422, and where a code or a coupon is taken by 404, 422. Not counted are the same token or API key again, also one that
  signs each request, as for S3; a nonce of Digest that ran out; a script's calls of the same length now and then (500
  in ten minutes, 4,000 of a browser's pages), or an app's of JSON that are answered 401, unless they send codes or
  cards; what gets longer from call to call, as in a form that is checked with each key (200 in ten minutes); at routes
  that take no secret, JSON that is answered 400, files, what a page's script saves, what is signed; and webhooks. Each
  accepted POST excuses three, up to 150 a session, and person, as far as logins tell people apart; a browser that also
  fetches pages and files is excused 100 where nobody has been let in yet.
- Data is JSON, XML, CSV, YAML, Protobuf, MessagePack, parts of pages, documents such as PDF, and text or answers
  without a type; no feeds, nor what registries of packages send by types of their own, nor what package managers ask
  an index for, nor answers to HEAD and methods of WebDAV. What is fetched within two seconds, after three quiet ones,
  counts as one item if it ends within six; so do up to 300 within 80 for a browser that loaded a page, if they end
  there or are slower than one a second; all together at most 600 in five minutes. Up to 1,000 an hour do not count that
  are prefetched, kept for offline use, map tiles, or asked for with a token or signature.
- Absent headers mean nothing until 20 sessions have shown that such headers reach this app: some proxies strip them,
  and over plain http browsers do not send them.
- Visitors with forged headers are also judged together, by network and by user agent: changing the name or the address
  is no fresh start. Others at the same address are not touched.
- People with the same browser behind one address are counted per person, as far as their ways into the site, the
  popular pages that they share and who comes in between tell; data, too, where also logins tell: a cookie of a session,
  or a token, that comes back after others counts as a person after five minutes, before that in part, and what it
  fetches at once as one item; of programs only a token. With `session_cookie`, who has returned it no longer counts for
  those who look alike and have yet to. A program that forges these gains slack in these signals, but
  no quota.
- A program that identifies itself as one is not judged by how people browse: no counts, coverage, order, timing or pace
  over five minutes (the rows from `high_request_count` to `home_tab_watcher`, and `inconsistent_headers` and
  `hosting_network`). More than 30 pages in a minute (60 for a crawler under its own name), probing, guessing, errors
  and a false claim count for all.
"""

from __future__ import annotations

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

A signal of the site's own is a function and a row. It returns a number, or None where there is none, and must be fast;
an error in it is counted (`failures`) and costs only its value:

    from asgi_analytics import Actor, AnalyticsMiddleware, Signal, Site


    def inner_share(visitor: Actor, site: Site, site_pages: int, now: float) -> float | None:
        facts = visitor.behaviour
        return 100.0 * facts.inner_steps / facts.page_loads if facts.page_loads > 30 else None


    text = "{value:.0f} % inner steps (limit {limit:g} %)"
    row = Signal("few_inner_steps", inner_share, text, below=True, points=20, threshold=10)
    app = AnalyticsMiddleware(app, signals=[row])

The signals of this package, where README.md says less:

- A loop over at most 12 pages, as on a wall display, is neither many pages (`high_request_count`) nor an order.
- `high_page_coverage`: of sites with at least 20 pages, most of them loaded by others, when nine in ten steps lead to
  new pages. Like `every_page_once`, it leaves out where links lead on by number, from `/photo/7` to `/photo/8`, in a
  browser that also fetches files (where others do).
- `sequential_navigation`: of at least 12 steps, not by a link of this site, nor, for who also fetches files, as tabs at
  once or mostly by links of another site.
- `links_never_followed`: pages on average less than a minute apart and not all within half a minute, by a browser that
  sends where it comes from; not counting up to 60 tabs that are reopened at once, nor, for who also fetches files,
  where most come by links of another site.
- `every_page_once`: of at least 100 steps, ways back included.
- `probing`: one path like `/.env` or `/.git/config`, two like `/wp-login.php`; or two queries or headers typical of
  scanners (SQL, `../../`, `{{7*7}}`, `${jndi:`) that are answered with an error; or pages in place of two hidden files,
  from an app that has one for any path.
- `distributed_stuffing`: two credentials refused to somebody who never loaded a page, or to a library, while more than
  30 come to that route and hardly any, but some, are right (if none is, the app may be at fault).
- `distinct_items_per_minute`: per person, hardly any twice; for a tool, repeats do not matter.
- `many_pages_by_a_tool`: as HTML or Markdown, by an HTTP library or a program without a known name, whatever its
  headers say; not CloudFront, which replaces its visitors' user agents by its own.
- `inconsistent_headers`: no Fetch Metadata over https (or over what a trusted proxy says was https), client hints of
  another release or engine, no `Accept-Language`; in an older browser, which sends no Fetch Metadata, `Accept: */*`
  without `Referer` and `Origin` before any page.
- `odd_method_or_path`: TRACE, `/../`, NUL, a URL, in a failed request.
- `hosting_network`: with consistent headers only after 20 pages, unless it follows links and fetches files, as people
  with a VPN do.

A level rises for pace when more than 30 pages a minute are loaded (by a library, 15 for each further level if faster
than one a second). Once, a burst of 60 may be tabs, for a browser that has loaded at most 75 in five minutes and
fetches files or follows links (or where few browsers fetch files, as behind a CDN; 45 at once else). 150 a minute, and
300 in five minutes, are allowed where links lead on by number, and for a browser that loads at most 12 in turn. Of
refused credentials each further level takes 10 if they come so fast, of different data 50, or 10.

What is not seen:

- A page that Turbo 8 fetches as the pointer rests on a link is no page view (but for `<meta name="turbo-prefetch"
  content="false">`), nor one that Swup, Unpoly, Alpine AJAX or a single-page app shows.
- Rotating addresses cannot be linked if the headers are a browser's, nor by /24 or ASN: people of a carrier share
  these.
- People who look alike behind one address are told by what they load again, and up to five by who comes in between: a
  browser that is sent to a list, takes a link, is sent there again, and so on, or several windows that do, pass for
  them, as does a walk over data by dozens of sessions' cookies in turn, at first slower than five a second.
- In a query, what names a thing (`id`, `product_id`, `t`, `isbn`, `title`) or a page of a list (`page`, `offset`) makes
  another page or item; the latter only for those who come without a link, and for data beyond the hundredth. Not so
  searches, filters, dates, coordinates, places in streams (`cursor`), which people and scripts make up, nor data with
  an `Authorization`: who clicks "next" through `?page=…` or walks by `?cursor=…` meets only the quotas.
- Files, one by one, what websockets carry, and data that is polled meet only the quotas.
- Guesses that an app answers as if they were right (a wrong password or declined card by 200 and JSON, or a redirect to
  a page that does not mention it), accounts that a sign-up tells of, paths answered by 401 to all, credentials in a
  websocket's handshake, what scanners put into JSON, headers or a query of what succeeds (a user agent with Log4Shell
  is of class `scanner`), and forms slower than one a second, or in two by a browser's name.
- What was asked for before is told by the last bits of a checksum that anybody can compute: who sorts data, pages for a
  library or guesses by these is taken for somebody who asks for the same again.

Honest clients that do what attacks do, and are flagged or refused:

- a monitor of more than 20 URLs that should all answer 404: refused from the 64th on; one that tries `/.env`, at once;
- link checkers, mirrors, load and smoke tests of one's own site by a library: at the 31st page in a minute (61st by a
  crawler), or the 51st; tests by a real browser at a clock's pace;
- package managers (not of Python, Go, Java, Debian) that ask an index for all that it lacks, or 150 packages in JSON;
- apps that, with a cookie or nothing, ask one by one for more than 150 different things in five minutes (up to 300 rows
  in a page's burst aside), go on after a 403, or by the second after a 401; a first sync of more than 1,000 things;
  dozens of devices, or people in an app without pages, that are one visitor, unless a token, or a browser's session
  cookie, is the same for minutes (`session_cookie` tells browsers apart, too);
- an office of more than thirty people where nobody can log in any more; dozens of devices behind one address that poll
  for a token, or bring one each that is refused; gateways that open dozens of links of mails as a browser: flagged;
- people behind a gateway that strips Fetch Metadata, at a site that gets it from others (or got it before: start the
  workers again): flagged at the 51st page, as one person if it strips Referers too. Dozens at one address, with
  programs there that forge the same browser and language, are judged together, and some refused;
- people who open more than sixty tabs at once (or, over plain http, read in Safari where a script fetches links ahead),
  type a hundred look-ups into the address bar, half a minute each, press "next" through a hundred pages, seven seconds
  each, or alone look at more than a hundred different pages, seconds each, none twice, such as a shop's products:
  flagged at the hundredth, refused from about the two hundredth; with a browser of five years ago at the 51st, if 26
  were within five minutes (not through forms or a gallery).
"""

from __future__ import annotations

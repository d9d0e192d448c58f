-- The fold of one batch, in its transaction: from the temporary tables to sessions, visitors and reputations.

-- name: policy
-- What the fold goes by of a policy.
SELECT (settings ->> 'bot_score')::float8 AS bot_score, (settings ->> 'cooldown')::float8 AS cooldown,
    (settings ->> 'session_timeout')::float8 AS session_timeout
FROM analytics.policies WHERE version = %(version)s::text

-- name: name_sessions
-- Most hits are of a session that the store has and that goes on. Of the others, that are to be settled, the visitors
-- are locked: two transfers at once do not see each other's sessions, and each would begin one for a visitor that both
-- meet. Who comes second waits here, and the statements after this one, whose snapshots are newer, see the first one's.
WITH batch AS (
    SELECT session_id, fingerprint, min(time) AS first_at, max(time) AS last_at
    FROM staging WHERE session_id IS NOT NULL GROUP BY session_id, fingerprint
), unsettled AS (
    INSERT INTO named
    SELECT session_id, fingerprint, first_at, last_at FROM batch
    WHERE NOT EXISTS (
        SELECT FROM analytics.sessions AS told WHERE told.id = batch.session_id
          AND told.last_seen_at >= batch.first_at - %(timeout)s::interval
          AND told.started_at <= batch.last_at + %(timeout)s::interval
          AND told.started_at > batch.first_at - interval '24 hours'
        OFFSET 0  -- keeps this a look-up by id; the planner, which has no statistics, would read all sessions
    )
    RETURNING fingerprint
)
SELECT count(pg_advisory_xact_lock(hashtext('analytics.sessions'), bucket))
FROM (SELECT DISTINCT hashtext(fingerprint::text) & 255 AS bucket FROM unsettled ORDER BY bucket) AS wanted

-- name: settle_sessions
-- A worker names a session before it knows what other workers saw. Where the store has a session of this visitor
-- that overlaps in time, that one goes on; an id that belongs to an older session is not used again.
WITH settled AS (
    SELECT batch.session_id, batch.fingerprint, coalesce(same.id, other.id, fresh.id) AS id
    FROM named AS batch
    LEFT JOIN LATERAL (
        SELECT id, started_at, last_seen_at FROM analytics.sessions WHERE sessions.id = batch.session_id OFFSET 0
    ) AS told ON true
    LEFT JOIN LATERAL (
        SELECT told.id
        WHERE told.last_seen_at >= batch.first_at - %(timeout)s::interval
          AND told.started_at <= batch.last_at + %(timeout)s::interval
          AND told.started_at > batch.first_at - interval '24 hours'
    ) AS same ON true
    LEFT JOIN LATERAL (
        SELECT known.id FROM analytics.sessions AS known
        WHERE same.id IS NULL AND known.fingerprint = batch.fingerprint
          AND known.last_seen_at >= batch.first_at - %(timeout)s::interval
          AND known.started_at <= batch.last_at + %(timeout)s::interval
          AND known.started_at > batch.first_at - interval '24 hours'
        ORDER BY known.last_seen_at DESC LIMIT 1
    ) AS other ON true
    LEFT JOIN LATERAL (
        SELECT CASE WHEN told.id IS NULL THEN batch.session_id ELSE gen_random_uuid() END AS id
    ) AS fresh ON true
)
SELECT fingerprint, session_id, id FROM settled WHERE id <> session_id

-- name: move_hits
UPDATE staging SET session_id = settled.id
FROM unnest(%(fingerprints)s::uuid[], %(names)s::uuid[], %(ids)s::uuid[]) AS settled (fingerprint, session_id, id)
WHERE staging.session_id = settled.session_id AND staging.fingerprint = settled.fingerprint

-- name: fold_sessions
-- First and last go by time: of several workers' transfers, and of the rows in one, the order tells nothing.
WITH batch AS (
    SELECT session_id, min(time) AS started_at, max(time) AS last_seen_at, count(*) AS hits,
        count(*) FILTER (WHERE page_view) AS page_views,
        count(*) FILTER (WHERE status >= 400 AND outcome <> 'refused') AS errors,
        count(*) FILTER (WHERE outcome = 'refused') AS refusals,
        sum(bytes_sent) AS bytes_sent, max(score) AS score, max(level) AS level,
        max(time) FILTER (WHERE page_view) AS exit_at,
        array_agg(ctid ORDER BY page_view DESC, time, ctid) AS rows
    FROM staging WHERE session_id IS NOT NULL GROUP BY session_id
), folded AS (
INSERT INTO analytics.sessions AS kept (
    id, site, fingerprint, started_at, last_seen_at, hits, page_views, errors, refusals, bytes_sent,
    entry_at, entry_path, exit_at, exit_path, score, level,
    channel, source, utm_source, utm_medium, utm_campaign, utm_term, utm_content, click_id,
    country, region, city, asn, organisation, browser, browser_version, os, os_version, device,
    bot_class, crawler, operator, purpose, verified, language, policy)
SELECT batch.session_id, head.site, head.fingerprint, batch.started_at, batch.last_seen_at, batch.hits,
    batch.page_views, batch.errors, batch.refusals, batch.bytes_sent,
    head.time, CASE WHEN batch.page_views > 0 THEN head.path END,
    batch.exit_at, (SELECT staging.path FROM staging WHERE staging.ctid = batch.rows[batch.page_views]),
    batch.score, batch.level,
    head.channel, head.source, head.utm_source, head.utm_medium, head.utm_campaign, head.utm_term,
    head.utm_content, head.click_id,
    head.country, head.region, head.city, head.asn, head.organisation, head.browser, head.browser_version,
    head.os, head.os_version, head.device, head.bot_class, head.crawler, head.operator, head.purpose,
    head.verified, head.language, head.policy
FROM batch
-- OFFSET 0 keeps this a look-up by ctid; the planner would hash all of staging, which has no statistics.
CROSS JOIN LATERAL (
    SELECT * FROM staging WHERE staging.ctid = batch.rows[1] OFFSET 0
) AS head
ORDER BY batch.session_id
ON CONFLICT (id) DO UPDATE SET
    fingerprint = excluded.fingerprint,
    started_at = least(kept.started_at, excluded.started_at),
    last_seen_at = greatest(kept.last_seen_at, excluded.last_seen_at),
    hits = kept.hits + excluded.hits,
    page_views = kept.page_views + excluded.page_views,
    errors = kept.errors + excluded.errors,
    refusals = kept.refusals + excluded.refusals,
    bytes_sent = kept.bytes_sent + excluded.bytes_sent,
    -- Entry and referral are those of the first page view, else of the first hit.
    (entry_at, entry_path,
        channel, source, utm_source, utm_medium, utm_campaign, utm_term, utm_content, click_id) = (
        SELECT * FROM (VALUES
            (kept.entry_at, kept.entry_path, kept.channel, kept.source, kept.utm_source, kept.utm_medium,
                kept.utm_campaign, kept.utm_term, kept.utm_content, kept.click_id),
            (excluded.entry_at, excluded.entry_path, excluded.channel, excluded.source, excluded.utm_source,
                excluded.utm_medium, excluded.utm_campaign, excluded.utm_term, excluded.utm_content, excluded.click_id)
        ) AS entry (time, path) ORDER BY path IS NULL, time NULLS FIRST LIMIT 1
    ),
    exit_at = greatest(kept.exit_at, excluded.exit_at),
    exit_path = CASE WHEN excluded.exit_at IS NULL OR excluded.exit_at < kept.exit_at
        THEN kept.exit_path ELSE excluded.exit_path END,
    score = greatest(kept.score, excluded.score),
    level = greatest(kept.level, excluded.level),
    verified = coalesce(excluded.verified, kept.verified),
    policy = coalesce(excluded.policy, kept.policy)
RETURNING fingerprint, started_at, xmax = 0 AS created  -- an inserted row has no locker: xmax 0
)
-- Those told late, as after an outage, are not of this hour.
INSERT INTO begun
SELECT fingerprint, count(*), count(*) FILTER (WHERE started_at >= date_trunc('hour', now()))
FROM folded WHERE created GROUP BY fingerprint

-- name: lock_visitors
-- Where refusals are counted too: those of the hits and of the refusals, in one order. One after the other, two transfers
-- that meet the same two visitors would wait for each other.
SELECT count(*) FROM (
    SELECT fingerprint FROM staging WHERE fingerprint IS NOT NULL UNION SELECT fingerprint FROM refused ORDER BY fingerprint
) AS met
CROSS JOIN LATERAL (
    SELECT FROM analytics.fingerprints AS kept WHERE kept.fingerprint = met.fingerprint OFFSET 0 FOR UPDATE
) AS locked

-- name: fold_fingerprints
-- Returns the merged totals of visitors that other workers have seen too: what a worker must learn.
WITH batch AS (
    SELECT fingerprint, min(time) AS first_seen_at, max(time) AS last_seen_at, count(*) AS hits,
        count(*) FILTER (WHERE page_view) AS page_views,
        count(*) FILTER (WHERE outcome = 'refused') AS refusals,
        count(*) FILTER (WHERE outcome <> 'refused' AND time > now() - interval '2 minutes') AS charges,
        count(*) FILTER (WHERE outcome <> 'refused' AND time >= date_trunc('minute', now())) AS minute_charges,
        -- Evidence: what was answered, and would have been in mode enforce. A decision without a change of level refuses.
        count(*) FILTER (WHERE page_view AND outcome <> 'refused' AND (decision_id IS NULL OR level_before IS NOT NULL)
            AND time >= date_trunc('hour', now())) AS hour_page_views,
        count(*) FILTER (WHERE page_view AND outcome <> 'refused' AND (decision_id IS NULL OR level_before IS NOT NULL)
            AND time >= date_trunc('minute', now())) AS minute_page_views,
        -- A level that cooled down and rose again with one request is what it was before: a rise all the same.
        count(*) FILTER (WHERE level = 3 AND level_before IS NOT NULL AND outcome <> 'refused') AS incidents,
        max(time) FILTER (WHERE level = 3 AND level_before IS NOT NULL AND outcome <> 'refused') AS abused_at,
        max(score) AS score, (array_agg(ctid ORDER BY time DESC, ctid DESC))[1] AS tail
    FROM staging WHERE fingerprint IS NOT NULL GROUP BY fingerprint
), turns AS (
    SELECT DISTINCT ON (fingerprint) fingerprint, level, time FROM staging
    WHERE level_before IS NOT NULL AND fingerprint IS NOT NULL ORDER BY fingerprint, time DESC, ctid DESC
), folded AS (
    INSERT INTO analytics.fingerprints AS kept (
        fingerprint, site, network, first_seen_at, last_seen_at, sessions, hits, page_views, refusals,
        charges, minute_at, minute_charges, minute_page_views, peak_per_minute,
        hour_at, hour_page_views, hour_sessions, score, level, level_changed_at,
        abuse_incidents, last_abuse_at, journal, remote)
    SELECT batch.fingerprint, tail.site, tail.network, batch.first_seen_at, batch.last_seen_at,
        coalesce(begun.sessions, 0), batch.hits, batch.page_views, batch.refusals,
        batch.charges, date_trunc('minute', now()), batch.minute_charges, batch.minute_page_views, batch.minute_charges,
        date_trunc('hour', now()), batch.hour_page_views, coalesce(begun.in_hour, 0), batch.score,
        coalesce(turn.level, tail.level), turn.time, batch.incidents, batch.abused_at,
        %(journal)s, 0
    FROM batch
    CROSS JOIN LATERAL (SELECT site, network, level FROM staging WHERE staging.ctid = batch.tail OFFSET 0) AS tail
    LEFT JOIN turns AS turn ON turn.fingerprint = batch.fingerprint
    LEFT JOIN begun ON begun.fingerprint = batch.fingerprint
    ORDER BY batch.fingerprint
    ON CONFLICT (fingerprint) DO UPDATE SET
        first_seen_at = least(kept.first_seen_at, excluded.first_seen_at),
        last_seen_at = greatest(kept.last_seen_at, excluded.last_seen_at),
        sessions = kept.sessions + excluded.sessions,
        hits = kept.hits + excluded.hits,
        page_views = kept.page_views + excluded.page_views,
        refusals = kept.refusals + excluded.refusals,
        charges = kept.charges + excluded.charges,
        -- A transfer that began before the minute or the hour did, and comes after one that began in it, takes nothing of
        -- it back. (Of a clock that went back by more, it does.)
        minute_at = CASE kept.minute_at
            WHEN excluded.minute_at + interval '1 minute' THEN kept.minute_at ELSE excluded.minute_at END,
        minute_charges = CASE kept.minute_at
            WHEN excluded.minute_at THEN kept.minute_charges + excluded.minute_charges
            WHEN excluded.minute_at + interval '1 minute' THEN kept.minute_charges
            ELSE excluded.minute_charges END,
        peak_per_minute = greatest(kept.peak_per_minute, excluded.minute_charges
            + CASE WHEN kept.minute_at = excluded.minute_at THEN kept.minute_charges ELSE 0 END),
        busy_minutes = CASE
            WHEN kept.minute_at IN (excluded.minute_at, excluded.minute_at + interval '1 minute') THEN kept.busy_minutes
            WHEN kept.minute_at = excluded.minute_at - interval '1 minute'
                AND kept.minute_page_views > %(page_views_per_minute)s THEN kept.busy_minutes + 1
            ELSE 0 END,
        minute_page_views = CASE kept.minute_at
            WHEN excluded.minute_at THEN kept.minute_page_views + excluded.minute_page_views
            WHEN excluded.minute_at + interval '1 minute' THEN kept.minute_page_views
            ELSE excluded.minute_page_views END,
        hour_at = CASE kept.hour_at
            WHEN excluded.hour_at + interval '1 hour' THEN kept.hour_at ELSE excluded.hour_at END,
        hour_page_views = CASE kept.hour_at
            WHEN excluded.hour_at THEN kept.hour_page_views + excluded.hour_page_views
            WHEN excluded.hour_at + interval '1 hour' THEN kept.hour_page_views
            ELSE excluded.hour_page_views END,
        hour_sessions = CASE kept.hour_at
            WHEN excluded.hour_at THEN kept.hour_sessions + excluded.hour_sessions
            WHEN excluded.hour_at + interval '1 hour' THEN kept.hour_sessions
            ELSE excluded.hour_sessions END,
        score = greatest(kept.score, excluded.score),
        -- A worker that had yet to learn of a pardon cannot take it back; nor one that had yet to learn of a level what is
        -- left of that, as with an older one that has cooled down. (A second: clocks do not run evenly.)
        (level, level_changed_at) = (
            SELECT CASE WHEN its.is_news THEN excluded.level ELSE kept.level END, CASE
                WHEN NOT its.is_news THEN kept.level_changed_at
                -- Noted with the first request since: the next step is due a cool-down after this one was, not after that.
                WHEN excluded.level < kept.level AND excluded.level = due.level THEN least(excluded.level_changed_at,
                    kept.level_changed_at + make_interval(secs => (kept.level - excluded.level) * %(cooldown)s::float8))
                ELSE excluded.level_changed_at END
            -- (Without a change of its own, as over midnight, a level was brought along.)
            FROM (SELECT greatest(0.0, kept.level - floor((1.0 + extract(epoch FROM excluded.level_changed_at
                - coalesce(kept.level_changed_at, kept.first_seen_at))::float8) / %(cooldown)s::float8)) AS level) AS due
            CROSS JOIN LATERAL (SELECT coalesce(
                excluded.level_changed_at >= coalesce(kept.level_changed_at, '-infinity')
                AND excluded.level_changed_at > coalesce(kept.pardoned_at + %(grace)s::interval, '-infinity')
                AND excluded.level >= due.level, false) AS is_news) AS its
        ),
        abuse_incidents = kept.abuse_incidents + excluded.abuse_incidents,
        last_abuse_at = greatest(kept.last_abuse_at, excluded.last_abuse_at),
        remote = CASE
            WHEN kept.seen ? excluded.journal::text THEN kept.charges - (kept.seen ->> excluded.journal::text)::bigint
            WHEN kept.journal <> excluded.journal AND kept.minute_at >= excluded.minute_at - interval '1 minute'
                THEN kept.minute_charges
            ELSE 0 END,
        seen = CASE WHEN kept.seen IS NOT NULL OR kept.journal <> excluded.journal THEN
            -- Each start of a worker is a journal: of those before the last hundred or so, we need not know.
            CASE WHEN length(kept.seen::text) > 6000 THEN '{}'
                ELSE coalesce(kept.seen, jsonb_build_object(kept.journal, kept.charges)) END
            || jsonb_build_object(excluded.journal, kept.charges + excluded.charges) END,
        journal = excluded.journal
    RETURNING *
), counted AS (
    INSERT INTO noticed (kind, evidence, time, site, fingerprint, network, points)
    SELECT found.kind, folded.fingerprint || found.period, now(), folded.site, folded.fingerprint, folded.network,
        found.points
    FROM folded
    CROSS JOIN LATERAL (VALUES
        ('request_count_exceeded_100', ' hour ' || folded.hour_at,
            %(request_count_points)s::smallint, folded.hour_page_views > %(page_views_per_hour)s),
        ('session_count_exceeded_10', ' hour ' || folded.hour_at,
            %(session_count_points)s::smallint, folded.hour_sessions > %(sessions_per_hour)s),
        -- A run's second hour is further evidence, its 61st minute is not.
        ('sustained_velocity_10rpm_1hr', format(' minutes from %%s, %%s',
                folded.minute_at - make_interval(mins => folded.busy_minutes), folded.busy_minutes / %(busy_minutes)s),
            %(velocity_points)s::smallint, folded.busy_minutes >= %(busy_minutes)s)
    ) AS found (kind, period, points, met)
    WHERE found.met
        -- The way of nearly all: not even looked at.
        AND (folded.hour_page_views > %(page_views_per_hour)s OR folded.hour_sessions > %(sessions_per_hour)s
            OR folded.busy_minutes >= %(busy_minutes)s)
)
SELECT folded.fingerprint, tail.session_id, folded.remote,
    folded.level, (extract(epoch FROM coalesce(folded.level_changed_at,
        -- Brought along, as over midnight, which is no news to who knows of it.
        CASE WHEN folded.level > tail.level THEN folded.first_seen_at END)) * 1000000)::bigint
FROM folded
JOIN batch USING (fingerprint)
CROSS JOIN LATERAL (SELECT session_id, level FROM staging WHERE staging.ctid = batch.tail OFFSET 0) AS tail
WHERE folded.seen IS NOT NULL AND tail.session_id IS NOT NULL

-- name: notice_incidents
-- Of the hits: a session's bot verdict, rises to Blocked, and signals that are incidents by themselves.
WITH told AS MATERIALIZED (
    SELECT id, time, score, level, level_before, decision_id, session_id, fingerprint, network, site FROM staging
    WHERE (score >= %(bot_score)s OR level >= level_before) AND fingerprint IS NOT NULL
        AND outcome <> 'refused' AND (decision_id IS NULL OR level_before IS NOT NULL)
)
INSERT INTO noticed (kind, evidence, time, site, fingerprint, network, points)
SELECT 'behavioural_score', session_id::text, min(time), min(site), fingerprint, min(network::text)::uuid,
    %(verdict_points)s::smallint
FROM told WHERE score >= %(bot_score)s AND session_id IS NOT NULL
GROUP BY session_id, fingerprint
UNION ALL
SELECT 'blocked', id::text, time, site, fingerprint, network, %(blocked_points)s::smallint
FROM told WHERE level = 3 AND level_before IS NOT NULL
UNION ALL
SELECT found.kind, told.session_id::text, min(told.time), min(told.site), told.fingerprint,
    min(told.network::text)::uuid, (%(signal_points)s::jsonb ->> found.kind)::smallint
FROM told
-- OFFSET 0 as in fold_sessions: all decisions would be read for a handful.
CROSS JOIN LATERAL (
    SELECT detail FROM analytics.decisions WHERE decisions.id = told.decision_id OFFSET 0
) AS decided
CROSS JOIN LATERAL (
    SELECT one ->> 'signal' AS kind FROM jsonb_array_elements(decided.detail -> 'signals') AS one
) AS found
WHERE told.level >= told.level_before AND told.session_id IS NOT NULL AND %(signal_points)s::jsonb ? found.kind
GROUP BY found.kind, told.session_id, told.fingerprint

-- name: fold_incidents
-- Takes in what is new of what was noticed; returns the visitors that it cost some of their reputation.
WITH fresh AS (
    INSERT INTO analytics.incidents (kind, evidence, time, site, fingerprint, network, points)
    SELECT DISTINCT ON (noticed.kind, noticed.evidence) noticed.kind, noticed.evidence, noticed.time, noticed.site,
        noticed.fingerprint, noticed.network, noticed.points
    FROM noticed
    CROSS JOIN LATERAL (
        SELECT pardoned_at FROM analytics.fingerprints WHERE fingerprint = noticed.fingerprint OFFSET 0
    ) AS known
    WHERE noticed.points > 0 AND noticed.time > coalesce(known.pardoned_at + %(grace)s::interval, '-infinity')
    ORDER BY noticed.kind, noticed.evidence
    ON CONFLICT DO NOTHING
    RETURNING kind, time, site, fingerprint, network, points
), aging AS (
    -- What is told late has aged since, as if it had been told in time.
    SELECT *, max(time) OVER (PARTITION BY network) AS network_at, max(time) OVER (PARTITION BY fingerprint) AS visitor_at
    FROM fresh
), networks AS (
    INSERT INTO analytics.networks AS kept (
        network, site, first_incident_at, last_incident_at, incidents, reputation, reputation_at)
    SELECT network, min(site), min(time), network_at, count(*), greatest(0.0,
        50.0 - %(network_share)s * sum(50.0 - analytics.decayed(50.0 - points, time, network_at))), network_at
    FROM aging WHERE network IS NOT NULL GROUP BY network, network_at ORDER BY network
    ON CONFLICT (network) DO UPDATE SET
        last_incident_at = greatest(kept.last_incident_at, excluded.last_incident_at),
        incidents = kept.incidents + excluded.incidents,
        reputation = greatest(
            analytics.decayed(kept.reputation, kept.reputation_at, greatest(kept.reputation_at, excluded.reputation_at))
                - (50.0 - analytics.decayed(
                    excluded.reputation, excluded.reputation_at, greatest(kept.reputation_at, excluded.reputation_at))),
            0.0),
        reputation_at = greatest(kept.reputation_at, excluded.reputation_at)
)
UPDATE analytics.fingerprints AS known SET
    reputation = greatest(
        analytics.decayed(known.reputation, known.reputation_at, greatest(known.reputation_at, lost.at))
            - (50.0 - analytics.decayed(50.0 - lost.points, lost.at, greatest(known.reputation_at, lost.at))), 0.0),
    reputation_at = greatest(known.reputation_at, lost.at),
    flagged = true,
    flag_reason = coalesce(known.flag_reason, lost.kind),
    flagged_at = coalesce(known.flagged_at, lost.at)
FROM (
    SELECT fingerprint, visitor_at AS at, sum(50.0 - analytics.decayed(50.0 - points, time, visitor_at)) AS points,
        (array_agg(kind ORDER BY time, kind))[1] AS kind
    FROM aging GROUP BY fingerprint, visitor_at
) AS lost
WHERE known.fingerprint = lost.fingerprint
RETURNING known.fingerprint

-- name: ban_repeaters
-- Only with the option `bans`, at the site that has it. Each ban rests on incidents that no ban before rested on.
INSERT INTO analytics.rulings (kind, fingerprint, reason, made_by, until)
SELECT 'ban', known.fingerprint, format('%%s incidents within a day: %%s', counted.incidents, counted.kinds),
    'the option bans', now() + %(ban_length)s::interval
FROM analytics.fingerprints AS known
CROSS JOIN LATERAL (
    SELECT coalesce(max(made_at), '-infinity') AS at FROM analytics.rulings
    WHERE rulings.fingerprint = known.fingerprint AND kind = 'ban'
) AS last_ban
CROSS JOIN LATERAL (
    SELECT count(*) AS incidents, string_agg(DISTINCT kind, ', ') AS kinds FROM analytics.incidents
    WHERE incidents.fingerprint = known.fingerprint AND NOT pardoned
        AND time > now() - interval '1 day' AND time > last_ban.at
) AS counted
WHERE known.fingerprint = ANY (%(fingerprints)s::uuid[])
    AND (%(site)s::text IS NULL OR known.site = %(site)s::text)
    AND counted.incidents >= %(ban_incidents)s
    AND analytics.decayed(known.reputation, known.reputation_at, now()) < %(low)s
    AND NOT EXISTS (
        SELECT FROM analytics.rulings AS standing
        WHERE standing.fingerprint = known.fingerprint AND standing.kind IN ('ban', 'allow')
            AND standing.lifted_at IS NULL AND coalesce(standing.until, 'infinity') > now())

-- name: fold_refusals
-- Locked in order of their keys, as in fold_fingerprints: two workers that meet the same visitors wait, no more.
WITH told AS (
    SELECT date_trunc('minute', time AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS minute, site, fingerprint, network,
        count(*) AS refusals, max(time) AS last_at
    FROM refused GROUP BY 1, 2, 3, 4
), kept AS (
    INSERT INTO analytics.refusals AS kept (minute, site, fingerprint, network, refusals)
    SELECT minute, site, fingerprint, network, refusals FROM told ORDER BY minute, site, network, fingerprint
    ON CONFLICT (minute, site, network, fingerprint) DO UPDATE SET refusals = kept.refusals + excluded.refusals
), known AS (
    SELECT fingerprint FROM analytics.fingerprints WHERE fingerprint IN (SELECT fingerprint FROM told)
    ORDER BY fingerprint FOR UPDATE
), sums AS (
    SELECT fingerprint, sum(refusals) AS refusals, max(last_at) AS last_at FROM told GROUP BY fingerprint
)
UPDATE analytics.fingerprints AS visitor
SET hits = hits + sums.refusals, refusals = visitor.refusals + sums.refusals,
    last_seen_at = greatest(last_seen_at, sums.last_at)
FROM sums JOIN known USING (fingerprint) WHERE visitor.fingerprint = sums.fingerprint

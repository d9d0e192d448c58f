-- The transfer of one batch: one transaction, from the journal's rows to hits, sessions and fingerprints.

-- name: create_staging
CREATE TEMP TABLE IF NOT EXISTS staging (LIKE analytics.hits) ON COMMIT DELETE ROWS

-- name: create_begun
CREATE TEMP TABLE IF NOT EXISTS begun (fingerprint uuid, sessions bigint) ON COMMIT DELETE ROWS

-- name: register_journal
INSERT INTO analytics.positions (journal, host) VALUES (%(journal)s, %(host)s) ON CONFLICT DO NOTHING

-- name: read_position
SELECT segment, position FROM analytics.positions WHERE journal = %(journal)s

-- name: lock_position
SELECT segment, position FROM analytics.positions WHERE journal = %(journal)s FOR UPDATE

-- name: advance_position
UPDATE analytics.positions
SET segment = %(segment)s, position = %(position)s, rows = rows + %(rows)s,
    quarantined = quarantined + %(quarantined)s, updated_at = now()
WHERE journal = %(journal)s

-- name: settle_sessions
-- A worker names a session before it knows what other workers saw. Where the store has a session of this visitor
-- that overlaps in time, that one goes on; an id that belongs to an older session is not used again.
WITH batch AS (
    SELECT session_id, fingerprint, min(time) AS first_at, max(time) AS last_at
    FROM staging WHERE session_id IS NOT NULL GROUP BY session_id, fingerprint
), settled AS (
    SELECT batch.session_id, batch.fingerprint, coalesce(same.id, other.id, fresh.id) AS id
    FROM batch
    LEFT JOIN analytics.sessions AS named ON named.id = batch.session_id
    LEFT JOIN LATERAL (
        SELECT named.id
        WHERE named.last_seen_at >= batch.first_at - %(timeout)s::interval
          AND named.started_at <= batch.last_at + %(timeout)s::interval
          AND named.started_at > batch.first_at - interval '24 hours'
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
        SELECT CASE WHEN named.id IS NULL THEN batch.session_id ELSE gen_random_uuid() END AS id
    ) AS fresh ON true
), moved AS (
    UPDATE staging SET session_id = settled.id FROM settled
    WHERE staging.session_id = settled.session_id AND staging.fingerprint = settled.fingerprint
      AND settled.id <> settled.session_id
    RETURNING 1
)
SELECT fingerprint, session_id, id FROM settled WHERE id <> session_id

-- name: fold_sessions
WITH batch AS (
    SELECT session_id, min(time) AS started_at, max(time) AS last_seen_at, count(*) AS hits,
        count(*) FILTER (WHERE page_view) AS page_views,
        count(*) FILTER (WHERE status >= 400 AND outcome <> 'refused') AS errors,
        count(*) FILTER (WHERE outcome = 'refused') AS refusals,
        sum(bytes_sent) AS bytes_sent, max(score) AS score, max(level) AS level,
        min(ctid) AS head, min(ctid) FILTER (WHERE page_view) AS entry, max(ctid) FILTER (WHERE page_view) AS exit
    FROM staging WHERE session_id IS NOT NULL GROUP BY session_id
), folded AS (
INSERT INTO analytics.sessions AS kept (
    id, site, fingerprint, started_at, last_seen_at, hits, page_views, errors, refusals, bytes_sent,
    entry_path, exit_path, score, level,
    channel, source, utm_source, utm_medium, utm_campaign, utm_term, utm_content, click_id,
    country, region, city, asn, organisation, browser, browser_version, os, os_version, device,
    bot_class, crawler, language)
SELECT batch.session_id, head.site, head.fingerprint, batch.started_at, batch.last_seen_at, batch.hits,
    batch.page_views, batch.errors, batch.refusals, batch.bytes_sent,
    CASE WHEN batch.entry IS NOT NULL THEN head.path END,
    (SELECT staging.path FROM staging WHERE staging.ctid = batch.exit), batch.score, batch.level,
    head.channel, head.source, head.utm_source, head.utm_medium, head.utm_campaign, head.utm_term,
    head.utm_content, head.click_id,
    head.country, head.region, head.city, head.asn, head.organisation, head.browser, head.browser_version,
    head.os, head.os_version, head.device, head.bot_class, head.crawler, head.language
FROM batch
-- OFFSET 0 keeps this a look-up by ctid; the planner would hash all of staging, which has no statistics.
CROSS JOIN LATERAL (
    SELECT * FROM staging WHERE staging.ctid = coalesce(batch.entry, batch.head) OFFSET 0
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
    entry_path = coalesce(kept.entry_path, excluded.entry_path),
    exit_path = coalesce(excluded.exit_path, kept.exit_path),
    score = greatest(kept.score, excluded.score),
    level = greatest(kept.level, excluded.level)
RETURNING fingerprint, xmax = 0 AS created  -- an inserted row has no locker: xmax 0
)
INSERT INTO begun SELECT fingerprint, count(*) FROM folded WHERE created GROUP BY fingerprint

-- name: fold_fingerprints
-- Returns the merged totals of visitors that other workers have seen too: what a worker must learn.
WITH batch AS (
    SELECT fingerprint, min(time) AS first_seen_at, max(time) AS last_seen_at, count(*) AS hits,
        count(*) FILTER (WHERE page_view) AS page_views,
        count(*) FILTER (WHERE outcome = 'refused') AS refusals,
        count(*) FILTER (WHERE outcome <> 'refused' AND time > now() - interval '2 minutes') AS charges,
        count(*) FILTER (WHERE outcome <> 'refused' AND time >= date_trunc('minute', now())) AS minute_charges,
        count(*) FILTER (WHERE level = 3 AND level_before < 3) AS incidents,
        max(time) FILTER (WHERE level = 3 AND level_before < 3) AS abused_at,
        max(score) AS score, max(ctid) AS tail,
        max(ctid) FILTER (WHERE level_before IS NOT NULL) AS turn
    FROM staging WHERE fingerprint IS NOT NULL GROUP BY fingerprint
), folded AS (
    INSERT INTO analytics.fingerprints AS kept (
        fingerprint, site, network, first_seen_at, last_seen_at, sessions, hits, page_views, refusals,
        charges, minute_at, minute_charges, peak_per_minute, score, level, level_changed_at,
        reputation, flagged, flag_reason, flagged_at, abuse_incidents, last_abuse_at, journal, remote)
    SELECT batch.fingerprint, tail.site, tail.network, batch.first_seen_at, batch.last_seen_at,
        coalesce(begun.sessions, 0), batch.hits, batch.page_views, batch.refusals,
        batch.charges, date_trunc('minute', now()), batch.minute_charges, batch.minute_charges, batch.score,
        coalesce(turn.level, tail.level), turn.time,
        CASE WHEN batch.score >= %(bot_score)s THEN 40 ELSE 50 END, batch.score >= %(bot_score)s,
        CASE WHEN batch.score >= %(bot_score)s THEN 'behavioural_score' END,
        CASE WHEN batch.score >= %(bot_score)s THEN batch.last_seen_at END,
        batch.incidents, batch.abused_at,
        %(journal)s, 0
    FROM batch
    CROSS JOIN LATERAL (SELECT site, network, level FROM staging WHERE staging.ctid = batch.tail OFFSET 0) AS tail
    LEFT JOIN LATERAL (SELECT level, time FROM staging WHERE staging.ctid = batch.turn OFFSET 0) AS turn ON true
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
        minute_at = excluded.minute_at,
        minute_charges = excluded.minute_charges
            + CASE WHEN kept.minute_at = excluded.minute_at THEN kept.minute_charges ELSE 0 END,
        peak_per_minute = greatest(kept.peak_per_minute, excluded.minute_charges
            + CASE WHEN kept.minute_at = excluded.minute_at THEN kept.minute_charges ELSE 0 END),
        score = greatest(kept.score, excluded.score),
        level = CASE WHEN excluded.level_changed_at >= coalesce(kept.level_changed_at, '-infinity')
            THEN excluded.level ELSE kept.level END,
        level_changed_at = greatest(kept.level_changed_at, excluded.level_changed_at),
        reputation = CASE WHEN excluded.flagged AND NOT kept.flagged
            THEN greatest(kept.reputation - 10, 0) ELSE kept.reputation END,
        flagged = kept.flagged OR excluded.flagged,
        flag_reason = coalesce(kept.flag_reason, excluded.flag_reason),
        flagged_at = coalesce(kept.flagged_at, excluded.flagged_at),
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
)
SELECT folded.fingerprint, tail.session_id, folded.remote,
    folded.level, (extract(epoch FROM folded.level_changed_at) * 1000000)::bigint
FROM folded
JOIN batch USING (fingerprint)
CROSS JOIN LATERAL (SELECT session_id FROM staging WHERE staging.ctid = batch.tail OFFSET 0) AS tail
WHERE folded.seen IS NOT NULL AND tail.session_id IS NOT NULL

-- name: insert_hits
INSERT INTO analytics.hits SELECT * FROM staging

-- name: quarantine_row
INSERT INTO analytics.quarantine (journal, segment, position, kind, columns, raw, sqlstate, error)
VALUES (%(journal)s, %(segment)s, %(position)s, %(kind)s, %(columns)s, %(raw)s, %(sqlstate)s, %(error)s)

-- name: make_partitions
SELECT analytics.ensure_partitions(
    (now() AT TIME ZONE 'UTC')::date - 1, (now() AT TIME ZONE 'UTC')::date + %(ahead)s::integer)

-- name: lock_salts
SELECT pg_advisory_xact_lock(hashtext('analytics.salts'))

-- name: offer_salt
INSERT INTO analytics.salts (period, key) VALUES (%(period)s::date, %(key)s) ON CONFLICT DO NOTHING

-- name: forget_salts
DELETE FROM analytics.salts WHERE period < (now() AT TIME ZONE 'UTC')::date - 1

-- name: read_salts
SELECT period, key FROM analytics.salts WHERE period = ANY (%(periods)s::date[])

-- Recorded hits read again in the order of their time, and what becomes of them under another policy.

-- name: recorded_hits
-- Refusals in observe mode are known from decisions only: the app answered, and the row tells how.
SELECT hits.id, hits.time, extract(epoch FROM hits.time)::float8 AS seconds, hits.clock, hits.fingerprint, hits.network,
    hits.session_id, hits.method, hits.path, hits.route, hits.status, hits.first_byte_us, hits.page_view,
    coalesce(hits.from_inside, false) AS from_inside, coalesce(hits.outdated, false) AS outdated, hits.outcome,
    coalesce(decisions.refused, hits.outcome = 'refused') AS refused, hits.score, hits.level, hits.bot_class,
    hits.crawler, hits.browser, hits.policy, coalesce(hits.exempt, false) AS exempt,
    coalesce(decisions.detail -> 'violated' ? 'ban', false) AS banned,
    hits.verified AS claim, hits.inputs, hits.numbers, hits.path_inputs
FROM analytics.hits
LEFT JOIN analytics.decisions ON decisions.id = hits.decision_id
WHERE hits.time >= %(since)s::timestamptz AND hits.time < %(until)s::timestamptz
    AND (%(site)s::text IS NULL OR hits.site = %(site)s::text)
ORDER BY hits.time, hits.id

-- name: count_recorded
SELECT count(*) FROM analytics.hits
WHERE time >= %(since)s::timestamptz AND time < %(until)s::timestamptz
    AND (%(site)s::text IS NULL OR site = %(site)s::text)

-- name: sites
SELECT DISTINCT site FROM analytics.fingerprints ORDER BY site LIMIT 20

-- name: policy_in_force
-- That of the site's newest hit that was not reclassified since, else of its newest decision; else the one that a writer,
-- of whichever site, started with last.
WITH known AS (SELECT version, reclassified FROM analytics.policies WHERE in_force_at IS NOT NULL)
SELECT version, settings FROM analytics.policies
WHERE in_force_at IS NOT NULL
ORDER BY version IS NOT DISTINCT FROM coalesce((
    SELECT hits.policy FROM analytics.hits JOIN known ON known.version = hits.policy
    WHERE (%(site)s::text IS NULL OR hits.site = %(site)s::text)
        AND hits.time >= coalesce(to_timestamp((known.reclassified ->> hits.site)::float8), '-infinity')
    ORDER BY hits.time DESC LIMIT 1
), (
    SELECT detail ->> 'policy' FROM analytics.decisions
    WHERE detail ->> 'policy' IN (SELECT version FROM known) AND (%(site)s::text IS NULL OR site = %(site)s::text)
    ORDER BY time DESC LIMIT 1
)) DESC, in_force_at DESC, version
LIMIT 1

-- name: remember_policy
INSERT INTO analytics.policies AS kept (version, settings, in_force_at)
VALUES (%(version)s::text, %(settings)s::jsonb, CASE WHEN %(in_force)s::boolean THEN now() END)
ON CONFLICT (version) DO UPDATE SET in_force_at = coalesce(excluded.in_force_at, kept.in_force_at)

-- name: note_reclassified
UPDATE analytics.policies SET reclassified = reclassified || jsonb_build_object(
    %(site)s::text, greatest((reclassified ->> %(site)s::text)::float8, extract(epoch FROM %(until)s::timestamptz)::float8)
)
WHERE version = %(version)s::text

-- name: create_judged
CREATE TEMP TABLE IF NOT EXISTS judged (
    id uuid NOT NULL, time timestamptz NOT NULL, score smallint NOT NULL, level smallint NOT NULL, bot_class text
) ON COMMIT DELETE ROWS

-- name: rewrite_hits
UPDATE analytics.hits
SET score = judged.score, level = judged.level, bot_class = judged.bot_class, policy = %(version)s::text
FROM judged
WHERE hits.id = judged.id AND hits.time = judged.time
    AND hits.time >= %(first)s::timestamptz AND hits.time <= %(last)s::timestamptz

-- name: drop_judged
DROP TABLE pg_temp.judged

-- name: lock_sessions
-- A batch of sessions in the order of their ids, as writers lock them; none when there are no more.
SELECT id FROM analytics.sessions
WHERE id > %(after)s::uuid AND last_seen_at >= %(since)s::timestamptz AND started_at < %(until)s::timestamptz
    AND policy IS DISTINCT FROM %(version)s::text AND (%(site)s::text IS NULL OR site = %(site)s::text)
ORDER BY id LIMIT %(most)s::integer FOR NO KEY UPDATE

-- name: rewrite_sessions
-- A statement of its own, whose snapshot is newer than the locks: it sees the hits of the writers that were waited for.
UPDATE analytics.sessions
SET score = found.score, level = found.level, bot_class = found.bot_class, policy = %(version)s::text
FROM (
    SELECT batch.id, judged.score, judged.level, judged.bot_class
    FROM analytics.sessions AS batch
    CROSS JOIN LATERAL (
        SELECT max(hits.score) AS score, max(hits.level) AS level, max(hits.bot_class) AS bot_class
        FROM analytics.hits
        WHERE hits.session_id = batch.id AND hits.time >= batch.started_at - interval '1 day'
            AND hits.time < %(until)s::timestamptz + interval '1 day'
        HAVING bool_and(hits.policy IS NOT DISTINCT FROM %(version)s::text)
    ) AS judged
    WHERE batch.id = ANY (%(ids)s::uuid[])
) AS found
WHERE sessions.id = found.id

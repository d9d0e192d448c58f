-- What the commands actors, ban, pardon and allow read and write.

-- name: find_visitors
-- Those that are ruled on, too: a ruling may stand for longer than the visitor's row is kept.
SELECT fingerprint FROM analytics.fingerprints WHERE fingerprint BETWEEN %(first)s::uuid AND %(last)s::uuid
UNION SELECT fingerprint FROM analytics.rulings
WHERE fingerprint BETWEEN %(first)s::uuid AND %(last)s::uuid AND lifted_at IS NULL
    AND coalesce(until, 'infinity') > now()
LIMIT 2

-- name: sites
SELECT DISTINCT site FROM analytics.fingerprints

-- name: salts
SELECT key FROM analytics.salts

-- name: standing_keys
SELECT DISTINCT key FROM analytics.rulings
WHERE key IS NOT NULL AND lifted_at IS NULL AND coalesce(until, 'infinity') > now()

-- name: known_networks
-- A salt lives for two days, and what was seen under none that is left cannot be told any more.
SELECT network FROM analytics.fingerprints WHERE network IS NOT NULL AND last_seen_at > now() - interval '4 days'
UNION SELECT network FROM analytics.networks

-- name: standing_networks
SELECT id, size, prefix, network, key, until FROM analytics.rulings
WHERE kind = %(kind)s::text AND network IS NOT NULL AND lifted_at IS NULL AND coalesce(until, 'infinity') > now()

-- name: key_to_share
-- Few keys: each is one more look for a worker. Bans go on to a new one after a month, so that old keys end.
SELECT key FROM analytics.rulings
WHERE key IS NOT NULL AND kind = %(kind)s AND lifted_at IS NULL AND coalesce(until, 'infinity') > now()
    AND (kind = 'allow' OR made_at > now() - interval '30 days')
ORDER BY made_at DESC LIMIT 1

-- name: make_ruling
INSERT INTO analytics.rulings (kind, fingerprint, size, prefix, network, key, reason, made_by, until)
VALUES (%(kind)s, %(fingerprint)s::uuid, %(size)s::smallint, %(prefix)s::smallint, %(network)s::bytea, %(key)s::bytea,
    %(reason)s, %(made_by)s, now() + %(length)s::interval)
RETURNING id, until

-- name: lift_rulings
UPDATE analytics.rulings SET lifted_at = now()
WHERE kind = %(kind)s::text AND lifted_at IS NULL AND coalesce(until, 'infinity') > now()
    AND (fingerprint = ANY (%(fingerprints)s::uuid[]) OR id = ANY (%(ids)s::uuid[])
        OR (size = %(size)s::smallint AND prefix = %(prefix)s::smallint AND network = ANY (%(networks)s::bytea[])))
RETURNING reason, made_by, made_at

-- name: concerned
-- The visitors that a pardon is for: one, or all that came from a client network since yesterday. Locked in the order
-- of the writers, with whom many rows would else end in a deadlock.
SELECT fingerprint FROM analytics.fingerprints
WHERE fingerprint = %(fingerprint)s::uuid OR network = ANY (%(client_networks)s::uuid[])
ORDER BY fingerprint FOR UPDATE

-- name: case_decision
-- Before anything is locked: of many decisions, which have no index for this, it takes long.
SELECT id, level > coalesce(level_before, level) AS rose FROM analytics.decisions
WHERE time > now() - make_interval(days => %(days)s::integer) AND fingerprint = ANY (ARRAY(
    SELECT fingerprint FROM analytics.fingerprints
    WHERE fingerprint = %(fingerprint)s::uuid OR network = ANY (%(client_networks)s::uuid[])))
ORDER BY rose DESC, time DESC LIMIT 1

-- name: lock_networks
SELECT network FROM analytics.networks
WHERE network = ANY (%(client_networks)s::uuid[]) OR network IN (
    SELECT network FROM analytics.incidents WHERE fingerprint = ANY (%(concerned)s::uuid[]) AND NOT pardoned)
ORDER BY network FOR UPDATE

-- name: keep_case
INSERT INTO analytics.cases (site, target, fingerprint, reason, labelled_by, level, score, reputation, decision_id,
    decided_at, detail, incidents, bans)
SELECT known.site, %(target)s, %(fingerprint)s::uuid, %(reason)s, %(made_by)s,
    coalesce(decided.level, known.level), coalesce(decided.score, known.score), known.reputation,
    decided.id, decided.time, decided.detail, coalesce(counted.incidents, '[]'), %(bans)s::jsonb
FROM (SELECT 1) AS always
LEFT JOIN LATERAL (
    SELECT site, level, score, analytics.decayed(reputation, reputation_at, now()) AS reputation
    FROM analytics.fingerprints WHERE fingerprint = ANY (%(concerned)s::uuid[]) ORDER BY level DESC, reputation LIMIT 1
) AS known ON true
LEFT JOIN analytics.decisions AS decided ON decided.id = %(decision)s::uuid
LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_object('kind', kind, 'time', time, 'points', points, 'evidence', evidence)
        ORDER BY time) AS incidents
    FROM (
        SELECT * FROM analytics.incidents WHERE fingerprint = ANY (%(concerned)s::uuid[]) AND NOT pardoned
        ORDER BY time DESC LIMIT 100
    ) AS newest
) AS counted ON true
RETURNING id

-- name: forgive_incidents
-- The client network gets back what is left of its part.
WITH forgiven AS (
    UPDATE analytics.incidents SET pardoned = true
    WHERE fingerprint = ANY (%(concerned)s::uuid[]) AND NOT pardoned
    RETURNING network, time, points
), returned AS (
    UPDATE analytics.networks AS known SET
        reputation = least(50.0, analytics.decayed(known.reputation, known.reputation_at, now()) + given.points),
        reputation_at = now(), incidents = greatest(0, known.incidents - given.incidents)
    FROM (
        SELECT network, count(*) AS incidents,
            sum(50.0 - analytics.decayed(50.0 - %(network_share)s * points, time, now())) AS points
        FROM forgiven WHERE network IS NOT NULL GROUP BY network
    ) AS given
    WHERE known.network = given.network
)
SELECT count(*) FROM forgiven

-- name: reset_visitors
UPDATE analytics.fingerprints SET reputation = 50, reputation_at = NULL, flagged = false, flag_reason = NULL,
    flagged_at = NULL, score = 0, level = 0, level_changed_at = now(), abuse_incidents = 0, last_abuse_at = NULL,
    hour_page_views = 0, hour_sessions = 0, minute_page_views = 0, busy_minutes = 0, pardoned_at = now()
WHERE fingerprint = ANY (%(concerned)s::uuid[])

-- name: reset_networks
DELETE FROM analytics.networks WHERE network = ANY (%(client_networks)s::uuid[])

-- name: actors
-- A level is recorded when it changes by evidence; what cooled down since is taken off, by the policy of the site's newest
-- hit of a week that was not reclassified since, else by the one that a writer started with last.
WITH cooldown AS MATERIALIZED (
    SELECT one.site, coalesce((settings ->> 'cooldown')::float8, 'infinity') AS seconds
    FROM (SELECT DISTINCT site FROM analytics.fingerprints WHERE level > 0) AS one
    LEFT JOIN LATERAL (
        SELECT settings FROM analytics.policies WHERE in_force_at IS NOT NULL
        ORDER BY version IS NOT DISTINCT FROM (
            SELECT hits.policy FROM analytics.hits JOIN analytics.policies AS judging ON judging.version = hits.policy
            WHERE judging.in_force_at IS NOT NULL
                AND hits.site = one.site AND hits.time > now() - interval '7 days'
                AND hits.time >= coalesce(to_timestamp((judging.reclassified ->> one.site)::float8), '-infinity')
            ORDER BY hits.time DESC LIMIT 1
        ) DESC, in_force_at DESC, version
        LIMIT 1
    ) AS its ON true
)
SELECT known.fingerprint, known.site, known.network,
    analytics.decayed(known.reputation, known.reputation_at, now()) AS reputation,
    analytics.decayed(home.reputation, home.reputation_at, now()) AS network_reputation,
    today.level, known.level_changed_at, known.score, recent.incidents, recent.kinds, recent.last_incident_at,
    known.sessions, known.hits, known.refusals, known.first_seen_at, known.last_seen_at, ban.until AS banned_until
FROM analytics.fingerprints AS known
LEFT JOIN cooldown ON cooldown.site = known.site
CROSS JOIN LATERAL (
    SELECT greatest(0, known.level - floor(
        -- Never changed here: it was brought along, as over midnight.
        greatest(0.0, extract(epoch FROM now() - coalesce(known.level_changed_at, known.first_seen_at))::float8)
            / cooldown.seconds
    ))::integer AS level
) AS today
CROSS JOIN LATERAL (
    SELECT count(*)::integer AS incidents, max(time) AS last_incident_at,
        coalesce(array_agg(DISTINCT kind ORDER BY kind), '{}') AS kinds
    FROM analytics.incidents
    WHERE incidents.fingerprint = known.fingerprint AND NOT pardoned AND time > now() - interval '7 days'
) AS recent
LEFT JOIN analytics.networks AS home ON home.network = known.network
LEFT JOIN LATERAL (
    SELECT max(until) AS until FROM analytics.rulings
    WHERE rulings.fingerprint = known.fingerprint AND kind = 'ban' AND lifted_at IS NULL AND until > now()
) AS ban ON true
WHERE known.flagged OR (NOT %(flagged)s::boolean AND known.level > 0 AND today.level > 0)
ORDER BY analytics.decayed(known.reputation, known.reputation_at, now()), known.last_seen_at DESC, known.fingerprint
LIMIT %(most)s::integer

-- name: standing
SELECT id, kind, fingerprint, size, prefix, network, key IS NOT NULL AS hashed, reason, made_by, made_at, until
FROM analytics.rulings
WHERE kind = %(kind)s::text AND lifted_at IS NULL AND coalesce(until, 'infinity') > now()
ORDER BY made_at DESC LIMIT %(most)s::integer

-- name: networks
SELECT network, site, analytics.decayed(reputation, reputation_at, now()) AS reputation, incidents,
    first_incident_at, last_incident_at
FROM analytics.networks ORDER BY 3, last_incident_at DESC LIMIT %(most)s::integer

-- name: cases
SELECT id, labelled_at, label, site, target, fingerprint, reason, labelled_by, level, score, reputation, decision_id,
    decided_at, detail, incidents, bans
FROM analytics.cases ORDER BY labelled_at DESC, id LIMIT %(most)s::integer

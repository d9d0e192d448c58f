-- Until when hits were reclassified by a policy, by site, in seconds since 1970: up to then a hit of its version does not
-- tell that it was in force when the hit was judged.
ALTER TABLE analytics.policies ADD COLUMN reclassified jsonb NOT NULL DEFAULT '{}';

-- Retention finds visitors as it finds sessions, by a column that no update changes: it read all of them each hour.
CREATE INDEX fingerprints_first_seen_at ON analytics.fingerprints (first_seen_at);

-- Who operates a declared crawler, what for, and whether the claim was checked.

ALTER TABLE analytics.hits
    ADD COLUMN operator text,               -- of a declared crawler, e.g. Google
    ADD COLUMN purpose text,                -- training, search, user, ...
    ADD COLUMN verified text,               -- verified, false, pending, unverifiable; NULL where nothing is claimed
    ADD COLUMN exempt boolean;              -- behaviour was not judged: an allowance, or a verified search crawler

ALTER TABLE analytics.sessions
    ADD COLUMN operator text,
    ADD COLUMN purpose text,
    ADD COLUMN verified text;               -- as of the newest hit

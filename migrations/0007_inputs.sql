-- What verdicts read of a hit that its other columns do not tell. NULL in a row from before: not recorded.

ALTER TABLE analytics.hits
    ADD COLUMN inputs smallint,             -- bits, see asgi_analytics/inputs.py: data, claims, faults, a pardon
    ADD COLUMN numbers bigint,              -- with faults or refused credentials: which agent, which try; masked
    ADD COLUMN path_inputs bigint;          -- where the path is not stored as it was: its number, masked, and kind

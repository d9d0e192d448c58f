-- What 0001 says of backups holds for copies of the server's files, not for dumps.

COMMENT ON TABLE analytics.salts IS
    'With a salt, fingerprints can be recomputed. Unlogged, so in no base backup and on no standby, but a dump has it: '
    'pg_dump --exclude-table-data=analytics.salts';

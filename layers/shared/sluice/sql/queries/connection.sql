-- role_assume: act as a role of the system from now on, with the settings that its own login would have.
SELECT set_config(split_part(s.setting, '=', 1), substr(s.setting, strpos(s.setting, '=') + 1), false)
FROM pg_db_role_setting d
CROSS JOIN unnest(d.setconfig) AS s (setting)
WHERE d.setrole = to_regrole(%(role)s) AND d.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
UNION ALL
SELECT set_config('role', %(role)s, false);

-- statement_limit: how long the server lets a statement of this role run; 0: as long as it takes.
SELECT extract(epoch FROM current_setting('statement_timeout')::interval)::double precision AS seconds;

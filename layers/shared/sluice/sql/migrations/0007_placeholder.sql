-- min_compatible_version: 1
-- Nothing: the number belongs to another change.
SELECT;

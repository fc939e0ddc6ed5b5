-- min_compatible_version: 1
SELECT 1;

"""`sluice`: manage the users, keys, limits, prices, requests, usage and audit log of a deployment from a shell.

Each command runs one operation of the deployment's admin function. The package knows that function's messages and
nothing else of the service: it imports none of its modules and does not connect to its database.

    root.py       the command `sluice`, the handling of failures, and the exit codes
    commands/     a module for each subject: turn arguments into an operation and show its result
    options.py    formats of values: times, durations, `unlimited`
    vocabulary.py closed sets that the service defines: statuses, periods, tasks
    session.py    one run: which deployment is called, and what is printed where
    output.py     streams that cannot be written
    paging.py     lists that take more than one call
    target.py     find a deployment's admin function and call it
    isolation.py  a botocore session for servers on this machine
    errors.py     failures as one line each
    tables.py     results as text for people
    groups.py     commands and groups with the options that all of them share
"""

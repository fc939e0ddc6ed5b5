"""`sluice`: users, keys, limits, prices, requests, usage and audit of a deployment, from a shell.

Each command is one operation of the deployment's admin function. It knows that function's messages and nothing else of
the service: no module of it, no database.

    root.py       the command `sluice`, what all commands share, and the exit codes
    commands/     a module for each subject: arguments in, an operation, a view of its result
    options.py    the forms in which values are written: times, durations, `unlimited`
    vocabulary.py the words that the service defines: statuses, periods, tasks
    session.py    one run: which deployment, whether JSON is wanted, what is printed where
    paging.py     lists that are longer than one answer
    target.py     where a deployment's admin function is, and calling it
    isolation.py  a session for servers on this machine
    errors.py     what can go wrong, as one line each
    tables.py     results as text for people
"""

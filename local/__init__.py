"""All of Sluice on one machine, without Docker and without an AWS account.

`python -m local run` starts PostgreSQL, an AWS emulator and a small language model on 127.0.0.1, builds `template.yaml`
and deploys it there. Nothing under `layers/` or `functions/` imports this package, only tests do.
"""

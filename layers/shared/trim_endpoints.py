"""Leaves in botocore's endpoints.json the services that the layer uses: reading the whole file, of which four hundred
services need little, is most of what making the first client takes.

python trim_endpoints.py endpoints.json SERVICE...
"""

import json
import sys
from pathlib import Path

path, services = Path(sys.argv[1]), sys.argv[2:]
endpoints = json.loads(path.read_bytes())
for partition in endpoints["partitions"]:
    partition["services"] = {name: each for name, each in partition["services"].items() if name in services}
path.write_text(json.dumps(endpoints, separators=(",", ":")))

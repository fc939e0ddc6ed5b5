"""The engine of Benthos as a process: it runs the pipeline that is on its standard input, as JSON, to its end.

It is run by the interpreter of an environment that has the packages. They are a bridge between an end of a pipeline and an
end of another one, so the pipeline comes in two documents: one with its input and its processors, one with its output.
"""

import json
import sys

import mq_bridge
import mq_bridge_connect


def main() -> None:
    halves = json.load(sys.stdin)
    name = mq_bridge_connect.register()
    ends = {end: {"custom": {"name": name, "config": {"yaml": json.dumps(halves[end])}}} for end in ("input", "output")}
    # One message at a time would reach the output otherwise, and the threads of the pipeline wait for each other.
    mq_bridge.Route.from_config({"pipeline": {**ends, "concurrency": 16, "batch_size": 1}}, "pipeline").run()


if __name__ == "__main__":
    main()

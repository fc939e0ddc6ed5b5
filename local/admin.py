"""Set up a new deployment through its admin function: models, a user, a key."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from local import api
from local.emulator import Emulator
from local.errors import LocalError
from local.files import write_atomically

DEMO_USER = "demo"
MODELS_FILE = Path(__file__).with_name("models.json")


class AdminError(LocalError):
    """The admin function refused an operation.

    Attributes:
        code: the code of the problem.
        problem: the whole problem object.
    """

    def __init__(self, operation: str, problem: Mapping[str, Any]) -> None:
        self.code = str(problem.get("code", ""))
        self.problem = dict(problem)
        super().__init__(f"{operation} was refused: {problem.get('detail') or problem.get('title') or problem}")


class Admin:
    """The admin function of a deployment.

    Args:
        emulator: in which it is deployed.
        function: its name.
    """

    def __init__(self, emulator: Emulator, function: str) -> None:
        self._emulator = emulator
        self._function = function

    def run(self, operation: str, arguments: Mapping[str, object]) -> dict[str, Any]:
        """Run an operation and return its result.

        Raises:
            AdminError: the operation was refused.
        """
        answer = self._emulator.invoke(self._function, {"operation": operation, "arguments": dict(arguments)})
        if not isinstance(answer, dict):
            raise LocalError(f"The admin function answered {operation} with {answer!r}.")
        if not answer.get("ok"):
            raise AdminError(operation, answer.get("problem") or {})
        return dict(answer.get("result") or {})

    def register_models(self, llm_url: str) -> None:
        """Configure the models of models.json, with this endpoint."""
        for model in json.loads(MODELS_FILE.read_text(encoding="utf-8").replace("{llm_url}", llm_url)):
            self.run("model.set", model)

    def demo_key(self, api_url: str, key_file: Path) -> str:
        """Return the demo user's key: the one in the file if it is still valid, or a new one, saved there."""
        key = key_file.read_text(encoding="ascii").strip() if key_file.exists() else ""
        if key and _accepts(api_url, key):
            return key
        try:
            self.run(
                "user.create", {"user_id": DEMO_USER, "name": "Demo", "email": "demo@example.com", "tier": "premium"}
            )
        except AdminError as refused:
            if refused.code != "user_exists":
                raise
        key = str(self.run("key.create", {"user_id": DEMO_USER, "name": "local stack"})["api_key"])
        write_atomically(key_file, key)
        return key


def _accepts(api_url: str, key: str) -> bool:
    status, body = api.call("GET", f"{api_url}/requests?limit=1", key)
    if status not in (200, 401, 403):
        raise LocalError(f"The API answered {status} when asked whether it knows the demo user's key: {body}")
    return status == 200

"""What a fresh deployment needs before anybody can use it, through its admin function: models, a user, a key."""

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
    """The admin function refused an operation; `code` is the problem's machine-readable name."""

    def __init__(self, operation: str, problem: Mapping[str, Any]) -> None:
        self.code = str(problem.get("code", ""))
        self.problem = dict(problem)
        super().__init__(f"{operation} was refused: {problem.get('detail') or problem.get('title') or problem}")


class Admin:
    """The admin function of a deployment; `function` is its name."""

    def __init__(self, emulator: Emulator, function: str) -> None:
        self._emulator = emulator
        self._function = function

    def run(self, operation: str, arguments: Mapping[str, object]) -> dict[str, Any]:
        """Run an operation and return its result. AdminError if it is refused."""
        answer = self._emulator.invoke(self._function, {"operation": operation, "arguments": dict(arguments)})
        if not isinstance(answer, dict):
            raise LocalError(f"The admin function answered {operation} with {answer!r}.")
        if not answer.get("ok"):
            raise AdminError(operation, answer.get("problem") or {})
        return dict(answer.get("result") or {})

    def register_models(self, llm_url: str) -> None:
        """Set the models of models.json, at this endpoint."""
        for model in json.loads(MODELS_FILE.read_text(encoding="utf-8").replace("{llm_url}", llm_url)):
            self.run("model.set", model)

    def demo_key(self, api_url: str, kept: Path) -> str:
        """The demo user's key: the one kept in a file if the database still knows it, or a new one, kept there."""
        key = kept.read_text(encoding="ascii").strip() if kept.exists() else ""
        if key and _accepts(api_url, key):
            return key
        try:
            self.run(
                "user.create", {"user_id": DEMO_USER, "name": "Demo", "email": "demo@example.com", "tier": "premium"}
            )
        except AdminError as refused:
            if refused.code != "user_exists":
                raise
        made = str(self.run("key.create", {"user_id": DEMO_USER, "name": "local stack"})["api_key"])
        write_atomically(kept, made)
        return made


def _accepts(api_url: str, key: str) -> bool:
    status, body = api.call("GET", f"{api_url}/requests?limit=1", key)
    if status not in (200, 401, 403):
        raise LocalError(f"The API answered {status} when asked whether it knows the demo user's key: {body}")
    return status == 200

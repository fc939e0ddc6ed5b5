"""Files and uploads on the deployed stack, as OpenAI's clients make them."""

import base64
import hashlib
import random
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support.openai_clients import OpenAI, SdkError
from tests.support.scripted_model import PICTURE, ScriptedModel

from .test_ledger import sluice

__all__ = ["sluice"]  # a fixture


def content_of(openai: OpenAI, file_id: str) -> bytes:
    return base64.b64decode(openai("files.content", file_id=file_id)["content"])


def test_a_file_is_created_listed_shown_fetched_and_deleted(openai: OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "report ü.txt"
    path.write_bytes(b"some text\r\n--\x00\xff")
    made = openai(
        "files.create",
        file=str(path),
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (made["bytes"], made["purpose"], made["status"]) == (path.stat().st_size, "user_data", "processed")
    assert made["filename"] == path.name
    assert made["expires_at"] == made["created_at"] + 3600
    others = [openai("files.create", file=str(path), purpose="user_data")["id"] for _ in range(2)]
    # In pages of one, which the client asks for by itself.
    listed = openai("files.list", purpose="user_data", limit=1, order="asc", after=made["id"])
    assert [each["id"] for each in listed] == others
    assert openai("files.retrieve", file_id=made["id"])["filename"] == path.name
    assert content_of(openai, made["id"]) == path.read_bytes()
    for file_id in (made["id"], *others):
        assert openai("files.delete", file_id=file_id)["deleted"] is True
    with pytest.raises(SdkError) as gone:
        openai("files.content", file_id=made["id"])
    assert (gone.value.status, gone.value.code) == (404, "file_not_found")


def test_a_large_file_comes_in_parts(openai: OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    path.write_bytes(random.Random(9).randbytes(9_000_001))
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    upload = openai(
        "uploads.upload_file_chunked",
        file=str(path),
        mime_type="application/jsonl",
        purpose="batch",
        part_size=4_000_000,
        md5=digest,
    )
    assert (upload["status"], upload["bytes"], upload["filename"]) == ("completed", 9_000_001, "large.jsonl")
    file_id = upload["file"]["id"]
    assert content_of(openai, file_id) == path.read_bytes()
    openai("files.delete", file_id=file_id)


def test_an_upload_is_cancelled(openai: OpenAI) -> None:
    upload = openai("uploads.create", bytes=10, filename="a", mime_type="text/plain", purpose="batch")
    cancelled = openai("uploads.cancel", upload_id=upload["id"])
    assert (cancelled["id"], cancelled["status"]) == (upload["id"], "cancelled")
    with pytest.raises(SdkError) as ended:
        openai("uploads.complete", upload_id=upload["id"], part_ids=["part_" + "0" * 32])
    assert (ended.value.status, ended.value.code) == (400, "upload_finished")


def test_a_model_sees_an_uploaded_image(openai: OpenAI, scripted_model: ScriptedModel, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(PICTURE)
    file_id = openai("files.create", file=str(path), purpose="vision")["id"]
    word = uuid4().hex
    answer = openai(
        "responses.create",
        model="seeing",
        input=[
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": f'{{"text": "a picture", "about": "{word}"}}'},
                    {"type": "input_image", "file_id": file_id, "detail": "auto"},
                ],
            }
        ],
    )
    assert answer["output_text"] == "a picture"
    (asked,) = scripted_model.asked_about(word)
    url = asked["messages"][0]["content"][1]["image_url"]["url"]
    assert url == f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"
    openai("files.delete", file_id=file_id)


def test_the_books_balance_with_files(sluice: Any) -> None:
    assert sluice("verify", "--full")["violations"] == []

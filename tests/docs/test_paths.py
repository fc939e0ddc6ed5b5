"""Files and folders that pages name exist."""

import re
from pathlib import Path

import pytest

from tests.docs.markdown import PAGES, ROOT, Page
from tests.repository import files

FILES = [path.relative_to(ROOT) for path in files()]
TOP = {path.parts[0] for path in FILES}
NAMES = {path.name for path in FILES}
# The name of a source file alone, as in `judge.py`. Other files may be somebody else's, or be made at run time.
_SOURCE = re.compile(r"[\w-]+\.(?:py|sql|md)")
# What a page uses as an example of a file that its reader is to make.
EXAMPLES = {"functions/report/app.py"}
_PATH = re.compile(r"\.?[\w*-][\w.*-]*(?:/[\w.*-]+)*/?")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_exist(page: Page) -> None:
    missing = [span for span in page.spans if not _exists(page, span)]
    assert not missing, f"{page.name} names files that do not exist: {missing}"


def _exists(page: Page, span: str) -> bool:
    path = re.sub(r"(?:::\w+|:\d+)$", "", span)
    if not _PATH.fullmatch(path) or path in EXAMPLES:
        return True
    if _SOURCE.fullmatch(path):
        return path in NAMES or (page.path.parent / path).exists()
    if path.partition("/")[0] not in TOP or "/" not in path.rstrip("/"):
        return True
    return any(ROOT.glob(path.rstrip("/"))) if "*" in path else (ROOT / Path(path)).exists()

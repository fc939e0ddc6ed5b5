"""Every link between pages leads somewhere."""

from urllib.parse import unquote

import pytest

from tests.docs.markdown import PAGES, ROOT, Page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_a_file_and_a_heading(page: Page) -> None:
    broken = [target for target in page.links if not _exists(page, target)]
    assert not broken, f"{page.name} has links that lead nowhere: {broken}"


def _exists(page: Page, target: str) -> bool:
    if "://" in target or target.startswith("mailto:"):
        return True
    path, _, fragment = target.partition("#")
    linked = (page.path.parent / unquote(path)).resolve() if path else page.path
    if not linked.exists() or not linked.is_relative_to(ROOT):
        return False
    return not fragment or linked.suffix != ".md" or fragment in Page(linked).anchors


def test_every_page_is_linked_from_another_page() -> None:
    linked = {
        (page.path.parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for target in page.links
        if "://" not in target and not target.startswith("#")
    }
    folders = {path for path in linked if path.is_dir()}
    unreachable = [
        page.name
        for page in PAGES
        if page.path.name != "README.md" and page.path not in linked and page.path.parent not in folders
    ]
    assert not unreachable, f"no page links to {unreachable}"

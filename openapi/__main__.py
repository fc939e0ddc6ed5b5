"""`make openapi`: write the document and its page."""

from openapi import document, page

if __name__ == "__main__":
    document.FILE.write_text(document.text(), encoding="utf-8")
    page.FILE.write_text(page.text(document.make()), encoding="utf-8")

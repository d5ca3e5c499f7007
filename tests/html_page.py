"""An HTML page as a strict parser sees it, and what every page of edgecv promises."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "link", "input", "hr", "base", "source", "wbr", "embed"}


class Page(HTMLParser):
    """Parse a page strictly: every element closed where it was opened; keep tags, attributes, headings and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.headings: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("h1", "h2", "h3"):
            self.headings.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), (tag, names)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text.append(data)
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings[-1] += data.strip()


def flat(page: Page) -> str:
    """All text of a page, with single spaces."""
    return " ".join(" ".join(page.text).split())


def check_nothing_is_fetched_and_nothing_runs(page: Page, text: str) -> None:
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "srcset", "data", "action", "xlink:href", "poster"):
            assert value.startswith(("data:image/", "#")), (tag, name, value)
        assert "//" not in value or value.startswith("data:image/"), (tag, name, value)
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))


def check_ids_are_unique_and_references_arrive(page: Page) -> None:
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(set(ids)) == len(ids)
    values = [value for _, _, value in page.attributes if not value.startswith("data:")]
    used = [value[1:] for _, name, value in page.attributes if name == "href" and value.startswith("#")]
    used += [found for value in values for found in re.findall(r"url\(#([^)]*)\)", value)]
    assert used
    assert set(used) <= set(ids)


def check_figures_follow_the_theme(page: Page) -> None:
    styles = [value for tag, name, value in page.attributes if name == "style" and tag in ("path", "text", "use", "g")]
    colours = set(re.findall(r"(?:fill|stroke): ([^;]+)", ";".join(styles)))
    assert {"var(--ink)", "var(--muted)", "var(--blue)", "var(--orange)"} <= colours
    assert not [colour for colour in colours if colour.startswith("#")], colours

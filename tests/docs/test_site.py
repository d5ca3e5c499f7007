"""The pages hold together: every page is reachable, links and anchors lead somewhere, pictures have their scripts."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINK = re.compile(r"(?<!`)!?\[[^\]]*\]\((?P<to>[^)\s]+)\)")


def linked(page):
    """Relative links of a page, those in code left out."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [found["to"] for found in LINK.finditer(text) if not re.match(r"[a-z]+:", found["to"])]


def anchors(page):
    """Anchors of a page's headings, as GitHub and the site make them of plain words."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", head.lower())).strip("-") for head in heads}


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page():
    def leaves(entry):
        if isinstance(entry, str):
            return [entry]
        return [leaf for each in (entry if isinstance(entry, list) else entry.values()) for leaf in leaves(each)]

    navigation = leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(navigation) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


def test_every_link_leads_somewhere():
    broken = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *PAGES]:
        for to in linked(page):
            path, _, anchor = to.partition("#")
            target = (page.parent / path).resolve() if path else page
            inside = target.is_relative_to(DOCS) or page.parent == ROOT  # the site has nothing but docs/
            if not target.exists() or not inside or (anchor and anchor not in anchors(target)):
                broken.append(f"{page.name}: {to}")
    assert broken == []


def test_every_picture_is_made_by_a_script_beside_it():
    scripts = {path: path.read_text() for path in (DOCS / "images").iterdir() if path.suffix in (".py", ".sh")}
    pictures = [path for path in (DOCS / "images").iterdir() if path not in scripts and path.is_file()]
    assert len(pictures) >= 4
    made = [
        path
        for path in pictures
        if any(path.name in text or script.with_suffix(path.suffix) == path for script, text in scripts.items())
    ]
    assert made == pictures
    used = "\n".join(page.read_text() for page in [ROOT / "README.md", *PAGES])
    assert [path.name for path in pictures if f"images/{path.name}" not in used] == []


def test_the_verbs_of_the_picture_are_those_of_the_command_line():
    import runpy

    drawn = runpy.run_path(str(DOCS / "images" / "verbs.py"))["draw"]()
    assert re.findall(r"edgecv (\w+)</text>", drawn) == ["build", "verify", "bench", "tune", "predict", "stream"]
    shown = runpy.run_path(str(DOCS / "images" / "architecture.py"))["draw"]()
    for name in ("edgecv", "edgecv_export", "edgecv_runtime"):
        assert f">{name}</text>" in shown
    assert "of edgecv_export import" in shown
    assert "of edgecv_runtime import" not in shown  # the lowest package imports neither of the others

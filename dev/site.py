"""What `make docs` adds to mkdocs: the pages of the root folder, links to and from them, and a class for columns."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
FROM_ROOT = {
    "ARCHITECTURE.md": "maintainers/architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "maintainers/contributing.md",
}
"""The pages of the root folder, with their places in the site."""
COLUMNS = re.compile(r"^```text\n(?=(?:(?!```).*\n)*?.*\S {3,}\S)", re.MULTILINE)
"""The beginning of a block of text that has columns."""


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the root folder."""
    for name, place in FROM_ROOT.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let each link lead to the place that its target has in the site, and have no text with columns wrapped."""
    place = page.file.src_uri
    source = next((name for name, own in FROM_ROOT.items() if own == place), f"docs/{place}")

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        target = FROM_ROOT.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(target, posixpath.dirname(place) or '.')}"

    markdown = COLUMNS.sub("``` { .text .columns }\n", markdown)
    return re.sub(r"\]\((?!\w+:)([\w./-]+\.(?:md|png|svg))", moved, markdown)

"""The pages: each block of Python runs as it stands, each command exists, and each address leads to a heading."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings
from psycopg2.extensions import parse_dsn

from pgpool_rs import ThreadedConnectionPool
from pgpool_rs.testing import BrokenInvariant

ROOT = Path(__file__).parents[2]
PAGES = {str(page.relative_to(ROOT)): page.read_text() for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]}
README = re.sub(r"<!--.*?-->", "", PAGES["README.md"], flags=re.DOTALL)
SOURCES = "\n".join(file.read_text() for kind in ("python/**/*.py", "rust/*/src/**/*.rs") for file in ROOT.glob(kind))
(SITE,) = re.findall(r"^site_url: (.*)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)

RECIPES = {
    "recipes.md",
    *re.findall(r'page="([\w.-]+)"', (ROOT / "tests" / "frameworks" / "test_recipes.py").read_text()),
}

REFUSALS = {"PoolClosed", "PoolExhausted", "PoolTimeout", "TooManyRequests"}

# Tests in pages that show what a failure looks like.
FAILING = {
    "docs/testing.md": "test_threads_get_what_one_after_the_other_would",
    "docs/testing-a-wrapper.md": "TestPatientPool::runTest",
}

# What a server does with the application of the quick start.
REQUEST = """
def test_the_application_answers():
    def start_response(status, headers):
        assert status == "200 OK", status

    assert application({}, start_response)[0].startswith(b"20")
    pool.closeall()
"""

# A machine's test that passes tries fewer programs than it would for a reader.
CODA = f"""
def test_the_page_was_imported(): ...


for name, case in list(globals().items()):
    if hasattr(case, "settings") and f"{{name}}::runTest" not in {[*FAILING.values()]}:
        case.settings = type(case.settings)(case.settings, max_examples=20)
"""


class Block(NamedTuple):
    """A fenced block of a page, with the number of its first line."""

    language: str
    title: str
    line: int
    text: str


def blocks(page: str) -> list[Block]:
    """Give the blocks of a page."""
    found = re.finditer(r'^ *```(\w*)(?: title="([^"\n]*)")?\n(.*?)^ *```$', PAGES[page], re.DOTALL | re.MULTILINE)
    return [Block(match[1], match[2] or "", PAGES[page].count("\n", 0, match.start(3)), match[3]) for match in found]


def program(page: str) -> str:
    """Give the blocks of Python as one program, in which each line has the number that it has in the page."""
    lines: list[str] = []
    for block in blocks(page):
        if block.language == "python" and not block.title:
            lines += [""] * (block.line - len(lines)) + block.text.splitlines()
    code = "\n".join(lines)
    return code + (REQUEST if "def application" in code else "")


def files(page: str) -> list[Block]:
    """Give the blocks with a title, each a file of its own, unless the tests of the recipes run them."""
    return [] if Path(page).name in RECIPES else [block for block in blocks(page) if block.title]


@pytest.mark.parametrize("page", [page for page in PAGES if program(page) or files(page)])
def test_the_code_of_a_page_runs(page: str, dsn: str, tmp_path: Path) -> None:
    code = program(page)
    assert not re.search(r"\b[A-Z]+_[A-Z]+\b(?<!_URL)", code), "a blank to fill"
    (tmp_path / "test_page.py").write_text(code + CODA)
    for folder, block in enumerate(files(page)):
        (tmp_path / str(folder)).mkdir()
        (tmp_path / str(folder) / block.title).write_text(block.text)
        (tmp_path / str(folder) / f"test_{folder}.py").write_text(f"import {Path(block.title).stem}\n{CODA}")
    # From CPython 3.12 on, a fork beside the housekeeping thread warns.
    strict = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    ran = subprocess.run(
        [sys.executable, *strict, "-m", "pytest", "-qsrf", "--tb=short", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={
            "DATABASE_URL": "postgresql://{user}@{host}:{port}/{dbname}?gssencmode=disable".format(**parse_dsn(dsn)),
            "XDG_RUNTIME_DIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    failed = re.findall(r"^FAILED test_page.py::(\S+)", ran.stdout, re.MULTILINE)
    assert " passed" in ran.stdout, ran.stdout + ran.stderr
    assert failed == [test for name, test in FAILING.items() if name == page], ran.stdout
    # Where a line says what is printed, it is.
    for said in re.findall(r"print\(.*\)  # (.*?)(?: ?\.\.\.)?$", code, re.MULTILINE):
        assert said in re.sub(r"\d\.\d\d", "0.05", ran.stdout)


@pytest.mark.parametrize("page", PAGES)
def test_each_block_says_its_language_and_each_command_exists(page: str) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    _, _, optional = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]\n")
    extras = re.findall(r"^(\w+) = ", optional.partition("\n[")[0], re.MULTILINE)
    for block in blocks(page):
        # "py" is part of a file that runs by itself.
        known = {"python", "sh", "ini", "text"} | ({"py"} if page == "docs/benchmarks.md" else set())
        assert block.language in known, block
    for target in re.findall(r"(?:^|`)make ([a-z]+)", PAGES[page], re.MULTILINE):
        assert target in targets
    assert not re.search(r"(pip install|Install) \W*pgpool", PAGES[page]), "it is not on PyPI"
    for named in re.findall(r'pip install "\.\[(.*?)\]"', PAGES[page]):
        assert {*named.split(",")} <= {*extras}


def headings(page: str) -> list[str]:
    """Give the headings of a page."""
    prose = re.sub(r"^ *```.*?^ *```$", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^#+ (.*)$", prose, re.MULTILINE)


def anchors(page: str) -> set[str]:
    """Give the anchors of a page's headings, as mkdocs makes them."""
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings(page)}


def test_each_address_of_the_site_leads_to_a_heading() -> None:
    package = (ROOT / "pyproject.toml").read_text()
    assert f'\nDocumentation = "{SITE}"\n' in package
    sources = [README, SOURCES, package]
    found = [found for source in sources for found in re.findall(re.escape(SITE) + r"([\w./-]*)(?:#([\w-]+))?", source)]
    assert len(found) > 10
    # All have the address of mkdocs.yml.
    assert sum(source.count(SITE) for source in sources) == sum(source.count("readthedocs.io/") for source in sources)
    moved = re.findall(r'"(\w+\.md)": "(.*\.md)"', (ROOT / "dev" / "site.py").read_text())
    from_root = {f"docs/{place}": page for page, place in moved}
    assert from_root
    for place, anchor in found:
        page = "docs/" + (place.replace(".html", ".md") or "index.md")
        page = from_root.get(page, page)
        assert (ROOT / page).is_file(), place
        assert not anchor or place == "api.html" or anchor in anchors(page), f"{place}#{anchor}"


def test_the_readme_is_short_and_its_links_work_wherever_it_is_shown() -> None:
    links = re.findall(r"(?:\]\(|src=\"|srcset=\"|href=\")([^)\"]*)", README)
    assert [link for link in links if not link.startswith("https://")] == []
    assert README.count("\n") <= 120


def test_the_machine_says_of_the_broken_wrapper_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = "docs/testing-a-wrapper.md"
    code = next(block.text for block in blocks(page) if "class PatientPool" in block.text)
    (shown,) = re.findall(r"^```text\n(BrokenInvariant: .*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE)
    (tmp_path / "test_patient_pool.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    case = importlib.import_module("test_patient_pool").TestPatientPool
    case.settings = settings(case.settings, database=None, derandomize=True)
    with pytest.raises(BrokenInvariant) as raised:
        case("runTest").runTest()
    assert f"BrokenInvariant: {raised.value}\n\n{raised.value.program}\n" == shown


# What libpq, psycopg2 and the server say.
FROM_ELSEWHERE = {
    "server closed the connection unexpectedly",
    "sorry, too many clients already",
    "cannot execute … in a read-only transaction",
    "SSL error: decryption failed or bad record mac",
}


def test_each_error_that_has_a_heading_is_one_that_is_raised() -> None:
    sources = re.sub(r"[\\\"]*\n\s*f?\"?", "", SOURCES)  # texts that go over several lines
    texts = [heading.strip("`") for heading in headings("docs/troubleshooting.md") if heading.startswith("`")]
    assert len(texts) > 20
    parts = {part.strip(" :;+'") for text in {*texts} - FROM_ELSEWHERE for part in re.split("…|: |`, `", text)}
    assert not [part for part in parts if part not in sources and part not in SOURCES]


@pytest.mark.parametrize(
    "module", ["", ".testing", ".flask", ".starlette", ".sqlalchemy", ".prometheus", ".opentelemetry"]
)
def test_each_public_name_stands_on_the_page_of_the_api(module: str) -> None:
    names = importlib.import_module(f"pgpool_rs{module}").__all__
    shown = rf"(?m)^::: pgpool_rs{module}\.{{0}}$|`(pgpool_rs{module}\.)?{{0}}`"
    assert not [name for name in names if not re.search(shown.format(name), PAGES["docs/api.md"])]


def test_help_names_each_method_and_says_what_each_attribute_is() -> None:
    pool = ThreadedConnectionPool
    public = {name: getattr(pool, name) for name in dir(pool) if not name.startswith("_")}
    methods = {name for name, value in public.items() if callable(value)}
    assert not [name for name in methods if not re.search(rf"`{name}(\(\))?`", pool.__doc__ or "")]
    undescribed = [name for name, value in public.items() if value.__doc__ in {None, "", type(value).__doc__}]
    assert not undescribed
    assert {*re.findall(r":raises (Pool\w+|TooManyRequests):", pool.getconn.__doc__ or "")} == REFUSALS


PICTURES = [
    picture for page in PAGES.values() for picture in re.findall(r'<img alt="([^"]*)" src="(\S+)-light\.svg"', page)
]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("alt", "file"), PICTURES)
def test_each_number_in_the_words_for_a_picture_stands_in_the_picture(alt: str, file: str, theme: str) -> None:
    drawn = (ROOT / "docs" / f"{Path(file).name}-{theme}.svg").read_text()
    numbers = r"\d[\d.,]*\b"
    assert set(re.findall(numbers, alt)) <= set(re.findall(numbers, " ".join(re.findall("<text[^>]*>([^<]*)", drawn))))


@pytest.mark.parametrize(
    ("folder", "files"),
    [("rust/core/src", "*.rs"), ("python/pgpool_rs", "_[a-z]*.py"), ("python/pgpool_rs/_limits", "[a-z]*.py")],
)
def test_the_architecture_says_what_each_module_holds(folder: str, files: str) -> None:
    table = re.search(rf"^\| in `{folder}/?` .*\n(\|.*\n)+", PAGES["ARCHITECTURE.md"], re.MULTILINE)
    assert table
    modules = {file.stem for file in (ROOT / folder).glob(files)} - {"lib"}
    assert not modules - {*re.findall(r"`(\w+)`", table[0])}

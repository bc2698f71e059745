"""The pages for people: the blocks of code and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.combinations import ROOT

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)(?: {4}.*\n)+")
FILE = re.compile(r"# ((?:app|tests)/\S+\.py)\n")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
URL = "http://127.0.0.1:8000"
"""Where the pages have the service."""
REDIRECTIONS = {"<", ">", ">>", "2>"}


class Block(NamedTuple):
    """One block: its language (`sh` for what is indented), and its text."""

    language: str
    text: str

    @property
    def path(self) -> str | None:
        """The file it is, as its first line says."""
        found = FILE.match(self.text) if self.language == "python" else None
        return found[1] if found else None

    @property
    def content(self) -> str:
        """The file's content, without the line that names it."""
        return self.text.partition("\n")[2]


def pages() -> dict[str, str]:
    """Return the texts of all pages by their paths."""
    paths = [ROOT / "README.md", ROOT / "hooks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}


def blocks(text: str) -> list[Block]:
    """Return the blocks of a page, in their order."""
    found = [(match.start(), Block(match[1], match[2])) for match in FENCED.finditer(text)]
    prose = FENCED.sub(lambda match: re.sub(r"[^\n]", "x", match[0]), text)
    found += [(match.start(), Block("sh", match[0])) for match in INDENTED.finditer(prose)]
    return [block for _, block in sorted(found)]


def lines(block: Block) -> list[str]:
    """Return the lines of a block of shell; one that goes on after a backslash is one."""
    return block.text.replace("\\\n", " ").splitlines()


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the commands of a block of shell: the words of each, without what goes into and comes out of files.

    What only sets a variable is none.
    """
    for line in lines(block):
        words = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
        words.whitespace_split = True
        command: list[str] = []
        given = iter([*words, ";"])
        for word in given:
            if word in REDIRECTIONS:
                next(given)
            elif set(word) <= set("&|;"):
                if command and not ASSIGNMENT.match(command[0]):
                    yield command
                command = []
            elif command and ASSIGNMENT.match(command[0]) and "$(" not in command[0]:
                command = [word]
            else:
                command.append(word)


def shell(text: str) -> list[str]:
    """Return the blocks of a page that are typed into a shell."""
    return [block.text for block in blocks(text) if block.language == "sh"]


def tables(text: str) -> list[list[list[str]]]:
    """Return the tables of a page: the cells of each row, without the heading."""
    found = re.findall(r"^\|.*\|\n\|[-|]+\|\n((?:\|.*\|\n?)+)", text, re.MULTILINE)
    rows = [[re.split(r"(?<!\\)\|", line.strip("|")) for line in table.splitlines()] for table in found]
    return [[[cell.strip() for cell in row] for row in table] for table in rows]


def words(cell: str) -> list[str]:
    """Return what stands in a cell as code."""
    return re.findall(r"`([^`]+)`", cell)


def broken_links(page: Path) -> list[str]:
    """Return the relative links of a page that lead nowhere: there is no such file, or no such heading in it."""
    broken = []
    for path, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text()):
        target = page.parent / path if path else page
        if "://" not in path and (not target.exists() or (anchor and anchor not in anchors(target.read_text()))):
            broken.append(f"{path}#{anchor}")
    return broken


def anchors(text: str) -> set[str]:
    """Return what the headings of a page are called in links, as GitHub calls them."""
    headings = HEADING.findall(FENCED.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}

"""What the README and docs/ say of commands, files, figures and errors is true."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from pathlib import Path

import click
import expect
import pytest
import settings
import surfaces
from help_examples import EVERY, PAGES, PROGRAMS, ROOT, other_lines

from kdcmae.runtime.targets import TARGETS

DOCS = ROOT / "docs"
SOURCES = ("kdcmae", "compile", "bench", "kernels")


def prose(page: Path) -> str:
    """The text of a page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What a link to a heading of this page ends with, as GitHub makes it."""
    headings = re.findall(r"^#+ (.*)", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_commands_in_sentences_have_the_options_they_name(page: Path) -> None:
    for code in re.findall(r"`([^`]+)`", prose(page)):
        words = shlex.split(code) if code.count("'") % 2 == 0 else []
        while words and re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
        if not words or words[0] not in PROGRAMS:
            continue
        path, rest = (words[0],), words[1:]
        while rest and (*path, rest[0]) in EVERY:
            path, rest = (*path, rest[0]), rest[1:]
        commands = [EVERY[path], *(EVERY.get((*path, default), EVERY[path]) for default in ("build", "run"))]
        options = {name for command in commands for option in command.params for name in option.opts}
        options |= {name for command in commands for option in command.params for name in option.secondary_opts}
        assert not isinstance(EVERY[path], click.Group) or len(path) == 1 or not rest or rest[0].startswith("-"), code
        for word in rest:
            assert not word.startswith("--") or word.partition("=")[0] in {*options, "--help"}, code


def test_other_commands_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page, line in other_lines():
        program, *words = shlex.split(line)
        if program == "make":
            assert set(words) <= targets, (page.name, line)
        elif program == "pip":
            (named,) = re.findall(r"\[(.*)\]", line)
            assert set(named.split(",")) <= extras.keys(), (page.name, line)
        elif program == "python":
            assert (ROOT / words[0]).is_file() or words[0] == "-m", (page.name, line)
        elif page.parent == ROOT / "examples" / "cpp":  # its commands run in tests/cpp
            assert program in {"cmake", "ffmpeg", "build/cpp/classify"}, (page.name, line)
        elif program == "cp":  # of examples/web, which tests/export runs
            assert (ROOT / words[0]).is_file(), (page.name, line)
        else:
            assert line == "git clone URL kdcmae && cd kdcmae", (page.name, line)
    for page in (*PAGES, ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"`make ([\w-]+)`", prose(page)):
            assert target in targets, (page.name, target)


def test_the_readme_is_read_in_three_minutes_and_its_figures_are_measured() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 180
    assert f"{expect.BEGIN}\n\n{expect.table()}\n\n{expect.END}" in text, "run: make docs"


def test_the_page_of_settings_is_up_to_date() -> None:
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == settings.document(), "run: make docs"


def test_the_table_of_surfaces_has_every_target() -> None:
    text = (DOCS / "embed.md").read_text(encoding="utf-8")
    rows = text.partition(surfaces.BEGIN)[2].partition(surfaces.END)[0]
    places = re.findall(r"^\| (Python|C\+\+|browser) \| ([\w-]+)", rows, re.MULTILINE)
    assert {target for place, target in places if place == "Python"} == set(TARGETS), "run: make surfaces"
    assert {place for place, _ in places} == {"Python", "C++", "browser"}


def messages() -> str:
    """Every text in the source, with what is filled into it left out."""
    texts = []
    for folder in SOURCES:
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return "\n".join(texts)


def test_the_errors_of_the_troubleshooting_page_are_those_of_the_code() -> None:
    said = messages()
    quoted = re.findall(r"^\| `([^`]+)`", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(quoted) >= 25
    for error in quoted:
        for part in error.split("..."):
            assert part.strip() in said, error

"""Publication of results: which documents a part of the documentation shows, and where it stands in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcmae.bench.report.envelope import Kind
from kdcmae.bench.report.rendering import render_markdown, replace_between
from kdcmae.bench.report.table import Block, Table
from kdcmae.errors import ConfigError, DataError

__all__ = ["Document", "Section", "default_file", "publish_all"]

Document = Mapping[str, Any]
"""A report as JSON gives it; see :mod:`kdcmae.bench.report.envelope`."""

_MEASURED, _README = Path("docs/measured.md"), Path("README.md")


def default_file() -> Path:
    """The file whose tables are written where none is named: the page of measured figures, or else the README."""
    return _MEASURED if _MEASURED.is_file() else _README


@dataclass(frozen=True, kw_only=True)
class Section:
    """The part of the documentation that shows one kind of documents.

    Args:
        name: in the markers.
        command: of kdcmae-bench that writes it.
        kind: of the documents.
        blocks: paragraphs and tables of documents, the newest last; at least one.
    """

    name: str
    command: str
    kind: Kind
    blocks: Callable[[Sequence[Document]], Iterable[Block]]

    @property
    def begin(self) -> str:
        """The marker above it."""
        return f"<!-- {self.name}: written by `kdcmae-bench {self.command}` -->"

    @property
    def end(self) -> str:
        """The marker below it."""
        return f"<!-- end of {self.name} -->"

    def render(self, *documents: Document) -> list[Block]:
        """Paragraphs and tables.

        Raises:
            DataError: a document lacks what its kind has.
        """
        try:
            blocks = list(self.blocks(documents))
            for block in blocks:
                if isinstance(block, Table):
                    _ = block.cells  # a value may be missing where it is shown
            return blocks
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            problem = f"no {error}" if isinstance(error, KeyError) else error
            raise DataError(f"a report of kind {self.kind!r} cannot be shown: {problem}; measure again") from error

    def write(self, file: Path, *documents: Document) -> bool:
        """Rewrite the part of a file between the markers.

        Returns:
            Whether the file changed.

        Raises:
            ConfigError: the markers are not there once each, in order.
            DataError: a document lacks what its kind has.
        """
        return replace_between(file, self.begin, self.end, render_markdown(self.render(*documents)))


def publish_all(
    file: Path, sections: Iterable[Section], stored: Mapping[Kind, Sequence[Document]], results: Path
) -> bool:
    """Rewrite every part of a file whose markers it has and for which there are results; other parts stay.

    Args:
        file: of the documentation.
        sections: that may be in it.
        stored: committed documents by kind, the newest last.
        results: folder that they came from, for messages.

    Returns:
        Whether the file changed.

    Raises:
        ConfigError: the file has no markers, or not once each and in order.
        DataError: there is no result for any part of the file.
    """
    text = file.read_text(encoding="utf-8")
    wanted = [section for section in sections if section.begin in text or section.end in text]
    if not wanted:
        raise ConfigError(f"{file} has no markers of kdcmae-bench, such as '<!-- accuracy: written by ... -->'")
    known = [section for section in wanted if stored.get(section.kind)]
    if not known:
        raise DataError(
            f"{results} has no results for {file}; measure with kdcmae-bench suite, or name another folder with "
            "--results FOLDER"
        )
    # All are rendered before the first is written, so that a document that cannot be shown leaves the file as it is.
    texts = {section: render_markdown(section.render(*stored[section.kind])) for section in known}
    changed = [replace_between(file, section.begin, section.end, text) for section, text in texts.items()]
    return any(changed)

"""The clips that an evaluation draws while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from kdcmae.cli.evaluate_setup import Setup

if TYPE_CHECKING:
    from torch import Tensor

    from kdcmae.evaluation.clips import EvaluationClips
    from kdcmae.evaluation.pictures import Picture, Shown

__all__ = ["Drawn", "Gallery"]


class _Indexed(Protocol):
    """A batch that knows its clips' numbers."""

    @property
    def index(self) -> Tensor: ...


Indexed = TypeVar("Indexed", bound=_Indexed)


@dataclass(frozen=True, eq=False)
class Drawn:
    """One clip.

    Args:
        shown: pictures for the page, by kind.
        files: pictures for files beside it, by kind.
        facts: of the clip, for the report.
    """

    shown: dict[str, Shown]
    files: dict[str, Picture]
    facts: dict[str, Any]


class Gallery:
    """Draws the first clips: their pictures into files, and what the page shows of them.

    Args:
        setup: says how many, and where the files go.
    """

    def __init__(self, setup: Setup, clips: EvaluationClips) -> None:
        self._folder, self._records = setup.output, clips.records
        self._left, self._shown = setup.pictures, setup.shown if setup.writes_page else 0
        self.examples: list[dict[str, Any]] = []
        self.pictures: dict[str, dict[str, Shown]] = {}

    def drawn(self, batches: Iterable[Indexed], draw: Callable[[Indexed, int], Drawn]) -> Iterator[Indexed]:
        """Hand batches on; ``draw`` gives one row of one."""
        from kdcmae.data.images import write_image

        for batch in batches:
            for row, number in enumerate(batch.index.tolist()):
                if self._folder is None or self._left == 0:
                    break
                clip, drawn = self._records[number].id, draw(batch, row)
                self._folder.mkdir(parents=True, exist_ok=True)
                for kind, picture in drawn.files.items():
                    write_image(self._folder / f"{clip}.{kind}.png", picture)
                self.examples.append({"clip": clip, **drawn.facts})
                if len(self.pictures) < self._shown:
                    self.pictures[clip] = drawn.shown
                self._left -= 1
            yield batch

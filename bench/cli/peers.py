"""``kdcmae-bench peers``: what other libraries offer for the same model."""

from __future__ import annotations

import click

from kdcmae.cli.common import KdcmaeCommand, json_option, print_json
from kdcmae.terminal import say, table

__all__ = ["command"]


@click.command(cls=KdcmaeCommand)
@json_option
def command(as_json: bool) -> None:
    """List the peers that engines and checkpoints can be benchmarked against.

    A peer is one Python file in bench/run/peers, or anywhere else: kdcmae-bench out/ov ./mine.py:out/ov.
    """
    from kdcmae.bench.run.peers import all_peers

    peers = all_peers().values()
    if as_json:
        print_json({"peers": [{"name": peer.name, "runs": peer.runs, "needs": peer.needs} for peer in peers]})
    else:
        say(table(("subject", "what it is", "needs"), [(peer.usage, peer.about, peer.needs) for peer in peers]))

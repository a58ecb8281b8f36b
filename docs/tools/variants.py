"""Write the table of measured variants from engines that were just built: ``python docs/tools/variants.py ENGINE...``.

Each engine must have measured its variants itself, on a quiet machine. Its entry replaces the one of the same CPU
class, target and precision.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from kdcmae.compile.tuning import TABLE, measured_table
from kdcmae.runtime.manifest import Manifest

KEY = ("cpu_class", "target", "precision")


def entry_of(manifest: Manifest) -> dict:
    """What an engine measured, as an entry of the table."""
    facts = manifest.build["variants"]
    if facts["origin"] != "measured" or not facts["timings"]:
        raise SystemExit(f"{manifest.target} {manifest.precision['asked']}: nothing was measured by this build")
    return {
        "cpu_class": facts["cpu_class"],
        "target": manifest.target,
        "precision": manifest.precision["asked"],
        "chosen": facts["chosen"],
        "measured_on": facts["measured_on"],
        "model": manifest.model["name"],
        "libraries": dict(manifest.libraries),
        "date": manifest.created[:10],
        "timings": [
            {name: round(value, 4) if isinstance(value, float) else value for name, value in timing.items()}
            for timing in facts["timings"]
        ],
    }


def main() -> None:
    entries = [entry_of(Manifest.read(Path(folder))) for folder in sys.argv[1:]]
    new = {tuple(entry[name] for name in KEY): entry for entry in entries}
    kept = {tuple(entry[name] for name in KEY): entry for entry in measured_table()}
    table = [entry for _, entry in sorted({**kept, **new}.items())]
    TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

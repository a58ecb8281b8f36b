"""kdcmae: from a self-supervised audio-visual model to a verified engine inside an app.

The public names below are loaded on first use, so that ``import kdcmae.runtime`` never loads torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kdcmae.extras import missing_dependency

__version__ = "0.1.0"

__all__ = ["KDCMAE", "KDCMAEClassifier", "__version__", "load_classifier", "load_pretrained"]

if TYPE_CHECKING:
    from kdcmae.checkpoints import load_classifier, load_pretrained
    from kdcmae.classifier import KDCMAEClassifier
    from kdcmae.pretraining import KDCMAE

_HOME = {
    "KDCMAE": "kdcmae.pretraining",
    "KDCMAEClassifier": "kdcmae.classifier",
    "load_classifier": "kdcmae.checkpoints",
    "load_pretrained": "kdcmae.checkpoints",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        try:
            return getattr(import_module(_HOME[name]), name)
        except ModuleNotFoundError as error:
            if (missing := missing_dependency(error)) is not None:
                raise missing from error
            raise
    raise AttributeError(f"module 'kdcmae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""Run a compiled engine inside an app: numpy and the engine's own library, nothing else.

>>> engine = load_engine("my-engine")
>>> engine.classify(waveform, 16000, frame)
[Prediction(label='dog barking', score=0.93), ...]

What an app should know without being stopped, such as an engine that executes in another precision here than where it
was built, goes to the logger ``kdcmae.runtime``.
"""

import logging

from kdcmae.runtime.engine import Engine, SelfTest
from kdcmae.runtime.loading import load_engine
from kdcmae.runtime.manifest import Manifest
from kdcmae.runtime.predictions import FileFeatures, FilePredictions, Prediction

__all__ = ["Engine", "FileFeatures", "FilePredictions", "Manifest", "Prediction", "SelfTest", "load_engine"]

logging.getLogger(__name__).addHandler(logging.NullHandler())

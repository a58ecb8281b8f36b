"""The smallest app: load an engine, let it test itself, and name what a clip shows and sounds like."""

import sys

from kdcmae.data.clip import read_clip
from kdcmae.errors import KdcmaeError
from kdcmae.runtime import load_engine


def main(folder: str, video: str) -> int:
    """Print the three best labels of a clip; return an exit code."""
    try:
        with load_engine(folder) as engine:
            result = engine.self_test()
            if not result.passed:
                print(result, file=sys.stderr)
                return 1
            print("self-test passed")
            clip = read_clip(video)
            middle = clip.frames[len(clip.frames) // 2]
            for prediction in engine.classify(clip.waveform, clip.sample_rate_hz, middle, top=3):
                print(f"{prediction.label}: {prediction.score:.2f}")
    except KdcmaeError as error:  # says what failed, the value, and the fix, in one line
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python app.py ENGINE CLIP")
    sys.exit(main(*sys.argv[1:]))

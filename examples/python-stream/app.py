"""A live app: sound and pictures go into a stream as they come, and labels come out four times a second.

Here a clip plays in the place of a camera and a microphone: as fast as the engine takes it, or with ``--live`` at its
own pace. An app with its own capture calls ``push_audio`` and ``push_frame`` from its threads, as ``play`` does.
"""

import sys
import threading
import time

from kdcmae.errors import KdcmaeError
from kdcmae.media.capture import captured, media_file
from kdcmae.runtime import load_engine


def play(video, stream, live):
    """Push a clip into a stream, and end the stream with it."""
    began = time.monotonic()
    try:
        for piece in captured(media_file(video, ("audio", "video"))):
            if live:
                time.sleep(max(0.0, piece.time_s - (time.monotonic() - began)))
            if piece.samples is not None:
                stream.push_audio(piece.samples, piece.time_s, sample_rate=piece.sample_rate_hz)
            else:
                stream.push_frame(piece.frame, piece.time_s)
        stream.finish()
    except KdcmaeError as error:
        print(f"error: {error}", file=sys.stderr)
        stream.close()


def main(folder, video, live=False):
    """Print the best label at every quarter of a second; return an exit code."""
    try:
        with load_engine(folder) as engine:
            overrun = "drop" if live else "block"  # live, what is late is worth nothing; a file waits
            with engine.stream(hop=0.25, window=1.0, top=1, overrun=overrun, patience=5.0) as stream:
                threading.Thread(target=play, args=(video, stream, live), daemon=True).start()
                for result in stream:
                    (best,) = result.predictions
                    print(f"{result.end_s:.2f} s  {best.label}: {best.score:.2f}")
                statistics = stream.statistics
                if statistics.windows:
                    print(f"{statistics.windows} windows, {statistics.dropped_windows} dropped")
    except KdcmaeError as error:  # says what failed, the value, and the fix, in one line
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0 if statistics.windows else 2


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: python app.py ENGINE CLIP [--live]")
    sys.exit(main(*sys.argv[1:3], live="--live" in sys.argv[3:]))

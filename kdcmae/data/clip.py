"""The readers of a clip's sound and frames, which live in :mod:`kdcmae.media.clip`."""

from kdcmae.media.clip import Clip, Decoded, decode, is_clip, read_clip, read_frames, read_waveform

__all__ = ["Clip", "Decoded", "decode", "is_clip", "read_clip", "read_frames", "read_waveform"]

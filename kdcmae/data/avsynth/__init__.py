"""AVSynth: procedural audio-visual clips whose classes need both hearing and seeing, with ground truth.

Twelve classes pair a sound (pitch contour, timbre, rhythm) with a look (shape, texture, motion). Beside the object
that sounds there are up to two silent ones, moving as if they sounded; the sounding one moves with its sound, and the
larger it is, the lower it sounds. Noise, gain, colours, places, sizes, onsets and tempo vary.
"""

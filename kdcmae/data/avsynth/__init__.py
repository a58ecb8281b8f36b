"""AVSynth: procedural audio-visual clips whose classes need both hearing and seeing, with ground truth.

Twelve classes pair a sound (pitch contour, timbre, rhythm) with a look (shape, texture, motion). Beside the object
that sounds there is often a silent one, moving as if it sounded; the sounding one moves with its sound, and the larger
it is, the lower it sounds; the louder, the brighter. Noise, hues, places, sizes, onsets and tempo vary.
"""

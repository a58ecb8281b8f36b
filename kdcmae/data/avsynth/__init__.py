"""AVSynth: procedural audio-visual clips whose classes need both hearing and seeing, with ground truth.

Twelve classes pair a sound (pitch contour, timbre, rhythm) with a look (shape, texture, motion). Beside the object
that sounds there is often a silent one that moves as if it sounded. Sound and look are correlated beyond the class: the
sounding object moves with its sound, a lower pitch makes it larger and redder, and a louder sound makes it brighter. A
silent object has the size and the colours of a sound of its own. Noise, places, saturation, the
colours of textures and backgrounds, onsets and tempo vary.
"""

"""AVSynth: procedural audio-visual clips whose classes need both hearing and seeing, with ground truth.

Twelve classes pair a sound (pitch contour, timbre, rhythm) with a look (shape, texture, motion). Beside the object
that sounds there is often a silent one, moving as if it sounded. What a clip sounds and looks like hang together beyond
its class, and a silent object has the size and the colours of a sound of its own: the sounding object moves with its
sound; the lower that is, the larger and the redder the object; the louder, the brighter. Noise, places, saturation, the
colours of textures and backgrounds, onsets and tempo vary.
"""

"""Integer and 8-bit float engines: which layers are quantised, from which clips, and at what cost in accuracy.

Quantised are the linear layers of the transformer blocks, which hold nearly all of the work: weights per output
channel, activations per tensor. Patch embedding, attention products, norms, softmax, pooling and head keep floating
point: they are small, and the first to lose accuracy.
"""

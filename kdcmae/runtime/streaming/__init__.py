"""A live stream through an engine: sound and frames that arrive in pieces, in; scores at every hop, out."""

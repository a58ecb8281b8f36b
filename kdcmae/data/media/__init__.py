"""Media files through PyAV: opening, checking that they are complete, and decoding. Used by :mod:`kdcmae.data.clip`."""

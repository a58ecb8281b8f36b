"""Media files through PyAV: opening, seeing whether they are whole, and decoding. Used by :mod:`kdcmae.data.clip`."""

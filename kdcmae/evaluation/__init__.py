"""The evaluation tasks of the paper, one file each; data are batches, from :mod:`kdcmae.data` or from memory."""

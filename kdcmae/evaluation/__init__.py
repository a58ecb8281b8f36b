"""The evaluation tasks of the paper, one file each; clips come as batches, from :mod:`kdcmae.data` or from memory."""

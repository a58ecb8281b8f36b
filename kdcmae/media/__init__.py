"""Sound and pictures: resampling and windows in numpy, and the reading of media files through PyAV."""

"""The weights in a checkpoint file: reading the file safely and finding one model's weights in it."""

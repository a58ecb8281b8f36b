"""Clips and labels: manifests, decoding, loaders, and synthetic clips."""

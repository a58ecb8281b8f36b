"""Clips: decoding them, and making synthetic ones."""

"""Engines in other forms than their own folder: a page for browsers."""

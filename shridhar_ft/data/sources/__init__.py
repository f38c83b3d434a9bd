"""Readers, one file a format: each yields records lazily and refuses bad input with one sentence."""

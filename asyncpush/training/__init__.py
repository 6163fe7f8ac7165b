"""Uploading from training loops, in the background: one checkpoint after another."""

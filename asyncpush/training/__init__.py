"""Uploading from training loops: in the background, checkpoint after checkpoint."""

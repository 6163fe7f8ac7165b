"""One file to the store, one receipt back: inline, lfs, xet."""

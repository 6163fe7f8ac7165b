"""The hub on disk: git repositories, discussions, buckets. No HTTP; everything here blocks."""

"""The hub on the disk: git repositories and what lies beside them. No HTTP; all of it blocks."""

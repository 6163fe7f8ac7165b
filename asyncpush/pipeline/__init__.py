"""The order of work: plan, hashes, stages, commit, verification. The task groups are here."""

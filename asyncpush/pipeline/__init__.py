"""The order of work: plan, hashes, stages, commit, verification. Task groups live here."""

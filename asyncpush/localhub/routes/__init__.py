"""The API by subject: each module has its `routes`, and each route a name."""

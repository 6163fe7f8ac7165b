"""The API by subject: each module has its `routes`, each route its name."""

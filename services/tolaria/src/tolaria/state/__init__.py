"""The state of a run: captured at fences, kept in memory and on disk, put back after trouble."""

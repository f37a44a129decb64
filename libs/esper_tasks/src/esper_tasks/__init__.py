"""Built-in tasks on real data, and the Task protocol that a user's own task implements."""

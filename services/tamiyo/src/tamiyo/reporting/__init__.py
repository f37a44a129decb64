"""Field reports: exactly one per command, when its observation window closes."""

"""Weatherlight, the orchestrator of Esper: starts, watches and restarts the local stack, routes emergencies."""

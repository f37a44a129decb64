"""Nissa, the observatory of Esper: metrics, alerts and run history."""

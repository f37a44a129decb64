"""Torch-free foundation of Esper: contracts, errors, settings, security, journal, telemetry, workers."""

__version__ = "0.1.0"

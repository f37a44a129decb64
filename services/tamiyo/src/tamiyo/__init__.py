"""Tamiyo, the controller of Esper: policies, risk engine, signed commands, field reports."""

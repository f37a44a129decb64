"""Urza, the library of Esper: blueprints and content-addressed kernels."""

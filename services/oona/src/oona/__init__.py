"""Oona, the broker of Esper: publish and subscribe over Redis Streams."""

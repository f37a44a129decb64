"""Urabrask, the assessor of Esper: runs blueprints and writes their safety data sheets."""

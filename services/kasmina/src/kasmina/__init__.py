"""Kasmina, the executor of Esper: command verification, seed lifecycle, gates, directives."""

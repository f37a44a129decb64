"""Simic, the learner of Esper: turns field reports into policies."""

"""The esper command: the local stack, runs, seeds and the demo."""

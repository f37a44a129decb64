"""Tolaria, the trainer of Esper: runs, epoch loop, rollback, checkpoints."""

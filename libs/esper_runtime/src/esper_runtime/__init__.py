"""What Esper puts beside the model in the training process: sites, seeds, blending, isolation, snapshots."""

"""The main job: a network grows on real data, beside a small and a tuned big one, at equal training FLOPs."""

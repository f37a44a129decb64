"""From what a trial observed to a verdict. Plain Python: no torch, no gRPC."""

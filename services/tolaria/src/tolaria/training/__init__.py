"""The training loop: a plan, small steps, a budget, a learning rate, and numbers about all of it."""

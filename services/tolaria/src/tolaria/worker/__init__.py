"""The worker process of one run: wiring of training thread and mediator thread."""

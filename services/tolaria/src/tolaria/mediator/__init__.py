"""The mediator: the thread of a worker that owns every connection, and what lies between it and the training thread."""

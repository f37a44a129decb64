"""The service: takes runs, keeps their worker processes, passes on orders, serves their events. Never loads torch."""

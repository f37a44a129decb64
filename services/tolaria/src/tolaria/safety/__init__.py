"""What keeps a run from doing harm: emergencies by level, and signals between the processes of one host."""

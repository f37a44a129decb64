"""What a run tells: its events, its status, its metrics. Both threads of a worker report through here."""

"""The standing scenarios: one command measures the same four situations the same way, release after release."""

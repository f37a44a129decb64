"""Growth inside the trainer: directives at fences, evidence about seeds, probes of what they are worth."""

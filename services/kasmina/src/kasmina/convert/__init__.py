"""Between the domain and its messages: one module per message family."""

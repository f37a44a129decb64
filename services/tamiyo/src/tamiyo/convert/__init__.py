"""Between Leyline's messages and Tamiyo's plain data, one module per message family."""

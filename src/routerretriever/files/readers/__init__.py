"""How files are read: one module for each format. Only the child process imports them."""

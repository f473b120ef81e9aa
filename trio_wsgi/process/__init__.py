"""What runs in the process around the server: logging, signals, limits, exit codes. It serves no requests."""

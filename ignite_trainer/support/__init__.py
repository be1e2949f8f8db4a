"""What every room uses and no run is known to: errors, files, processes, memory, text for a terminal."""

"""The report of a diagnosis: one HTML file that works offline, and a server for large sets."""

"""An evaluation for people: plain text, pictures and one HTML page."""

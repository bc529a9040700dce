"""What the archive tells about itself: logs, and how long things take."""

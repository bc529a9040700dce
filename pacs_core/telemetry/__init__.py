"""What the archive tells about itself: logs."""
